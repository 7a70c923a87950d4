//! Finds a compiler with a matching linker, or says why there is no such pair and how to get one.

use super::{
    compiler::{self, Compiler},
    linker::{self, Linker},
};

/// A compiler with a matching linker.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// Compiler.
    pub compiler: Compiler,
    /// Linker.
    pub linker: Linker,
}

/// Returns the best compiler and a linker that understands it.
///
/// # Errors
/// There is no such pair; the text names each one tried, why not, and the remedy.
pub fn find() -> Result<Toolchain, String> {
    pair(compiler::find(), linker::find())
}

fn pair(
    compilers: compiler::Found,
    linker: Result<Linker, linker::NotFound>,
) -> Result<Toolchain, String> {
    let mut refused = compilers.refused;
    let linker = match linker {
        Ok(linker) => linker,
        Err(linkers) => {
            return Err(explain(
                compilers.usable.is_empty().then_some(&refused),
                Some(&linkers.tried),
            ));
        }
    };
    for compiler in compilers.usable {
        if linker.reads(compiler.llvm) {
            return Ok(Toolchain { compiler, linker });
        }
        refused.push(format!("{compiler}: {linker} is built for an older LLVM"));
    }
    Err(explain(Some(&refused), None))
}

/// Returns what was tried, with the remedy.
fn explain(compilers: Option<&Vec<String>>, linkers: Option<&Vec<String>>) -> String {
    let mut lines = vec!["the packet program cannot be built on this machine:".to_string()];
    for (what, tried) in [
        (
            "no usable Rust compiler that has the sources of its own core library",
            compilers,
        ),
        ("no bpf-linker", linkers),
    ] {
        let Some(tried) = tried else { continue };
        lines.push(format!("- {what}; tried"));
        lines.extend(tried.iter().map(|tried| format!("    {tried}")));
    }
    lines.push("`cargo xtask setup` installs what is missing. By hand:".into());
    if compilers.is_some() {
        lines.push("    rustup toolchain install nightly --component rust-src".into());
        lines.push("    or, on Debian 12: apt-get install rustc-web cargo-web rust-web-src".into());
    }
    lines.push(
        "    cargo install bpf-linker --no-default-features --features llvm-N   (N: the LLVM major that `rustc -vV` \
         of that compiler names)"
            .into(),
    );
    lines.push(
        "Without them: BALANCER_EBPF_OBJECT=FILE embeds an object built elsewhere, BALANCER_EBPF=skip none (enough \
         for check, clippy and editors)"
            .into(),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_compiler(llvm: u32) -> Compiler {
        Compiler {
            rustc: format!("/{llvm}/rustc").into(),
            cargo: format!("/{llvm}/cargo").into(),
            release: "1.99.0".into(),
            llvm,
            needs_bootstrap: true,
        }
    }

    fn a_linker() -> Linker {
        Linker {
            path: "/x/bpf-linker".into(),
            version: "bpf-linker 0.13.0".into(),
            llvm: Some(22),
        }
    }

    #[test]
    fn the_first_compiler_that_the_linker_understands_is_taken() {
        let found = compiler::Found {
            usable: vec![a_compiler(23), a_compiler(22)],
            refused: vec![],
        };
        assert_eq!(
            pair(found, Ok(a_linker())).unwrap().compiler,
            a_compiler(22)
        );
    }

    #[test]
    fn the_explanation_names_each_one_tried_and_the_mend() {
        let none = || compiler::Found {
            usable: vec![],
            refused: vec!["/a/rustc: no sources".into()],
        };
        let one = || compiler::Found {
            usable: vec![a_compiler(22)],
            refused: vec!["/a/rustc: no sources".into()],
        };
        let no_linker = || {
            Err(linker::NotFound {
                tried: vec!["/b/bpf-linker: does not run".into()],
            })
        };
        let said = pair(none(), no_linker()).unwrap_err();
        for part in [
            "/a/rustc: no sources",
            "/b/bpf-linker: does not run",
            "cargo xtask setup",
            "rust-src",
            "cargo install bpf-linker",
            "BALANCER_EBPF_OBJECT",
            "BALANCER_EBPF=skip",
        ] {
            assert!(said.contains(part), "`{part}` is not in:\n{said}");
        }
        let said = pair(one(), no_linker()).unwrap_err();
        assert!(
            !said.contains("rustc: no sources") && said.contains("/b/bpf-linker"),
            "{said}"
        );
        let newer = compiler::Found {
            usable: vec![a_compiler(23)],
            refused: vec![],
        };
        let said = pair(newer, Ok(a_linker())).unwrap_err();
        assert!(
            said.contains("LLVM 23 (/23/rustc)") && said.contains("older LLVM"),
            "{said}"
        );
    }
}
