//! A stock kernel: found through the package that depends on its newest version, downloaded and unpacked once.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{archive::Archive, release::Release};

/// How long the newest version that was looked up is used without another look-up.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// An unpacked kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its version, as `uname -r` prints it.
    pub version: String,
    /// The compressed kernel.
    pub image: PathBuf,
    /// The folder with its modules.
    pub modules: PathBuf,
}

/// Kernels below a folder, a subfolder for each version.
#[derive(Clone, Debug)]
pub struct Kernels {
    folder: PathBuf,
}

impl Kernels {
    /// Uses this folder.
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The kernel, if it is unpacked and was the newest less than a day ago.
    pub fn recent(&self, release: Release) -> Option<Kernel> {
        let age = fs::metadata(self.note(release))
            .ok()?
            .modified()
            .ok()?
            .elapsed();
        age.is_ok_and(|age| age < LOOKUP_INTERVAL)
            .then(|| self.last(release))
            .flatten()
    }

    /// Looks up the newest version, and downloads it if it is not unpacked yet. If Debian's archive cannot be reached, it returns
    /// the kernel that was fetched last, and prints a note.
    ///
    /// # Errors
    /// No kernel is unpacked, and none can be downloaded.
    pub fn fetch(&self, release: Release) -> Result<Kernel> {
        match self.newest(release) {
            Ok(kernel) => Ok(kernel),
            Err(error) => match self.last(release) {
                Some(kernel) => {
                    println!(
                        "using {}, downloaded earlier, because the newest is not available: {error:#}",
                        kernel.version
                    );
                    Ok(kernel)
                }
                None => Err(error),
            },
        }
    }

    fn newest(&self, release: Release) -> Result<Kernel> {
        let folder = self.folder.join(format!("apt-{release}"));
        let archive = Archive::open(folder, release.suites())?;
        let image = archive
            .depends(release.meta_package())?
            .into_iter()
            .find(|package| is_image(package))
            .with_context(|| {
                format!(
                    "Debian's package {} depends on no kernel",
                    release.meta_package()
                )
            })?;
        let version = image.trim_start_matches(IMAGE);
        ensure!(
            release.includes(version),
            "Debian's package {} brings Linux {version}, not {release}",
            release.meta_package()
        );
        let target = self.folder.join(version);
        if find(&target, version).is_none() {
            // It is unpacked under another name and then renamed: a folder of this name is always complete.
            let partial = self.folder.join(format!("{version}.partial"));
            if partial.exists() {
                fs::remove_dir_all(&partial)
                    .with_context(|| format!("cannot remove {}", partial.display()))?;
            }
            let parts = archive.depends(&image)?;
            for package in [image.clone()]
                .into_iter()
                .chain(parts.into_iter().filter(|part| is_part(part, version)))
            {
                archive.unpack(&package, &partial)?;
            }
            fs::rename(&partial, &target)
                .with_context(|| format!("cannot rename {}", partial.display()))?;
        }
        let kernel = find(&target, version)
            .with_context(|| format!("Debian's package {image} has no kernel or no modules"))?;
        let note = self.note(release);
        fs::write(&note, version).with_context(|| format!("cannot write {}", note.display()))?;
        Ok(kernel)
    }

    /// The kernel that was fetched last.
    fn last(&self, release: Release) -> Option<Kernel> {
        let version = fs::read_to_string(self.note(release)).ok()?;
        find(&self.folder.join(&version), &version)
    }

    /// The file that contains which version was the newest; its age says when.
    fn note(&self, release: Release) -> PathBuf {
        self.folder.join(format!("version-{release}"))
    }
}

/// Prefix of the names of packages with a kernel.
const IMAGE: &str = "linux-image-";

fn is_image(package: &str) -> bool {
    package
        .strip_prefix(IMAGE)
        .is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
}

/// Since 7.x the image's package is empty: the kernel and its modules have one each.
fn is_part(package: &str, version: &str) -> bool {
    ["linux-binary-", "linux-modules-"]
        .iter()
        .any(|part| package.strip_prefix(part) == Some(version))
}

/// Finds the kernel in both layouts that Debian has had.
fn find(folder: &Path, version: &str) -> Option<Kernel> {
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .map(|place| folder.join(place).join(version))
        .find(|modules| modules.is_dir())?;
    let image = [
        folder.join("boot").join(format!("vmlinuz-{version}")),
        modules.join("vmlinuz"),
    ]
    .into_iter()
    .find(|image| image.is_file())?;
    Some(Kernel {
        version: version.into(),
        image,
        modules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_known_by_its_version() {
        assert!(is_image("linux-image-6.1.0-56-cloud-amd64"));
        assert!(!is_image("linux-image-cloud-amd64"));
        assert!(!is_image("linux-base-cloud-amd64"));
        assert!(is_part("linux-modules-7.3.4", "7.3.4"));
        assert!(!is_part("linux-modules-7.3.4-extra", "7.3.4"));
        assert!(!is_part("linux-base-7.3.4", "7.3.4"));
    }

    #[test]
    fn both_layouts_are_found_and_half_a_kernel_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        make("old/boot/vmlinuz-6.1");
        assert_eq!(find(&folder.path().join("old"), "6.1"), None);
        make("old/lib/modules/6.1/modules.builtin");
        make("new/usr/lib/modules/7.3/vmlinuz");
        let found = |name: &str, version| {
            let kernel = find(&folder.path().join(name), version).unwrap();
            let below = |path: PathBuf| {
                let path = path.strip_prefix(folder.path()).unwrap();
                path.display().to_string()
            };
            (below(kernel.image), below(kernel.modules))
        };
        assert_eq!(
            found("old", "6.1"),
            ("old/boot/vmlinuz-6.1".into(), "old/lib/modules/6.1".into())
        );
        assert_eq!(
            found("new", "7.3"),
            (
                "new/usr/lib/modules/7.3/vmlinuz".into(),
                "new/usr/lib/modules/7.3".into()
            )
        );
    }
}
