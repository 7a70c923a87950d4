//! Calls of cargo for the workspace.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use xtask::{ebpf, workspace};

/// Returns cargo, the one that started this program if one did, to be run in the workspace's root.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace::root());
    // What cargo said to this program about its package must not reach the next one's build scripts and tests.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        }) {
            command.env_remove(name);
        }
    }
    command
}

/// Returns the build directory: the one this program lies in.
pub fn target() -> PathBuf {
    env::current_exe()
        .ok()
        .as_deref()
        .and_then(workspace::target_above)
        .unwrap_or_else(|| workspace::root().join("target"))
}

/// Asks for the packet program for this machine.
pub fn ebpf_request() -> ebpf::Request {
    ebpf::Request::for_this_machine(workspace::root(), target())
}

/// Returns `--locked` where there is a lock file to keep to.
pub fn locked() -> Option<&'static str> {
    Path::new(&workspace::root())
        .join("Cargo.lock")
        .is_file()
        .then_some("--locked")
}
