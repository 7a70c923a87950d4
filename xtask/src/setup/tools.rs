//! Programs that the commands run, and the Debian packages they are in.

use std::path::Path;

use xtask::ebpf::program;

/// The command for which a tool is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `cargo xtask run`.
    Run,
    /// `cargo xtask test`.
    Test,
    /// `cargo xtask bench`.
    Bench,
    /// Virtual machines: `cargo xtask test --kernel` and `cargo xtask bench ipvs`.
    Guest,
    /// The Debian package: `cargo xtask dist`.
    Dist,
}

impl Purpose {
    /// All purposes.
    pub const ALL: [Self; 5] = [Self::Run, Self::Test, Self::Bench, Self::Guest, Self::Dist];
}

/// A program or file and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// A program's name, or a file's path.
    pub name: &'static str,
    /// Debian's package.
    pub package: &'static str,
    /// Why it is needed.
    pub why: &'static str,
    purposes: &'static [Purpose],
}

const fn tool(
    name: &'static str,
    package: &'static str,
    why: &'static str,
    purposes: &'static [Purpose],
) -> Tool {
    Tool {
        name,
        package,
        why,
        purposes,
    }
}

use Purpose::{Bench, Dist, Guest, Run, Test};

/// All tools. Debian's package nginx-light has everything that is needed of nginx.
const TOOLS: [Tool; 23] = [
    tool(
        "ip",
        "iproute2",
        "makes the network namespaces",
        &[Run, Test, Bench, Guest],
    ),
    tool(
        "ethtool",
        "ethtool",
        "switches offloads off in the lab",
        &[Run, Test, Bench, Guest],
    ),
    tool(
        "curl",
        "curl",
        "the lab's HTTP client",
        &[Run, Test, Bench, Guest],
    ),
    tool(
        "nsenter",
        "util-linux",
        "enters network namespaces",
        &[Test, Guest],
    ),
    tool(
        "xz",
        "xz-utils",
        "unpacks Debian's kernel modules",
        &[Guest],
    ),
    tool(
        "strip",
        "binutils",
        "makes programs small enough for a virtual machine and for a package",
        &[Guest, Dist],
    ),
    tool(
        "dpkg-shlibdeps",
        "dpkg-dev",
        "finds the libraries that the package depends on",
        &[Dist],
    ),
    tool("ps", "procps", "looks after the lab's processes", &[Test]),
    tool(
        "nginx",
        "nginx-light",
        "real servers, and a balancer to compare with",
        &[Test, Bench],
    ),
    tool(
        "dnsmasq",
        "dnsmasq-base",
        "a DNS server behind a UDP service",
        &[Test],
    ),
    tool(
        "dig",
        "bind9-dnsutils",
        "a DNS client of a UDP service",
        &[Test],
    ),
    tool(
        "bpftool",
        "bpftool",
        "makes the foreign maps that the daemon must refuse",
        &[Test, Guest],
    ),
    tool("sshd", "openssh-server", "greets a probe", &[Test]),
    tool("mariadbd", "mariadb-server-core", "greets a probe", &[Test]),
    tool("redis-server", "redis-server", "answers a probe", &[Test]),
    tool(
        "vsftpd",
        "vsftpd",
        "an FTP server behind a service on every port",
        &[Test],
    ),
    tool("lftp", "lftp", "an FTP client", &[Test]),
    tool(
        "keepalived",
        "keepalived",
        "the other node of a virtual router, and one to compare with",
        &[Test, Bench],
    ),
    tool("wrk", "wrk", "counts requests per second", &[Bench]),
    tool("iperf3", "iperf3", "counts bytes per second", &[Bench]),
    tool("haproxy", "haproxy", "a balancer to compare with", &[Bench]),
    tool(
        "nft",
        "nftables",
        "the kernel's own NAT, beside the balancer and to compare with",
        &[Test, Bench],
    ),
    tool(
        "/usr/lib/nginx/modules/ngx_stream_module.so",
        "libnginx-mod-stream",
        "lets nginx balance connections, to compare with",
        &[Bench],
    ),
];

/// Returns the tools that are needed for `purposes` and missing.
pub fn missing(purposes: &[Purpose], is_installed: impl Fn(&str) -> bool) -> Vec<Tool> {
    let needed = |tool: &Tool| {
        tool.purposes
            .iter()
            .any(|purpose| purposes.contains(purpose))
    };
    TOOLS
        .into_iter()
        .filter(|tool| needed(tool) && !is_installed(tool.name))
        .collect()
}

/// Whether a program or file is there; also looks in folders that are only in root's `PATH`.
pub fn is_installed(name: &str) -> bool {
    name.starts_with('/') && Path::new(name).exists()
        || program(name).is_some()
        || ["/usr/sbin", "/sbin", "/usr/local/sbin"]
            .iter()
            .any(|folder| Path::new(folder).join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(purposes: &[Purpose], installed: &[&str]) -> Vec<&'static str> {
        missing(purposes, |name| installed.contains(&name))
            .iter()
            .map(|tool| tool.package)
            .collect()
    }

    #[test]
    fn running_the_lab_needs_little() {
        assert_eq!(packages(&[Run], &[]), ["iproute2", "ethtool", "curl"]);
        assert_eq!(packages(&[Run], &["ip", "curl"]), ["ethtool"]);
        assert_eq!(packages(&[Run], &["ip", "curl", "ethtool"]), [""; 0]);
    }

    #[test]
    fn the_bench_needs_the_peers_and_the_tests_do_not() {
        let installed = [
            "ip",
            "ethtool",
            "curl",
            "nsenter",
            "ps",
            "nginx",
            "dnsmasq",
            "dig",
            "bpftool",
            "sshd",
            "mariadbd",
            "redis-server",
            "vsftpd",
            "lftp",
            "keepalived",
            "nft",
        ];
        assert_eq!(packages(&[Test], &installed), [""; 0]);
        assert_eq!(
            packages(&[Bench], &installed),
            ["wrk", "iperf3", "haproxy", "libnginx-mod-stream"]
        );
    }
}
