//! The sockets of interfaces, which the virtual routers there share.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    fs, io,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd},
    time::Instant,
};

use crate::{
    os::log_rate_limit::{LogRateLimit, MAX_BY_STRANGERS},
    vrrp::{
        announce::Announcer,
        packet::Family,
        socket::{Received, VrrpSocket},
    },
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

/// The open sockets.
#[derive(Debug, Default)]
pub struct Ports {
    open: Vec<Port>,
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
    log: RefCell<LogRateLimit>,
}

impl Ports {
    /// Opens and closes sockets so that exactly these are open.
    pub fn open(&mut self, wanted: &HashSet<PortKey>) {
        self.open.retain(|port| wanted.contains(&port.key));
        self.problems.clear();
        for key in wanted {
            if self.of(key).is_some() {
                continue;
            }
            match Port::open(key.clone()) {
                Ok(port) => self.open.push(port),
                Err(error) => {
                    let sentence = format!(
                        "cannot open a socket on interface {}: {error}",
                        key.interface
                    );
                    self.problems.insert(key.clone(), sentence);
                }
            }
        }
    }

    /// Why a socket could not be opened.
    #[must_use]
    pub fn problem(&self, key: &PortKey) -> Option<String> {
        self.problems.get(key).cloned()
    }

    /// The sockets of this interface and family.
    #[must_use]
    pub fn of(&self, key: &PortKey) -> Option<&Port> {
        self.open.iter().find(|port| port.key == *key)
    }

    /// The sockets at this place of [`Self::sockets`].
    #[must_use]
    pub fn get(&self, number: usize) -> Option<&Port> {
        self.open.get(number)
    }

    /// What becomes readable when an advertisement arrives.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.open.iter().map(|port| port.socket.as_fd())
    }
}

impl Port {
    fn open(key: PortKey) -> io::Result<Self> {
        Ok(Self {
            socket: VrrpSocket::open(&key.interface, key.index, key.family)?,
            announcer: Announcer::open(key.index)?,
            is_router: is_router(&key.interface),
            log: RefCell::default(),
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
        self.log.borrow_mut().allows(MAX_BY_STRANGERS, now)
    }
}

/// Whether this host forwards IPv6 packets from an interface.
fn is_router(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}
