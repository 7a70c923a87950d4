//! The host around the data plane: kernel settings that forwarding needs, and what will not work as it stands.

mod diagnosis;
mod ethtool;
mod namespace;
mod peer;
mod sysctl;

use std::path::PathBuf;

use crate::netlink::{Netlink, link::Link};

/// What was changed on the host, and what was found wrong with it.
#[derive(Debug)]
pub struct Host {
    sysctls: sysctl::Sysctls,
    warnings: Vec<String>,
}

impl Host {
    /// The host of an instance. Changes nothing.
    ///
    /// # Errors
    /// What an earlier daemon noted cannot be read.
    pub fn new(instance: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self {
            sysctls: sysctl::Sysctls::open(instance)?,
            warnings: Vec::new(),
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

    /// Looks for what will not work.
    ///
    /// # Errors
    /// The kernel refused to say.
    pub fn examine(&mut self, netlink: &mut Netlink, links: &[Link]) -> anyhow::Result<()> {
        self.warnings = diagnosis::examine(netlink, links)?;
        Ok(())
    }

    /// What was found.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
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
        self.sysctls.put_back()
    }
}
