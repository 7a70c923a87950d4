//! Finds `bpf-linker`.

use std::{fmt, path::PathBuf, process::Command};

use super::{is_program, program_folders};

/// A bpf-linker that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linker {
    /// Where it is. Handed to the compiler as it stands, because cargo's folder may be missing from `PATH`.
    pub path: PathBuf,
    /// What it says of itself (`bpf-linker 0.13.0`).
    pub version: String,
}

impl fmt::Display for Linker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.version, self.path.display())
    }
}

/// No linker, and why.
#[derive(Clone, Debug)]
pub struct NotFound {
    /// Each one tried with the reason why not.
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
                return Ok(Linker { path, version });
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
