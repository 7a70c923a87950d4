//! Finds a Rust compiler that can build for the BPF target: one with the sources of its own core library, which
//! has to be built too. The sources must have exactly the compiler's version.

use std::{
    cmp::Reverse,
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{is_program, program};

/// Oldest Rust that the packet program is written for. Cargo itself refuses less.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

/// Returns the minor version of the oldest usable Rust.
#[must_use]
pub fn oldest_minor() -> u32 {
    OLDEST
        .split('.')
        .nth(1)
        .and_then(|minor| minor.parse().ok())
        .unwrap_or(0)
}

/// A compiler that can build the packet program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// The compiler itself, not rustup's proxy.
    pub rustc: PathBuf,
    /// The cargo to call it with.
    pub cargo: PathBuf,
    /// Its release (`1.96.0`).
    pub release: String,
    /// Major version of the LLVM inside; bpf-linker's must not be older.
    pub llvm: u32,
    /// Whether unstable features, such as `-Zbuild-std`, have to be unlocked.
    pub needs_bootstrap: bool,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rustc {} with LLVM {} ({})",
            self.release,
            self.llvm,
            self.rustc.display()
        )
    }
}

/// The parts of the output of `rustc -vV` that are needed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// `1.96.0`, `1.97.0-nightly`.
    pub release: String,
    /// Minor version: the middle number.
    pub minor: u32,
    /// Whether unstable features are allowed without being unlocked.
    pub unlocked: bool,
    /// LLVM's major version.
    pub llvm: u32,
}

impl Version {
    /// Reads the output of `rustc -vV`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let release = field("release")?.trim().to_string();
        let mut numbers = release.split(['.', '-']);
        let (_major, minor) = (numbers.next()?, numbers.next()?.parse().ok()?);
        let llvm = field("LLVM version")?
            .split('.')
            .next()?
            .trim()
            .parse()
            .ok()?;
        let unlocked = release.contains("nightly") || release.contains("dev");
        Some(Self {
            release,
            minor,
            unlocked,
            llvm,
        })
    }
}

/// The compilers on this machine.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Usable compilers, best first.
    pub usable: Vec<Compiler>,
    /// Other compilers, each with the reason why it cannot be used.
    pub refused: Vec<String>,
}

/// Looks for compilers: `BALANCER_EBPF_RUSTC` alone if set, else the calling build's own, rustup's nightly, the
/// distribution's.
#[must_use]
pub fn find() -> Found {
    let mut found = Found::default();
    let mut sysroots = Vec::new();
    for Candidate { origin, rustc } in candidates() {
        let rustc = match rustc {
            Ok(rustc) => rustc,
            Err(why) => {
                found.refused.push(format!("{origin}: {why}"));
                continue;
            }
        };
        let facts = match inspect(&rustc) {
            Ok(facts) => facts,
            Err(why) => {
                found
                    .refused
                    .push(format!("{origin} ({}): {why}", rustc.display()));
                continue;
            }
        };
        if sysroots.contains(&facts.sysroot) {
            continue;
        }
        match evaluate(&facts) {
            Ok(compiler) => found.usable.push(compiler),
            Err(why) => found
                .refused
                .push(format!("{origin} ({}): {why}", rustc.display())),
        }
        sysroots.push(facts.sysroot);
    }
    found
}

/// A compiler that may be usable.
struct Candidate {
    origin: &'static str,
    rustc: Result<PathBuf, String>,
}

fn candidates() -> Vec<Candidate> {
    if let Some(only) = env::var_os("BALANCER_EBPF_RUSTC").filter(|value| !value.is_empty()) {
        return vec![Candidate {
            origin: "BALANCER_EBPF_RUSTC",
            rustc: Ok(only.into()),
        }];
    }
    let callers = env::var_os("RUSTC")
        .map(PathBuf::from)
        .or_else(|| program("rustc"));
    let mut candidates = vec![
        Candidate {
            origin: "this build's compiler",
            rustc: callers.ok_or_else(|| "there is no rustc in PATH".into()),
        },
        Candidate {
            origin: "rustup's nightly",
            rustc: rustup_nightly(),
        },
    ];
    let distribution = distribution_compilers();
    if distribution.is_empty() {
        candidates.push(Candidate {
            origin: "the distribution's",
            rustc: Err("there is no /usr/bin/rustc".into()),
        });
    }
    candidates.extend(distribution.into_iter().map(|rustc| Candidate {
        origin: "the distribution's",
        rustc: Ok(rustc),
    }));
    candidates
}

fn rustup_nightly() -> Result<PathBuf, String> {
    let Some(rustup) = program("rustup") else {
        return Err("rustup is not installed".into());
    };
    let output = Command::new(rustup)
        .args(["which", "--toolchain", "nightly", "rustc"])
        // rustup must not install a toolchain by being called.
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output()
        .map_err(|error| format!("rustup does not run: {error}"))?;
    if !output.status.success() {
        return Err("not installed".into());
    }
    Ok(PathBuf::from(
        String::from_utf8_lossy(&output.stdout).trim(),
    ))
}

/// Returns `/usr/bin/rustc` and, newest first, versions that stand beside it (`rustc-1.96`).
fn distribution_compilers() -> Vec<PathBuf> {
    let mut compilers: Vec<PathBuf> = ["/usr/bin/rustc", "/usr/local/bin/rustc"]
        .map(PathBuf::from)
        .into_iter()
        .filter(|path| is_program(path))
        .collect();
    let mut versioned: Vec<(u32, PathBuf)> = fs::read_dir("/usr/bin")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry
                    .file_name()
                    .to_str()?
                    .strip_prefix("rustc-1.")?
                    .parse()
                    .ok()?,
                entry.path(),
            ))
        })
        .collect();
    versioned.sort_by_key(|(minor, _)| Reverse(*minor));
    compilers.extend(versioned.into_iter().map(|(_, path)| path));
    compilers
}

