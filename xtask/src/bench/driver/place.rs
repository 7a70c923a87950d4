//! A network namespace without a name, with the packet bench's network in it. It ends with the process, whatever ends
//! that.

use std::{fs::File, net::SocketAddrV4};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use super::super::packet::{
    network::{self, REAL_V4, sysctl},
    runner::Front,
    target::REAL_PORT,
};

/// The calling thread's namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// The namespace, and the programs that drop and count what leaves it.
pub struct Place {
    namespace: File,
    /// Indices of the balancer's interfaces.
    pub interfaces: network::Interfaces,
    far_ends: Front,
}

impl Place {
    /// Builds it; the calling thread is in it afterwards.
    ///
    /// # Errors
    /// The thread lacks the rights, or something was refused.
    pub fn build(own: &[u8], frame: &[u8]) -> Result<Self> {
        let interfaces = network::build()?;
        let namespace = File::open(OWN).with_context(|| format!("opening {OWN}"))?;
        // The real server is reached by the interface that the frames came in by, as in a network with one arm.
        for interface in ["all", network::NEAR] {
            sysctl(&format!("net/ipv4/conf/{interface}/send_redirects"), "0")?;
            sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "0")?;
        }
        let mut far_ends = Front::far_ends(own, frame)?;
        far_ends.await_frames_to(SocketAddrV4::new(REAL_V4, REAL_PORT))?;
        Ok(Self {
            namespace,
            interfaces,
            far_ends,
        })
    }

    /// Moves the calling thread into it.
    ///
    /// # Errors
    /// The thread lacks the rights.
    pub fn enter(&self) -> Result<()> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET).context("entering a network namespace")
    }

    /// Does `work`, and checks that exactly `count` frames reached the real server.
    ///
    /// # Errors
    /// `work` failed, or another number of frames arrived.
    pub fn delivering<T>(&self, count: u64, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.far_ends.awaited()?;
        let result = work()?;
        self.far_ends.expect_awaited(before + count)?;
        Ok(result)
    }
}
