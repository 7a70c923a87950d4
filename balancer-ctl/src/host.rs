//! The host around the data plane: kernel settings that forwarding needs, and host settings that do not work with it.

mod diagnosis;
pub(crate) mod ethtool;
pub mod identity;
mod namespace;
mod offload;
pub(crate) mod peer;
mod sysctl;

use std::{ops::RangeInclusive, path::PathBuf};

use self::diagnosis::Findings;
use crate::netlink::{Netlink, link::Link};

/// What was changed on the host, and what was found wrong with it.
#[derive(Debug)]
pub struct Host {
    sysctls: sysctl::Sysctls,
    offloads: offload::Offloads,
    findings: Findings,
}

impl Host {
    /// Reads what an instance has changed on the host. Changes nothing.
    ///
    /// # Errors
    /// A note of an earlier daemon cannot be read.
    pub fn new(instance: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self {
            sysctls: sysctl::Sysctls::open(instance)?,
            offloads: offload::Offloads::open(instance)?,
            findings: Findings::default(),
        })
    }

    /// Sets the sysctls that the kernel's own forwarding needs on these interfaces. Packets whose next hop is not
    /// resolved yet are forwarded by the kernel.
    ///
    /// # Errors
    /// A setting cannot be written, or its old value cannot be noted.
    pub fn prepare(&mut self, links: &[Link]) -> anyhow::Result<()> {
        self.sysctls
            .set(links.iter().map(|link| link.name.as_str()))
    }

    /// Leaves the host's own sockets that name no port these ones, as far as they may have them, or what they had. `None` where nothing
    /// changes.
    ///
    /// # Errors
    /// A setting cannot be written, or its old value cannot be noted.
    pub fn leave_local_ports(
        &mut self,
        ports: Option<RangeInclusive<u16>>,
    ) -> Option<anyhow::Result<()>> {
        self.sysctls.leave_local_ports(ports)
    }

    /// Switches off offloads that hide parts of frames from the packet program, and looks for settings that do not
    /// work.
    ///
    /// # Errors
    /// The kernel refused a query.
    pub fn examine(&mut self, netlink: &mut Netlink, links: &[Link]) -> anyhow::Result<()> {
        let mut findings = diagnosis::examine(netlink, links)?;
        let stay = self.offloads.turn_off(&offload::Kernel, &findings.hiding)?;
        findings
            .warnings
            .extend(stay.iter().map(diagnosis::hiding_warning));
        for interface in &findings.unseen_peers {
            if !self.findings.unseen_peers.contains(interface) {
                tracing::info!(
                    interface,
                    "the other end of this veth cannot be seen from here: its tx checksum offload must be off"
                );
            }
        }
        self.findings = findings;
        Ok(())
    }

    /// The warnings of the last examination.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.findings.warnings
    }

    /// The warnings of the last examination that concern packets of one family only: IPv4, IPv6.
    #[must_use]
    pub const fn family_warnings(&self) -> &[Vec<String>; 2] {
        &self.findings.family_warnings
    }

    /// Whether anything was changed, here or in another network namespace.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.sysctls.has_note()
    }

    /// The file of the network namespace that was changed, when it is not this one.
    #[must_use]
    pub fn other_namespace(&self) -> Option<PathBuf> {
        self.sysctls.other_namespace()
    }

    /// Restores the settings that were changed.
    ///
    /// # Errors
    /// A setting cannot be written.
    pub fn restore(&mut self) -> anyhow::Result<()> {
        let offloads = self.offloads.restore(&offload::Kernel);
        self.sysctls.restore().and(offloads)
    }
}
