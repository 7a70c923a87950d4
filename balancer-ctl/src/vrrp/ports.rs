//! The sockets of interfaces, which the virtual routers there share. One thread opens and closes them, another one uses them.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Arc, Mutex},
    time::Instant,
};

use super::{
    announce::Announcer,
    group,
    interfaces::Interfaces,
    packet::Family,
    socket::{Received, VrrpSocket},
};
use crate::{
    model::vrrp::VirtualRouter,
    os::log_rate_limit::{LogRateLimit, MAX_BY_STRANGERS},
};

/// An interface and a family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey {
    /// The interface's name.
    pub interface: String,
    /// Its index.
    pub index: u32,
    /// The family.
    pub family: Family,
}

impl PortKey {
    /// A virtual router's; `None` if its interface is not there.
    #[must_use]
    pub fn of(router: &VirtualRouter, interfaces: &Interfaces) -> Option<Self> {
        let link = interfaces.named(&router.interface)?;
        Some(Self {
            interface: router.interface.clone(),
            index: link.index,
            family: group::family(router),
        })
    }
}

/// The open sockets of all interfaces, as one thread hands them to the other.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    open: Vec<Arc<Port>>,
    /// Why others could not be opened.
    problems: BTreeMap<PortKey, String>,
}

/// The sockets of an interface for a family.
#[derive(Debug)]
pub struct Port {
    key: PortKey,
    socket: VrrpSocket,
    announcer: Announcer,
    /// Whether this host forwards IPv6 packets from there.
    is_router: bool,
    log: Mutex<LogRateLimit>,
}

impl Sockets {
    /// Why a socket could not be opened.
    #[must_use]
    pub fn problem(&self, key: &PortKey) -> Option<String> {
        self.problems.get(key).cloned()
    }

    /// Whether it is not known yet if these can be opened.
    #[must_use]
    pub fn awaits(&self, key: &PortKey) -> bool {
        self.of(key).is_none() && !self.problems.contains_key(key)
    }

    /// The sockets of this interface and family.
    #[must_use]
    pub fn of(&self, key: &PortKey) -> Option<&Port> {
        let mut open = self.open.iter().map(AsRef::as_ref);
        open.find(|port| port.key == *key)
    }

    /// The sockets at this place of [`Self::all`].
    #[must_use]
    pub fn get(&self, number: usize) -> Option<&Port> {
        self.open.get(number).map(AsRef::as_ref)
    }

    /// What becomes readable when an advertisement arrives.
    pub fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.open.iter().map(|port| port.socket.as_fd())
    }
}

/// Opens and closes sockets.
#[derive(Debug, Default)]
pub struct Ports {
    sockets: Sockets,
    /// No longer wanted, and closed here once the other thread has let go of them.
    closing: Vec<Arc<Port>>,
}

impl Ports {
    /// Opens sockets so that these are open, as far as that is possible, and no others.
    pub fn open(&mut self, wanted: &HashSet<PortKey>) -> Sockets {
        let open = std::mem::take(&mut self.sockets.open);
        let (kept, gone) = open
            .into_iter()
            .partition(|port| wanted.contains(&port.key));
        self.sockets.open = kept;
        let gone: Vec<_> = gone;
        self.closing.extend(gone);
        self.sockets.problems.clear();
        for key in wanted {
            if self.sockets.of(key).is_some() {
                continue;
            }
            match Port::open(key.clone()) {
                Ok(port) => self.sockets.open.push(Arc::new(port)),
                Err(error) => {
                    let sentence = format!(
                        "cannot open a socket on interface {}: {error}",
                        key.interface
                    );
                    self.sockets.problems.insert(key.clone(), sentence);
                }
            }
        }
        self.sockets.clone()
    }

    /// Whether some could not be opened.
    #[must_use]
    pub fn has_problems(&self) -> bool {
        !self.sockets.problems.is_empty()
    }

    /// Closes those that nobody uses any more; to be called now and then.
    pub fn close(&mut self) {
        self.closing.retain(|port| Arc::strong_count(port) > 1);
    }
}

impl Port {
    fn open(key: PortKey) -> io::Result<Self> {
        Ok(Self {
            socket: VrrpSocket::open(&key.interface, key.index, key.family)?,
            announcer: Announcer::open(key.index)?,
            is_router: is_router(&key.interface),
            log: Mutex::default(),
            key,
        })
    }

    /// Its interface and family.
    #[must_use]
    pub const fn key(&self) -> &PortKey {
        &self.key
    }

    /// Reads a packet; `None` = there is none.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        self.socket.receive(buffer)
    }

    /// Sends an advertisement.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn send(&self, message: &[u8], source: IpAddr, destination: IpAddr) -> io::Result<()> {
        self.socket.send(message, source, destination)
    }

    /// Tells neighbours that a VIP is at this MAC address.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn announce(&self, vip: IpAddr, mac: [u8; 6]) -> io::Result<()> {
        self.announcer.announce(vip, mac, self.is_router)
    }

    /// Asks who has a VIP.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn probe(&self, vip: IpAddr, mac: [u8; 6]) -> io::Result<()> {
        self.announcer.probe(vip, mac)
    }

    /// Whether another error of it may be logged.
    pub fn may_log(&self, now: Instant) -> bool {
        // Only one thread logs.
        let log = self.log.try_lock();
        log.is_ok_and(|mut log| log.allows(MAX_BY_STRANGERS, now))
    }
}

/// Whether this host forwards IPv6 packets from an interface.
fn is_router(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}
