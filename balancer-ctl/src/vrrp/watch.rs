//! A thread that follows the interfaces and their addresses, and who else claims VIPs, opens sockets, and tells the virtual routers. It may
//! wait for the kernel, which they must not.

use std::{
    collections::HashSet,
    io,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use super::{
    announce::{ClaimWatch, Heard},
    command::{Command, Commands},
    group::family,
    interfaces::{BOOTING, Interfaces},
    packet::Family,
    ports::{PortKey, Ports},
};
use crate::{
    model::vrrp::VirtualRouter,
    netlink::{Netlink, address, link, monitor::Monitor},
    os::clock,
};

/// How often sockets that could not be opened are tried again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);
/// How often claims are read, in milliseconds.
const CLAIMS_INTERVAL: u16 = 50;
/// The most claims that are read at a time.
const MAX_CLAIMS: usize = 256;

/// Starts the thread in the network namespace of the calling one. It ends with the thread of the virtual routers.
///
/// # Errors
/// The kernel refused.
pub fn start(
    commands: Commands,
    wanted: std::sync::mpsc::Receiver<Vec<VirtualRouter>>,
) -> io::Result<()> {
    thread::Builder::new()
        .name("vrrp-watch".to_owned())
        .spawn(move || {
            let mut watch = Watch {
                commands,
                wanted,
                routers: Vec::new(),
                interfaces: Interfaces::default(),
                claims: Vec::new(),
                ports: Ports::default(),
                opened: clock::now(),
                silent: HashSet::new(),
            };
            while watch.run().is_some() {}
        })?;
    Ok(())
}

struct Watch {
    commands: Commands,
    wanted: std::sync::mpsc::Receiver<Vec<VirtualRouter>>,
    routers: Vec<VirtualRouter>,
    interfaces: Interfaces,
    /// One for each interface and family with virtual routers.
    claims: Vec<((u32, Family), ClaimWatch)>,
    /// The sockets for advertisements.
    ports: Ports,
    /// When they were last to be opened.
    opened: Instant,
    /// Interfaces that have come up, and received nothing since, by their indexes.
    silent: HashSet<u32>,
}

impl Watch {
    /// Watches until the socket for changes fails; `None` = nobody listens any more.
    fn run(&mut self) -> Option<()> {
        let mut monitor = match Monitor::open() {
            Ok(monitor) => monitor,
            Err(error) => {
                tracing::warn!("cannot watch interfaces: {error:#}");
                thread::sleep(Duration::from_secs(1));
                return Some(());
            }
        };
        self.read()?;
        loop {
            let changes = match monitor.wait(CLAIMS_INTERVAL) {
                Ok(changes) => changes,
                Err(error) => {
                    tracing::warn!("cannot watch interfaces: {error}");
                    return Some(());
                }
            };
            let mut is_changed = changes.links || changes.addresses;
            loop {
                match self.wanted.try_recv() {
                    Ok(routers) => {
                        self.routers = routers;
                        is_changed = true;
                    }
                    Err(std::sync::mpsc::TryRecvError::Empty) => break,
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return None,
                }
            }
            let is_due = || clock::now().duration_since(self.opened) >= REOPEN_INTERVAL;
            is_changed |= self.ports.has_problems() && is_due();
            if is_changed {
                self.read()?;
            }
            self.ports.close();
            self.read_claims()?;
        }
    }

    /// Reads the interfaces and tells of them.
    fn read(&mut self) -> Option<()> {
        let read = || -> anyhow::Result<Interfaces> {
            let mut netlink = Netlink::open()?;
            Ok(Interfaces {
                links: link::list(&mut netlink)?,
                addresses: address::list(&mut netlink)?,
            })
        };
        match read() {
            Ok(interfaces) => {
                let old = std::mem::replace(&mut self.interfaces, interfaces);
                // What was received before says nothing of the link now.
                self.read_claims()?;
                let boots = clock::since_boot() < BOOTING;
                self.silent
                    .extend(self.interfaces.come_up_since(&old, boots));
            }
            Err(error) => tracing::warn!("cannot list interfaces: {error:#}"),
        }
        let wanted: HashSet<(u32, Family)> = self
            .routers
            .iter()
            .filter_map(|router| {
                let link = self.interfaces.named(&router.interface)?;
                Some((link.index, family(router)))
            })
            .collect();
        self.claims.retain(|(watched, _)| wanted.contains(watched));
        for key in wanted {
            if self.claims.iter().all(|(watched, _)| *watched != key)
                && let Ok(watch) = ClaimWatch::open(key.0, key.1)
            {
                self.claims.push((key, watch));
            }
        }
        let keys = self.routers.iter();
        let keys = keys.filter_map(|router| PortKey::of(router, &self.interfaces));
        let sockets = self.ports.open(&keys.collect());
        self.opened = clock::now();
        self.commands
            .send(Command::Interfaces(self.interfaces.clone(), sockets))
    }

    fn read_claims(&mut self) -> Option<()> {
        let addresses = self.routers.iter().flat_map(|router| &router.addresses);
        let vips: HashSet<IpAddr> = addresses.map(|one| one.address).collect();
        for ((index, _), watch) in &self.claims {
            let mut told = HashSet::new();
            for _ in 0..MAX_CLAIMS {
                let heard = match watch.read() {
                    Ok(Heard::Nothing) | Err(_) => break,
                    Ok(heard) => heard,
                };
                if self.silent.remove(index) {
                    self.commands.send(Command::Forwards { index: *index })?;
                }
                let Heard::Claim(claim) = heard else {
                    continue;
                };
                if vips.contains(&claim.address) && told.insert((claim.address, claim.mac)) {
                    self.commands.send(Command::Claimed {
                        index: *index,
                        address: claim.address,
                        mac: claim.mac,
                    })?;
                }
            }
        }
        Some(())
    }
}