/// The properties of a candidate.
#[derive(Clone, Debug)]
struct Facts {
    rustc: PathBuf,
    sysroot: PathBuf,
    version: Option<Version>,
    has_sources: bool,
    own_cargo: Option<PathBuf>,
    other_cargo: Option<PathBuf>,
}

fn inspect(rustc: &Path) -> Result<Facts, String> {
    let ask = |argument: &[&str]| -> Result<String, String> {
        let output = Command::new(rustc)
            .args(argument)
            .output()
            .map_err(|error| format!("does not run: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!(
                "does not run: {}",
                said.lines().next().unwrap_or("it gave no reason")
            ));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
    let version = Version::parse(&ask(&["-vV"])?);
    let in_sysroot =
        |name: &str| Some(sysroot.join("bin").join(name)).filter(|path| is_program(path));
    Ok(Facts {
        // The one in the sysroot is the compiler; `rustc` may be rustup's proxy.
        rustc: in_sysroot("rustc").unwrap_or_else(|| rustc.to_path_buf()),
        version,
        has_sources: sysroot
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .is_file(),
        own_cargo: in_sysroot("cargo"),
        other_cargo: env::var_os("CARGO")
            .map(PathBuf::from)
            .or_else(|| program("cargo")),
        sysroot,
    })
}

/// Decides whether a candidate is usable.
fn evaluate(facts: &Facts) -> Result<Compiler, String> {
    let Some(version) = &facts.version else {
        return Err("`rustc -vV` says nothing that can be read".into());
    };
    if version.minor < oldest_minor() {
        return Err(format!(
            "is {}, too old: {OLDEST} is needed",
            version.release
        ));
    }
    if !facts.has_sources {
        return Err(format!(
            "{} has no sources of the core library in {}/lib/rustlib/src",
            version.release,
            facts.sysroot.display()
        ));
    }
    // Any cargo is usable, but in a stable one unstable options have to be unlocked.
    let (cargo, foreign) = match (&facts.own_cargo, &facts.other_cargo) {
        (Some(cargo), _) => (cargo, false),
        (None, Some(cargo)) => (cargo, true),
        (None, None) => return Err("there is no cargo to call it with".into()),
    };
    Ok(Compiler {
        rustc: facts.rustc.clone(),
        cargo: cargo.clone(),
        release: version.release.clone(),
        llvm: version.llvm,
        needs_bootstrap: foreign || !version.unlocked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: &str = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n\
                          release: 1.96.0\nLLVM version: 22.1.8\n";
    const NIGHTLY: &str = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nrelease: 1.97.0-nightly\nLLVM version: 23.1.4\n";

    fn facts(version: &str) -> Facts {
        Facts {
            rustc: "/x/bin/rustc".into(),
            sysroot: "/x".into(),
            version: Version::parse(version),
            has_sources: true,
            own_cargo: Some("/x/bin/cargo".into()),
            other_cargo: Some("/y/cargo".into()),
        }
    }

    #[test]
    fn the_version_is_read_from_the_compilers_own_words() {
        assert_eq!(
            Version::parse(STABLE),
            Some(Version {
                release: "1.96.0".into(),
                minor: 96,
                unlocked: false,
                llvm: 22
            })
        );
        assert_eq!(
            Version::parse(NIGHTLY),
            Some(Version {
                release: "1.97.0-nightly".into(),
                minor: 97,
                unlocked: true,
                llvm: 23
            })
        );
        assert_eq!(Version::parse("rustc 1.96.0"), None);
        assert_eq!(Version::parse(""), None);
    }

    #[test]
    fn a_stable_compiler_with_sources_needs_unlocking() {
        let compiler = evaluate(&facts(STABLE)).unwrap();
        assert_eq!(
            compiler,
            Compiler {
                rustc: "/x/bin/rustc".into(),
                cargo: "/x/bin/cargo".into(),
                release: "1.96.0".into(),
                llvm: 22,
                needs_bootstrap: true
            }
        );
    }

    #[test]
    fn a_nightly_needs_no_unlocking_unless_cargo_is_anothers() {
        assert!(!evaluate(&facts(NIGHTLY)).unwrap().needs_bootstrap);
        let compiler = evaluate(&Facts {
            own_cargo: None,
            ..facts(NIGHTLY)
        })
        .unwrap();
        assert_eq!(compiler.cargo, PathBuf::from("/y/cargo"));
        assert!(compiler.needs_bootstrap);
    }

    #[test]
    fn the_reason_for_a_refusal_is_named() {
        let old = STABLE.replace("1.96.0", "1.63.0");
        assert_eq!(
            evaluate(&facts(&old)).unwrap_err(),
            format!("is 1.63.0, too old: {OLDEST} is needed")
        );
        let bare = Facts {
            has_sources: false,
            ..facts(STABLE)
        };
        assert_eq!(
            evaluate(&bare).unwrap_err(),
            "1.96.0 has no sources of the core library in /x/lib/rustlib/src"
        );
        let mute = Facts {
            version: None,
            ..facts(STABLE)
        };
        assert_eq!(
            evaluate(&mute).unwrap_err(),
            "`rustc -vV` says nothing that can be read"
        );
        let alone = Facts {
            own_cargo: None,
            other_cargo: None,
            ..facts(STABLE)
        };
        assert_eq!(
            evaluate(&alone).unwrap_err(),
            "there is no cargo to call it with"
        );
    }
}
