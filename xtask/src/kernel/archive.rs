//! Unpacks packages of Debian's archive into a folder of the project: nothing is installed, and the machine's own
//! package lists stay as they are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::ebpf::program;

use super::release::Suite;

/// Debian's keys, with which apt verifies packages.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where packages come from when the machine's own lists name no mirror of Debian.
const MIRROR: &str = "http://deb.debian.org/debian";
/// As [`MIRROR`], for security updates.
const SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";

/// Options of every call of apt: it reads only the lists that are needed, and does not change its user. As root, apt would
/// otherwise download as a user who may not write into the project's folders.
const OPTIONS: [&str; 3] = [
    "Acquire::Languages=none",
    "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
    "APT::Sandbox::User=root",
];

/// Why packages of Debian cannot be downloaded on this machine, if so.
pub fn missing() -> Option<&'static str> {
    if !cfg!(target_arch = "x86_64") {
        return Some(
            "only Debian's kernels for x86-64 are known here, and this is another machine",
        );
    }
    let has_programs = ["apt-get", "apt-cache", "dpkg-deb"]
        .iter()
        .all(|name| program(name).is_some());
    if !has_programs {
        return Some("this is no Debian or Ubuntu: apt-get, apt-cache and dpkg-deb are needed");
    }
    if !Path::new(KEYRING).is_file() {
        return Some("Debian's keys are not here: install the package debian-archive-keyring");
    }
    None
}

/// Suites of Debian's archive with lists of their own, whatever release this machine runs.
#[derive(Debug)]
pub struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// Reads the suites' lists into `folder`.
    ///
    /// # Errors
    /// The mirror cannot be reached or has no such suite.
    pub fn open(folder: PathBuf, suites: &[Suite]) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            make(&folder.join(part))?;
        }
        let mirrors = mirrors();
        let sources: String = suites.iter().map(|suite| source(suite, &mirrors)).collect();
        write(&folder.join("sources.list"), &sources)?;
        // A machine has packages installed that these suites do not have.
        write(&folder.join("status"), "")?;
        let archive = Self { folder };
        call(archive.command("apt-get").args(["update", "--quiet=2"]))
            .context("cannot read Debian's package lists")?;
        Ok(archive)
    }

    /// The packages that `package` depends on directly.
    ///
    /// # Errors
    /// There is no such package.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let output = call(self.command("apt-cache").args(["depends", package]))
            .with_context(|| format!("Debian has no package {package}"))?;
        Ok(parse_depends(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Downloads a package and unpacks it into `target`.
    ///
    /// # Errors
    /// It cannot be downloaded or unpacked.
    pub fn unpack(&self, package: &str, target: &Path) -> Result<()> {
        let folder = self.folder.join("download");
        remake(&folder)?;
        println!("> apt-get download {package}");
        call(
            self.command("apt-get")
                .args(["download", "--quiet=2", package])
                .current_dir(&folder),
        )?;
        unpack_all(&folder, target)?;
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (option, path) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "none"),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ] {
            let path = self.folder.join(path);
            command
                .arg("-o")
                .arg(format!("{option}={}", path.display()));
        }
        command.args(OPTIONS.map(|option| format!("-o{option}")));
        command.env("LC_ALL", "C");
        command
    }
}

/// Downloads packages of this machine's own release with all they need that is not installed, and unpacks them into
/// `target`. The release's lists are read into `folder`: the machine's own may be old, and are root's.
///
/// # Errors
/// The release does not have them, or the mirror cannot be reached.
pub fn unpack_with_needs(packages: &[&str], folder: &Path, target: &Path) -> Result<()> {
    remake(&folder.join("lists/partial"))?;
    let archives = folder.join("archives");
    make(&archives.join("partial"))?;
    let command = || {
        let mut command = Command::new("apt-get");
        for (option, path) in [
            ("Dir::State::lists", folder.join("lists")),
            ("Dir::Cache", folder.to_path_buf()),
        ] {
            command
                .arg("-o")
                .arg(format!("{option}={}", path.display()));
        }
        // It changes nothing of the system, so it takes no lock, and needs no root.
        command.args(["-o", "Debug::NoLocking=true"]);
        command.args(OPTIONS.map(|option| format!("-o{option}")));
        command.env("LC_ALL", "C");
        command
    };
    // One of many sources may be unreachable.
    if let Err(error) = call(command().args(["update", "--quiet=2"])) {
        eprintln!("warning: {error:#}");
    }
    println!("> apt-get install --download-only {}", packages.join(" "));
    call(
        command()
            .args(["install", "--yes", "--download-only", "--reinstall"])
            .args(["--quiet=2", "--no-install-recommends"])
            .args(packages),
    )?;
    unpack_all(&archives, target)?;
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

fn unpack_all(folder: &Path, target: &Path) -> Result<()> {
    make(target)?;
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut unpacked = 0;
    for entry in entries {
        let path = entry.context("cannot read the downloaded packages")?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            call(Command::new("dpkg-deb").arg("-x").arg(&path).arg(target))?;
            unpacked += 1;
        }
    }
    ensure!(unpacked > 0, "apt-get downloaded no package");
    Ok(())
}

