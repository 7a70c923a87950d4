//! Builds the packet program (`balancer-ebpf`) with a compiler that has the core library's sources, which need
//! not be the compiler that builds everything else.
//!
//! `aya-build` does the same, but cannot pass flags of our own: `target-cpu=v3` (32-bit atomics) is needed.

pub mod compiler;
pub mod embed;
pub mod linker;
pub mod toolchain;

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Error, Result, bail};

use self::{compiler::Compiler, linker::Linker, toolchain::Toolchain};

/// The package that is built.
const PACKAGE: &str = "balancer-ebpf";

/// Settings of the child's release profile. They stand here and not in the workspace's profile because they are
/// right for the packet program only: BTF is made from debug information, and a program is one unit of code.
const PROFILE: [(&str, &str); 5] = [
    ("OPT_LEVEL", "3"),
    ("DEBUG", "2"),
    ("LTO", "true"),
    ("CODEGEN_UNITS", "1"),
    ("PANIC", "abort"),
];

/// What to build, and for which kernel.
#[derive(Clone, Debug)]
pub struct Request {
    /// Root of the workspace.
    pub workspace: PathBuf,
    /// The workspace's build directory; the child's is `ebpf` in it, so that debug and release builds, clippy
    /// and tests share one, and its lock is not the one that the calling cargo holds.
    pub target: PathBuf,
    /// Architecture of the kernel that will run it, in Rust's words (`x86_64`).
    pub architecture: String,
    /// Byte order of that kernel.
    pub endian: Endian,
}

/// Byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endian {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

impl Endian {
    fn target(self) -> &'static str {
        match self {
            Self::Little => "bpfel-unknown-none",
            Self::Big => "bpfeb-unknown-none",
        }
    }
}

impl Request {
    /// A request to build for this machine.
    #[must_use]
    pub fn for_this_machine(workspace: PathBuf, target: PathBuf) -> Self {
        let endian = if cfg!(target_endian = "big") {
            Endian::Big
        } else {
            Endian::Little
        };
        Self {
            workspace,
            target,
            architecture: env::consts::ARCH.into(),
            endian,
        }
    }

    /// Returns the files whose change requires a new build.
    #[must_use]
    pub fn sources(&self) -> Vec<PathBuf> {
        let mut sources = Vec::new();
        for package in [PACKAGE, "balancer-common"] {
            sources.push(self.workspace.join(package).join("src"));
            sources.push(self.workspace.join(package).join("Cargo.toml"));
        }
        sources.push(self.workspace.join("Cargo.toml"));
        sources.push(self.workspace.join("Cargo.lock"));
        sources.retain(|path| path.exists());
        sources
    }
}

/// The result of a build.
#[derive(Clone, Debug)]
pub struct Built {
    /// The object that forwards packets.
    pub balancer: PathBuf,
    /// Folder with it and the package's other programs.
    pub folder: PathBuf,
    /// Compiler that was used.
    pub compiler: Compiler,
    /// Linker that was used.
    pub linker: Linker,
}

impl Built {
    /// Returns another program of the package, such as `bench`.
    ///
    /// # Errors
    /// The package has no such program.
    pub fn binary(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        if !path.is_file() {
            bail!(
                "{PACKAGE} has no program `{name}`: there is no {}",
                path.display()
            );
        }
        Ok(path)
    }
}

/// Builds the packet program; the compiler's messages go to standard error.
///
/// # Errors
/// There is no usable compiler or linker (the error names each one tried, why not, and the remedy), or the program
/// does not compile.
pub fn build(request: &Request) -> Result<Built> {
    let Toolchain { compiler, linker } = toolchain::find().map_err(Error::msg)?;
    let mut child = command(&compiler.cargo, &compiler, &linker, request);
    child.args(["build", "--release"]).args(arguments(request));
    let status = child
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {child:?}"))?;
    if !status.success() {
        bail!(
            "the packet program did not compile with {compiler} and {linker}: see what it says above"
        );
    }
    let folder = request
        .target
        .join("ebpf")
        .join(request.endian.target())
        .join("release");
    let built = Built {
        balancer: folder.join("balancer"),
        folder,
        compiler,
        linker,
    };
    built.binary("balancer")?;
    Ok(built)
}

