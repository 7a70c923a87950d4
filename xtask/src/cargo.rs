//! Calls of cargo for the workspace.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use xtask::{ebpf, workspace};

/// Returns a command that runs cargo in the workspace's root: the cargo that started this program, if one did.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace::root());
    // The variables that describe this program's package must not reach the build scripts and tests of others.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        }) {
            command.env_remove(name);
        }
    }
    command
}

/// Returns the build directory that this program is in.
pub fn target() -> PathBuf {
    env::current_exe()
        .ok()
        .as_deref()
        .and_then(workspace::target_above)
        .unwrap_or_else(|| workspace::root().join("target"))
}

/// Returns the request to build the packet program for this machine.
pub fn ebpf_request() -> ebpf::Request {
    ebpf::Request::for_this_machine(workspace::root(), target())
}

/// Returns `--locked` if there is a lock file.
pub fn locked() -> Option<&'static str> {
    Path::new(&workspace::root())
        .join("Cargo.lock")
        .is_file()
        .then_some("--locked")
}
