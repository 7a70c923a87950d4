//! A network on one machine: namespaces, veth pairs between them, and programs that run inside. `cargo xtask run`,
//! `cargo xtask bench lab` and the tests build their topologies from these parts.
//!
//! Everything made here is a guard, which removes what it made when it is dropped. All of it needs root.
//!
//! XDP on a veth has demands that real cards do not have. Frames that the packet program sends carry no
//! checksum-offload state, so ends that make traffic must compute checksums themselves
//! ([`Namespace::plain_frames`]). A veth takes redirected frames only if its peer polls
//! ([`Namespace::polling`]), and frames that go back where they came from (one arm) only if the peer has an XDP
//! program of its own, whatever it does.

mod link;
mod namespace;
mod process;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

pub use self::{namespace::Namespace, process::Process};

/// Tries `condition` every 10 ms until it holds.
///
/// # Errors
/// It does not hold within `limit`, or it failed. The error contains `what`.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while !condition()? {
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
