//! Where the source and its build directory are.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Returns the workspace's root: above the package that `cargo run` and `cargo test` name, else, for a binary that is run by hand,
/// above the source it was compiled from.
#[must_use]
pub fn root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    root_above(&package)
}

/// Returns the build directory that holds `inside` (a build script's `OUT_DIR`, a running binary): the nearest
/// folder above it that cargo has marked (`CACHEDIR.TAG`).
#[must_use]
pub fn target_above(inside: &Path) -> Option<PathBuf> {
    inside
        .ancestors()
        .skip(1)
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .map(Path::to_path_buf)
}

/// Returns the nearest folder above `package` that contains the packet program, else `package`'s parent.
fn root_above(package: &Path) -> PathBuf {
    package
        .ancestors()
        .skip(1)
        .find(|folder| folder.join("balancer-ebpf/Cargo.toml").is_file())
        .or_else(|| package.parent())
        .unwrap_or(package)
        .to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_contains_the_packet_program() {
        assert!(
            root().join("balancer-ebpf/Cargo.toml").is_file(),
            "{}",
            root().display()
        );
    }

    #[test]
    fn a_running_test_is_in_a_build_directory() {
        let binary = env::current_exe().unwrap();
        let target = target_above(&binary).unwrap();
        assert!(binary.starts_with(&target));
    }
}
