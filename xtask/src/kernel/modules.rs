//! Kernel modules: which a guest needs, in the order in which they can be loaded.
//!
//! `depmod` makes a list of dependencies on installation; without it, each module's own section `.modinfo` is read.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

/// A module in the order of loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// Its content, uncompressed.
    pub content: Vec<u8>,
}

/// Reads `wanted` and what they need below `folder`. A name that this kernel does not have is left out: what is a
/// module in one kernel is built into another.
///
/// # Errors
/// A module cannot be read.
pub fn load_order(folder: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    index(folder, &mut files)?;
    ensure!(
        !files.is_empty(),
        "there is no kernel module below {}",
        folder.display()
    );
    order(wanted, |name| {
        files.get(name).map(|path| read(path)).transpose()
    })
}

fn order(wanted: &[&str], read: impl Fn(&str) -> Result<Option<Vec<u8>>>) -> Result<Vec<Module>> {
    let mut ordered = Vec::new();
    for name in wanted {
        add(&normal(name), &read, &mut ordered)?;
    }
    Ok(ordered)
}

/// Adds what a module needs, then itself. Modules do not need each other in a circle: depmod refuses that.
fn add(
    name: &str,
    read: &impl Fn(&str) -> Result<Option<Vec<u8>>>,
    ordered: &mut Vec<Module>,
) -> Result<()> {
    if ordered.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let Some(content) = read(name)? else {
        return Ok(());
    };
    for needed in depends(&content) {
        add(&needed, read, ordered)?;
    }
    ordered.push(Module {
        name: name.to_owned(),
        content,
    });
    Ok(())
}

/// Reads the modules that one names in its section `.modinfo`: texts `key=value`, each ended by a zero byte.
fn depends(content: &[u8]) -> Vec<String> {
    content
        .split(|byte| *byte == 0)
        .filter_map(|text| std::str::from_utf8(text).ok())
        .find_map(|text| text.strip_prefix("depends="))
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(normal)
        .collect()
}

/// A module's name as the kernel writes it: file names have hyphens in place of underscores.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn index(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read {}", folder.display()))?
            .path();
        if path.is_symlink() {
            // These links lead to the kernel's sources.
            continue;
        }
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some((name, _)) = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.split_once(".ko"))
        {
            files.insert(normal(name), path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => fs::read(path).with_context(|| format!("cannot read {}", path.display())),
        Some("xz") => {
            let output = Command::new("xz")
                .arg("-dc")
                .arg(path)
                .stdin(Stdio::null())
                .output()
                .context("cannot run xz (Debian's package xz-utils)")?;
            ensure!(
                output.status.success(),
                "xz cannot read {}: {}",
                path.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
            Ok(output.stdout)
        }
        _ => bail!(
            "{} is compressed in a way that is not known here",
            path.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[&str], modules: &[(&str, &str)]) -> Vec<String> {
        let read = |name: &str| {
            let found = modules.iter().find(|(module, _)| normal(module) == name);
            Ok(found.map(|(module, depends)| {
                format!("\x7fELF\0license=GPL\0depends={depends}\0name={module}\0").into_bytes()
            }))
        };
        let ordered = order(wanted, read).unwrap();
        ordered.into_iter().map(|module| module.name).collect()
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let modules = [
            ("ip_vs_rr", "ip_vs"),
            ("ip_vs", "nf_conntrack,libcrc32c,nf_defrag_ipv6"),
            ("nf-conntrack", "nf_defrag_ipv6,nf_defrag_ipv4,libcrc32c"),
            ("nf_defrag_ipv4", ""),
            ("nf_defrag_ipv6", ""),
            ("libcrc32c", ""),
            ("veth", ""),
        ];
        assert_eq!(
            names(&["veth", "ip_vs_rr", "ip_vs"], &modules),
            [
                "veth",
                "nf_defrag_ipv6",
                "nf_defrag_ipv4",
                "libcrc32c",
                "nf_conntrack",
                "ip_vs",
                "ip_vs_rr"
            ]
        );
    }

    #[test]
    fn what_is_built_in_is_left_out() {
        assert_eq!(
            names(
                &["virtio_pci", "virtio-net"],
                &[("virtio_net", "net_failover,virtio_ring")]
            ),
            ["virtio_net"]
        );
    }

    #[test]
    fn only_the_key_counts() {
        assert_eq!(
            depends(b"x=depends=a\0alias=depends\0depends=b-c\0"),
            ["b_c"]
        );
        assert_eq!(depends(b"\x7fELF"), [""; 0]);
    }
}
