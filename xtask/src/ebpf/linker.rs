//! Finds `bpf-linker`.

use std::{fmt, fs, path::PathBuf, process::Command};

use super::{is_program, program_folders};

/// A bpf-linker that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linker {
    /// Its path, which the compiler is given because cargo's folder may be missing from `PATH`.
    pub path: PathBuf,
    /// Its version as it prints it (`bpf-linker 0.13.0`).
    pub version: String,
    /// Major version of the LLVM library it is linked to; unknown when that is part of it.
    pub llvm: Option<u32>,
}

impl Linker {
    /// Whether it can read the bitcode of a compiler with this LLVM, which must not be newer than its own.
    #[must_use]
    pub fn reads(&self, llvm: u32) -> bool {
        self.llvm.is_none_or(|own| own >= llvm)
    }
}

impl fmt::Display for Linker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.version, self.path.display())
    }
}

/// No usable linker was found.
#[derive(Clone, Debug)]
pub struct NotFound {
    /// Each linker that was tried, with the reason why it cannot be used.
    pub tried: Vec<String>,
}

/// Returns the first bpf-linker in `PATH` or cargo's own folder that runs. One that does not (its LLVM library
/// was upgraded away, say) is refused rather than left to fail in the middle of a build.
///
/// # Errors
/// There is none.
pub fn find() -> Result<Linker, NotFound> {
    let mut tried = Vec::new();
    for folder in program_folders() {
        let path = folder.join("bpf-linker");
        if !is_program(&path) {
            continue;
        }
        match Command::new(&path).arg("--version").output() {
            Ok(output) if output.status.success() => {
                let version = String::from_utf8_lossy(&output.stdout).trim().to_string();
                let llvm = fs::read(&path).ok().and_then(|binary| llvm_major(&binary));
                return Ok(Linker {
                    path,
                    version,
                    llvm,
                });
            }
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                tried.push(format!("{}: does not run: {}", path.display(), said.trim()));
            }
            Err(error) => tried.push(format!("{}: does not run: {error}", path.display())),
        }
    }
    if tried.is_empty() {
        let folders: Vec<_> = program_folders()
            .iter()
            .map(|folder| folder.display().to_string())
            .collect();
        tried.push(format!("bpf-linker: not in any of {}", folders.join(", ")));
    }
    Err(NotFound { tried })
}

/// Reads the LLVM version from the library's name in the binary: `libLLVM.so.22.1`, `libLLVM-16.so`.
fn llvm_major(binary: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"libLLVM";
    binary
        .windows(NAME.len())
        .enumerate()
        .filter(|(_, window)| *window == NAME)
        .find_map(|(at, _)| {
            let rest = &binary[at + NAME.len()..];
            let rest = rest
                .strip_prefix(b".so.")
                .or_else(|| rest.strip_prefix(b"-"))?;
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_in_the_librarys_name() {
        assert_eq!(llvm_major(b"\0libc.so.6\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_major(b"libLLVM-16.so"), Some(16));
        assert_eq!(llvm_major(b"libLLVM is not found libLLVM.so.23"), Some(23));
        assert_eq!(llvm_major(b"libLLVM.so."), None);
        assert_eq!(llvm_major(b"static"), None);
    }

    #[test]
    fn a_linker_reads_its_own_llvm_and_older() {
        let linker = |llvm| Linker {
            path: "/x".into(),
            version: "bpf-linker 0.13.0".into(),
            llvm,
        };
        assert!(linker(Some(22)).reads(22) && linker(Some(22)).reads(21) && linker(None).reads(99));
        assert!(!linker(Some(22)).reads(23));
    }
}