/// Returns a command that runs `program` (cargo, or a tool that calls it) in the environment that the packet
/// program needs. Subcommand and [`arguments`] are the caller's to add.
#[must_use]
pub fn command(program: &Path, compiler: &Compiler, linker: &Linker, request: &Request) -> Command {
    let mut child = Command::new(program);
    for (name, _) in env::vars_os() {
        if !passes(&name) {
            child.env_remove(&name);
        }
    }
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", request.architecture),
        "-Ctarget-cpu=v3".into(),
        // The verifier allows misaligned access if the hardware does; without it each header field is read byte by byte.
        "-Ctarget-feature=+allows-misaligned-mem-access".into(),
        format!("-Clinker={}", linker.path.display()),
        "-Clink-arg=--btf".into(),
    ];
    child
        .current_dir(&request.workspace)
        .env("RUSTC", &compiler.rustc)
        // An empty wrapper also silences one that a configuration file names.
        .env("RUSTC_WRAPPER", "")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .envs(PROFILE.map(|(key, value)| (format!("CARGO_PROFILE_RELEASE_{key}"), value)));
    if compiler.needs_bootstrap {
        child.env("RUSTC_BOOTSTRAP", "1");
    }
    child
}

/// Returns the arguments by which cargo builds (checks, lints) the packet program for its target.
#[must_use]
pub fn arguments(request: &Request) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [
        "--package",
        PACKAGE,
        "-Zbuild-std=core",
        "--target",
        request.endian.target(),
        "--target-dir",
    ]
    .map(OsString::from)
    .into();
    arguments.push(request.target.join("ebpf").into());
    if request.workspace.join("Cargo.lock").is_file() {
        arguments.push("--locked".into());
    }
    arguments
}

/// Tells whether the child may see this variable. Those that describe the calling build would make the child
/// use its compiler, flags or folders; a leftover `RUSTUP_TOOLCHAIN` is the classic one.
fn passes(name: &OsStr) -> bool {
    const CALLERS: [&str; 16] = [
        "CARGO",
        "HOST",
        "LD_LIBRARY_PATH",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTC_LINKER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "TARGET",
    ];
    const CARGO_ITSELF: [&str; 2] = ["CARGO_HOME", "CARGO_MAKEFLAGS"];
    const CARGO_NETWORK: [&str; 3] = ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR"];
    let Some(name) = name.to_str() else {
        return true;
    };
    if name == "RUST_RECURSION_COUNT" || CALLERS.contains(&name) {
        return false;
    }
    !name.starts_with("CARGO_")
        || CARGO_ITSELF.contains(&name)
        || CARGO_NETWORK.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns the folders of `PATH` and, behind them, cargo's own: `cargo install` puts programs there whether or
/// not the shell knows it.
fn program_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    folders.extend(cargo_bin());
    folders.retain(|folder| !folder.as_os_str().is_empty());
    let mut seen = Vec::new();
    folders.retain(|folder| {
        let new = !seen.contains(folder);
        seen.push(folder.clone());
        new
    });
    folders
}

/// Returns the folder into which `cargo install` puts programs.
#[must_use]
pub fn cargo_bin() -> Option<PathBuf> {
    let home = |variable: &str| {
        env::var_os(variable)
            .filter(|value: &OsString| !value.is_empty())
            .map(PathBuf::from)
    };
    home("CARGO_HOME")
        .or_else(|| home("HOME").map(|home| home.join(".cargo")))
        .map(|cargo| cargo.join("bin"))
}

/// Returns the first program of that name in `PATH` or cargo's own folder.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    program_folders()
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_keeps_the_network_and_loses_the_callers_build() {
        for kept in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "CARGO_MAKEFLAGS",
            "CARGO_NET_OFFLINE",
            "CARGO_HTTP_PROXY",
            "CARGO_REGISTRIES_CRATES_IO_PROTOCOL",
            "RUSTUP_HOME",
        ] {
            assert!(passes(OsStr::new(kept)), "{kept}");
        }
        for lost in [
            "CARGO",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_PKG_NAME",
            "RUSTC",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "RUSTC_BOOTSTRAP",
            "TARGET",
        ] {
            assert!(!passes(OsStr::new(lost)), "{lost}");
        }
    }
}
