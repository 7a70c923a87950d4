//! The kernel's NAT: its rules, the connections that it tracks, and how many those may be.

use std::{
    fs, io,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::super::packet::{
    network::{REAL_V4, VIP_V4, sysctl},
    target::{REAL_PORT, SERVICE_PORT},
};

/// How many connections the kernel tracks at most, in each namespace; one number for all of them.
const LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// How many connections it tracks in the calling thread's namespace.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// Makes the kernel translate in the calling thread's namespace.
///
/// # Errors
/// `nft` is not installed, or the kernel refused the rules.
pub fn translate() -> Result<()> {
    let rules = format!(
        "table ip balance {{\n  chain in {{\n    type nat hook prerouting priority dstnat;\n    \
         ip daddr {VIP_V4} tcp dport {SERVICE_PORT} dnat to {REAL_V4}:{REAL_PORT}\n  }}\n}}\n"
    );
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("running nft")?;
    let mut stdin = nft.stdin.take().context("nft takes no input")?;
    stdin
        .write_all(rules.as_bytes())
        .context("writing to nft")?;
    drop(stdin);
    let status = nft.wait().context("waiting for nft")?;
    ensure!(status.success(), "nft failed: {status}");
    // Packets of connections whose handshake was not seen are not translated: a frame that arrives proves that its
    // connection is established.
    sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")?;
    // Checksums are not verified, as with a network card that has done so.
    sysctl("net/netfilter/nf_conntrack_checksum", "0")
}

/// Checks that the kernel tracks exactly `count` connections in the calling thread's namespace.
///
/// # Errors
/// It does not.
pub fn expect_tracked(count: u32) -> Result<()> {
    let tracked = read(COUNT)?.with_context(|| format!("there is no {COUNT}"))?;
    ensure!(
        tracked == u64::from(count),
        "the measurement is void: the kernel tracks {tracked} connections instead of {count}"
    );
    Ok(())
}

/// A raised limit of tracked connections. The old limit is restored when this is dropped.
pub struct Room {
    before: Option<u64>,
}

impl Room {
    /// Raises the limit so that a namespace can have `connections`, if it is lower; called outside of all namespaces.
    ///
    /// # Errors
    /// The limit cannot be read or set.
    pub fn for_connections(connections: u32) -> Result<Self> {
        // Before connection tracking is loaded there is no limit to raise; its default follows the machine's memory.
        let Some(limit) = read(LIMIT)? else {
            return Ok(Self { before: None });
        };
        let Some(raised) = raised(limit, connections) else {
            return Ok(Self { before: None });
        };
        write(raised)?;
        Ok(Self {
            before: Some(limit),
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(before) = self.before
            && let Err(error) = write(before)
        {
            eprintln!("warning: {LIMIT} should be {before} again: {error:#}");
        }
    }
}

/// The limit that is needed if `limit` is too low; a `limit` of 0 means no limit.
fn raised(limit: u64, connections: u32) -> Option<u64> {
    // More than needed: near its limit the kernel ends connections early.
    let needed = 2 * u64::from(connections);
    (limit != 0 && limit < needed).then_some(needed)
}

fn read(path: &str) -> Result<Option<u64>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {path}")),
        Ok(text) => {
            let number = text.trim().parse();
            number.map(Some).with_context(|| format!("reading {path}"))
        }
    }
}

fn write(limit: u64) -> Result<()> {
    fs::write(LIMIT, limit.to_string()).with_context(|| format!("setting {LIMIT} to {limit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_only_where_it_is_too_low() {
        assert_eq!(raised(262_144, 65_536), None);
        assert_eq!(raised(131_072, 65_536), None);
        assert_eq!(raised(65_536, 65_536), Some(131_072));
        assert_eq!(raised(0, 65_536), None);
    }
}
