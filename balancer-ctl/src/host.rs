//! The host around the data plane: kernel settings that forwarding needs, and what will not work as it stands.

mod diagnosis;
pub(crate) mod ethtool;
pub mod identity;
mod namespace;
mod offload;
pub(crate) mod peer;
mod sysctl;

use std::path::PathBuf;

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
    /// The host of an instance. Changes nothing.
    ///
    /// # Errors
    /// What an earlier daemon noted cannot be read.
    pub fn new(instance: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self {
            sysctls: sysctl::Sysctls::open(instance)?,
            offloads: offload::Offloads::open(instance)?,
            findings: Findings::default(),
        })
    }

    /// Sets what the kernel's own forwarding needs on these interfaces. Packets whose next hop is not known
    /// yet take that way.
    ///
    /// # Errors
    /// A setting cannot be written, or its old value not noted.
    pub fn prepare(&mut self, links: &[Link]) -> anyhow::Result<()> {
        self.sysctls
            .set(links.iter().map(|link| link.name.as_str()))
    }

    /// Switches offloads off that hide from the packet program what it must see, and looks for what will not work.
    ///
    /// # Errors
    /// The kernel refused to say.
    pub fn examine(&mut self, netlink: &mut Netlink, links: &[Link]) -> anyhow::Result<()> {
        let mut findings = diagnosis::examine(netlink, links)?;
        let stay = self.offloads.turn_off(&offload::Kernel, &findings.hiding)?;
        findings.warnings.extend(stay.iter().map(diagnosis::hides));
        for interface in &findings.unseen {
            if !self.findings.unseen.contains(interface) {
                tracing::info!(
                    interface,
                    "the other end of this veth cannot be seen from here: its tx checksum offload must be off"
                );
            }
        }
        self.findings = findings;
        Ok(())
    }

    /// What was found.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.findings.warnings
    }

    /// Whether anything was changed, here or in another network namespace.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.sysctls.is_noted()
    }

    /// The network namespace that was changed, when it is not this one.
    #[must_use]
    pub fn elsewhere(&self) -> Option<PathBuf> {
        self.sysctls.elsewhere()
    }

    /// Puts back what was changed.
    ///
    /// # Errors
    /// A setting cannot be written.
    pub fn put_back(&mut self) -> anyhow::Result<()> {
        let offloads = self.offloads.put_back(&offload::Kernel);
        self.sysctls.put_back().and(offloads)
    }
}
