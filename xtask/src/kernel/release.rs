//! The kernels that `--kernel` can name, and where Debian's archive has them.

use std::fmt;

/// One of Debian's stock kernels (its flavour for virtual machines, `cloud`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Release {
    /// Debian 12's own
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's own
    #[value(name = "6.12")]
    V6_12,
    /// The newest that Debian has for its stable release (backports)
    Newest,
}

impl Release {
    /// The suites that have it, by their path below Debian's mirror: security updates come first to one of their own.
    pub const fn suites(self) -> &'static [Suite] {
        match self {
            Self::V6_1 => {
                const {
                    &[
                        Suite::main("bookworm"),
                        Suite::security("bookworm-security"),
                    ]
                }
            }
            Self::V6_12 => const { &[Suite::main("trixie"), Suite::security("trixie-security")] },
            Self::Newest => const { &[Suite::main("trixie-backports")] },
        }
    }

    /// The package that depends on the newest version of the kernel.
    pub const fn meta_package(self) -> &'static str {
        "linux-image-cloud-amd64"
    }

    /// Whether a kernel of this version (`6.1.0-56-cloud-amd64`) belongs to this release.
    pub fn includes(self, version: &str) -> bool {
        match self {
            Self::V6_1 => version.starts_with("6.1."),
            Self::V6_12 => version.starts_with("6.12."),
            Self::Newest => true,
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Newest => "newest",
        })
    }
}

/// A part of Debian's archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    /// Its name.
    pub name: &'static str,
    /// Whether it is in the archive of security updates.
    pub is_security: bool,
}

impl Suite {
    const fn main(name: &'static str) -> Self {
        Self {
            name,
            is_security: false,
        }
    }

    const fn security(name: &'static str) -> Self {
        Self {
            name,
            is_security: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Parser, ValueEnum as _};

    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[arg(long)]
        kernel: Option<Release>,
    }

    #[test]
    fn each_kernel_is_named_as_it_is_shown() {
        for release in Release::value_variants() {
            let read = Arguments::try_parse_from(["x", "--kernel", &release.to_string()]).unwrap();
            assert_eq!(read.kernel, Some(*release));
        }
        let refused = Arguments::try_parse_from(["x", "--kernel", "5.10"]).unwrap_err();
        let sentence =
            "invalid value '5.10' for '--kernel <KERNEL>'\n  [possible values: 6.1, 6.12, newest]";
        assert!(refused.to_string().contains(sentence), "{refused}");
    }

    #[test]
    fn a_number_is_compared_whole() {
        assert!(Release::V6_1.includes("6.1.0-56-cloud-amd64"));
        assert!(!Release::V6_1.includes("6.12.118+deb13-cloud-amd64"));
        assert!(Release::V6_12.includes("6.12.118+deb13-cloud-amd64"));
        assert!(!Release::V6_12.includes("6.1.0-56-cloud-amd64"));
        assert!(Release::Newest.includes("7.3.4+deb13-cloud-amd64"));
    }
}