/// Base addresses of Debian's archive and of its security updates.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: String,
}

/// The mirrors that this machine uses already.
fn mirrors() -> Mirrors {
    let listed = Command::new("apt-get")
        .args(["indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"])
        .arg("Created-By: Packages")
        .stderr(Stdio::null())
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    parse_mirrors(&listed.unwrap_or_default())
}

fn parse_mirrors(listed: &str) -> Mirrors {
    let find = |label: &str| {
        listed.lines().find_map(|line| {
            let uri = line.strip_prefix("Debian|")?.strip_prefix(label)?;
            Some(uri.strip_prefix('|')?.trim_end_matches('/').to_owned())
        })
    };
    Mirrors {
        main: find("Debian").unwrap_or_else(|| MIRROR.into()),
        security: find("Debian-Security").unwrap_or_else(|| SECURITY_MIRROR.into()),
    }
}

fn source(suite: &Suite, mirrors: &Mirrors) -> String {
    let mirror = if suite.is_security {
        &mirrors.security
    } else {
        &mirrors.main
    };
    format!(
        "deb [arch=amd64 signed-by={KEYRING}] {mirror} {} main\n",
        suite.name
    )
}

/// Reads `apt-cache depends`: the first of alternatives stands for all.
fn parse_depends(listed: &str) -> Vec<String> {
    let mut packages = Vec::new();
    let mut is_alternative = false;
    for line in listed.lines() {
        let line = line.trim_start();
        let (first, of_alternatives) = match line.strip_prefix('|') {
            Some(first) => (first, true),
            None => (line, false),
        };
        let name = first
            .strip_prefix("Depends: ")
            .or_else(|| first.strip_prefix("PreDepends: "));
        if let Some(name) = name
            && !is_alternative
            // Names in angle brackets are virtual packages.
            && !name.starts_with('<')
        {
            packages.push(name.to_owned());
        }
        is_alternative = of_alternatives;
    }
    packages
}

/// Runs a command; its error contains the first error that it printed.
fn call(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, first_error(&said));
    }
    Ok(output)
}

/// The first error in a program's output, in one line; apt prints one for each of dozens of files.
fn first_error(said: &str) -> &str {
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .clone()
        .find(|line| line.starts_with("E:"))
        .or_else(|| lines.next())
        .unwrap_or("it says nothing")
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn remake(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    make(folder)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_and_alternatives_are_not() {
        let listed = "linux-image-7.2.11+deb13-cloud-amd64\n  PreDepends: linux-base\n |Depends: dracut\n \
                      |Depends: <initramfs-tools>\n  Depends: <linux-initramfs-tool>\n  Depends: \
                      linux-binary-7.2.11+deb13-cloud-amd64\n  Breaks: <fwupdate>\n  Suggests: linux-doc-7.2\n";
        assert_eq!(
            parse_depends(listed),
            [
                "linux-base",
                "dracut",
                "linux-binary-7.2.11+deb13-cloud-amd64"
            ]
        );
        assert_eq!(
            parse_depends("linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n"),
            ["linux-image-6.1.0-56-cloud-amd64"]
        );
        assert_eq!(parse_depends(""), [""; 0]);
    }

    #[test]
    fn an_error_is_one_line() {
        let said = "W: old lists\nE: Failed to fetch http://x/a.deb  Could not connect\nE: Failed to fetch http://x/b.deb\n";
        assert_eq!(
            first_error(said),
            "E: Failed to fetch http://x/a.deb  Could not connect"
        );
        assert_eq!(
            first_error("dpkg-deb: error: no archive\n"),
            "dpkg-deb: error: no archive"
        );
        assert_eq!(first_error(""), "it says nothing");
    }

    #[test]
    fn the_machines_own_mirrors_are_used() {
        let listed = "Docker||https://download.docker.com/\nDebian|Debian|http://mirror.example/debian/\n\
                      Debian|Debian-Security|http://mirror.example/security/\n";
        assert_eq!(
            parse_mirrors(listed),
            Mirrors {
                main: "http://mirror.example/debian".into(),
                security: "http://mirror.example/security".into(),
            }
        );
        let none = parse_mirrors("Ubuntu|Ubuntu|http://archive.example/ubuntu/\n");
        assert_eq!(none.main, MIRROR);
        assert_eq!(none.security, SECURITY_MIRROR);
    }

    #[test]
    fn a_suite_becomes_a_line_of_sources() {
        let mirrors = parse_mirrors("");
        let suite = Suite {
            name: "trixie-security",
            is_security: true,
        };
        assert_eq!(
            source(&suite, &mirrors),
            format!(
                "deb [arch=amd64 signed-by={KEYRING}] {SECURITY_MIRROR} trixie-security main\n"
            )
        );
    }
}
