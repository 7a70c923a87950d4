//! Where the source and its build directory are.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Returns the workspace's root. `cargo run` and `cargo test` say where the package is; run by hand, a binary
/// falls back to where it was compiled.
#[must_use]
pub fn root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    root_above(&package)
}

/// Returns the build directory that holds `inside` (a build script's `OUT_DIR`, a running binary): the nearest
/// folder above that cargo marked as its own.
#[must_use]
pub fn target_above(inside: &Path) -> Option<PathBuf> {
    inside
        .ancestors()
        .skip(1)
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .map(Path::to_path_buf)
}

/// Returns the folder with the lock file at or above `package`, else `package`'s parent.
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
    fn the_root_holds_the_packet_program() {
        assert!(
            root().join("balancer-ebpf/Cargo.toml").is_file(),
            "{}",
            root().display()
        );
    }

    #[test]
    fn a_running_test_lies_in_a_build_directory() {
        let binary = env::current_exe().unwrap();
        let target = target_above(&binary).unwrap();
        assert!(binary.starts_with(&target));
    }
}
