//! The threads that watch the lab: the tap at the switch, one for the addresses of each node, and the probe of the VIP.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    cmsg_space,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, NetlinkAddr, SockFlag,
            SockProtocol, SockType, SockaddrIn, bind, recv, recvmsg, sendto, setsockopt, socket,
            sockopt::{RcvBuf, RcvBufForce, ReceiveTimeout, ReceiveTimestampns},
        },
        time::{TimeSpec, TimeVal, TimeValLike as _},
    },
};
use xtask::lab::Namespace;

use super::{
    frame,
    record::{Record, Seen, What, now},
};

/// Time from one probe to the next.
const PACE: Duration = Duration::from_millis(1);
/// How often a thread looks whether it is to end.
const TURN_MS: i64 = 50;
/// Room for what waits in a socket, in bytes.
const ROOM: usize = 8 << 20;
/// Real-time priority of the watching threads, above that of the daemons: they take microseconds, and time what they see.
const PRIORITY: i32 = 20;
/// Type of a frame that leaves by the interface at which it was seen.
const OUTGOING: u8 = 4;
/// Numbers of rtnetlink: the group of changes of IPv4 addresses, the messages of it, and the attribute with the address itself.
const ADDRESSES: u32 = 0x10;
const NEW_ADDRESS: u16 = 20;
const DELETED_ADDRESS: u16 = 21;
const LOCAL: u16 = 2;
/// Lengths of its headers, in bytes: of a message, of an address, of an attribute.
const MESSAGE: usize = 16;
const ADDRESS: usize = 8;
const ATTRIBUTE: usize = 4;

/// The watching threads. They end when this is dropped.
pub struct Watch {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

/// Where what is watched is.
pub struct Places<'a> {
    /// The switch, and its ports to the nodes.
    pub switch: &'a Namespace,
    /// Names of the ports.
    pub ports: [&'a str; 2],
    /// The nodes.
    pub nodes: [&'a Namespace; 2],
    /// From where the VIP is probed.
    pub client: &'a Namespace,
    /// The VIP.
    pub vip: Ipv4Addr,
}

impl Watch {
    /// Starts them. They write what they see to `record`.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn start(places: &Places<'_>, record: &Arc<Record>) -> Result<Self> {
        let mut watch = Self {
            is_over: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        };
        let vip = places.vip;
        let tap = places.switch.run(open_tap)?.context("opening the tap")?;
        let [first, second] = places.ports;
        let ports = [places.switch.index(first)?, places.switch.index(second)?];
        let (over, to) = (Arc::clone(&watch.is_over), Arc::clone(record));
        watch.spawn("tap", move || run_tap(&tap, ports, vip, &to, &over))?;
        for (number, node) in places.nodes.into_iter().enumerate() {
            let changes = node.run(open_addresses)?.context("opening netlink")?;
            let (over, to) = (Arc::clone(&watch.is_over), Arc::clone(record));
            watch.spawn("addresses", move || {
                run_addresses(&changes, number, vip, &to, &over)
            })?;
        }
        let probe = places
            .client
            .run(open_probe)?
            .context("opening the probe")?;
        let over = Arc::clone(&watch.is_over);
        watch.spawn("probe", move || run_probe(&probe, vip, &over))?;
        Ok(watch)
    }

    fn spawn(
        &mut self,
        name: &str,
        work: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let thread = thread::Builder::new().name(name.to_owned());
        let run = move || run_first().and_then(|()| work());
        self.threads
            .push(thread.spawn(run).context("starting a thread")?);
        Ok(())
    }

    /// Fails if a thread has ended.
    ///
    /// # Errors
    /// What ended it is printed when it is dropped.
    pub fn check(&self) -> Result<()> {
        anyhow::ensure!(
            self.threads.iter().all(|thread| !thread.is_finished()),
            "a thread that watches the lab has ended"
        );
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                eprintln!("warning: a thread that watches the lab ended: {error:#}");
            }
        }
    }
}

/// Gives the calling thread a real-time priority.
///
/// # Errors
/// The caller is not root.
pub fn run_first() -> Result<()> {
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: a system call that reads the struct; 0 is the calling thread.
    let failed = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    anyhow::ensure!(
        failed == 0,
        "cannot get a real-time priority: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

fn open_tap() -> nix::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::Packet, SockType::Raw);
    let tap = socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    setsockopt(&tap, ReceiveTimestampns, &true)?;
    setsockopt(&tap, RcvBufForce, &ROOM)?;
    setsockopt(&tap, ReceiveTimeout, &TimeVal::milliseconds(TURN_MS))?;
    Ok(tap)
}

fn run_tap(
    tap: &OwnedFd,
    ports: [u32; 2],
    vip: Ipv4Addr,
    record: &Record,
    over: &AtomicBool,
) -> Result<()> {
    let mut buffer = [0; 128];
    let mut control = cmsg_space!(TimeSpec);
    while !over.load(Ordering::Relaxed) {
        let mut parts = [io::IoSliceMut::new(&mut buffer)];
        let received = recvmsg::<LinkAddr>(
            tap.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        );
        let (from, at, length) = match received {
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => continue,
            Err(error) => return Err(error).context("reading frames"),
            Ok(received) => {
                let at = received.cmsgs()?.find_map(|message| match message {
                    ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
                    _ => None,
                });
                (received.address, at, received.bytes)
            }
        };
        let Some(from) = from.filter(|from| from.pkttype() != OUTGOING) else {
            continue;
        };
        let port = |port: &u32| usize::try_from(*port).is_ok_and(|port| port == from.ifindex());
        let node = ports.iter().position(port);
        let what = frame::read(&buffer[..length.min(buffer.len())], vip);
        if let (Some(node), Some(what)) = (node, what) {
            let at = at.context("the kernel gives frames no time")?;
            record.add(Seen { at, node, what });
        }
    }
    Ok(())
}

fn open_addresses() -> nix::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
    let flags = SockFlag::SOCK_CLOEXEC;
    let changes = socket(family, kind, flags, SockProtocol::NetlinkRoute)?;
    bind(changes.as_raw_fd(), &NetlinkAddr::new(0, ADDRESSES))?;
    setsockopt(&changes, ReceiveTimeout, &TimeVal::milliseconds(TURN_MS))?;
    Ok(changes)
}

/// Follows the addresses of a node, which does not have the VIP at first.
fn run_addresses(
    changes: &OwnedFd,
    node: usize,
    vip: Ipv4Addr,
    record: &Record,
    over: &AtomicBool,
) -> Result<()> {
    let mut buffer = vec![0; 32 << 10];
    let mut has = false;
    while !over.load(Ordering::Relaxed) {
        let length = match recv(changes.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => continue,
            length => length.context("reading changes of addresses")?,
        };
        let at = now();
        for has_it in changes_of(&buffer[..length], vip) {
            // An address whose lifetime is renewed is told too.
            if has_it != has {
                has = has_it;
                let what = if has { What::Set } else { What::Removed };
                record.add(Seen { at, node, what });
            }
        }
    }
    Ok(())
}

/// Whether the VIP is there from then on, for each of the messages that are about it.
fn changes_of(mut messages: &[u8], vip: Ipv4Addr) -> Vec<bool> {
    let mut changes = Vec::new();
    while let Some((message, rest)) = split(messages, MESSAGE) {
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        let mut attributes = message.get(MESSAGE + ADDRESS..).unwrap_or_default();
        while let Some((attribute, rest)) = split_attribute(attributes) {
            let name = u16::from_ne_bytes([attribute[2], attribute[3]]);
            if name == LOCAL && attribute[ATTRIBUTE..] == vip.octets() {
                match kind {
                    NEW_ADDRESS => changes.push(true),
                    DELETED_ADDRESS => changes.push(false),
                    _ => {}
                }
            }
            attributes = rest;
        }
        messages = rest;
    }
    changes
}

/// Splits the first message off, whose length is in its first four bytes.
fn split(bytes: &[u8], least: usize) -> Option<(&[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    part(bytes, usize::try_from(length).ok()?, least)
}

/// Splits the first attribute off, whose length is in its first two bytes.
fn split_attribute(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    part(bytes, usize::from(length), ATTRIBUTE)
}

/// Parts begin at multiples of four bytes.
fn part(bytes: &[u8], length: usize, least: usize) -> Option<(&[u8], &[u8])> {
    let part = bytes.get(..length).filter(|_| length >= least)?;
    let rest = bytes.get(length.next_multiple_of(4)..);
    Some((part, rest.unwrap_or_default()))
}

fn open_probe() -> nix::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::Inet, SockType::Raw);
    let probe = socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?;
    // The answers are seen at the switch; here they are not read.
    setsockopt(&probe, RcvBuf, &0)?;
    Ok(probe)
}

fn run_probe(probe: &OwnedFd, vip: Ipv4Addr, over: &AtomicBool) -> Result<()> {
    let to = SockaddrIn::from(std::net::SocketAddrV4::new(vip, 0));
    let mut number = 0_u16;
    while !over.load(Ordering::Relaxed) {
        // While nobody has the VIP, the kernel may say that it cannot be reached.
        let _ = sendto(
            probe.as_raw_fd(),
            &echo_request(number),
            &to,
            MsgFlags::MSG_DONTWAIT,
        );
        number = number.wrapping_add(1);
        thread::sleep(PACE);
    }
    Ok(())
}

/// An echo request: type 8, code 0, checksum, identifier, sequence number.
fn echo_request(number: u16) -> [u8; 8] {
    const IDENTIFIER: [u8; 2] = [0xba, 0x1a];
    let [high, low] = number.to_be_bytes();
    let mut message = [8, 0, 0, 0, IDENTIFIER[0], IDENTIFIER[1], high, low];
    let words = message.chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let [.., high, low] = (!folded).to_be_bytes();
    message[2..4].copy_from_slice(&[high, low]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(10, 75, 0, 100);

    fn message(kind: u16, address: Ipv4Addr) -> Vec<u8> {
        let label = [&7_u16.to_ne_bytes()[..], &3_u16.to_ne_bytes(), b"lo\0\0"].concat();
        let local = [
            &8_u16.to_ne_bytes()[..],
            &LOCAL.to_ne_bytes(),
            &address.octets(),
        ];
        let body = [&[0; ADDRESS][..], &label, &local.concat()].concat();
        let length = u32::try_from(MESSAGE + body.len()).unwrap();
        let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]];
        [header.concat(), body].concat()
    }

    #[test]
    fn changes_of_the_vip_are_told_from_others() {
        let other = Ipv4Addr::new(10, 75, 0, 1);
        let messages = [
            message(NEW_ADDRESS, other),
            message(NEW_ADDRESS, VIP),
            message(DELETED_ADDRESS, other),
            message(DELETED_ADDRESS, VIP),
            message(24, VIP),
        ]
        .concat();
        assert_eq!(changes_of(&messages, VIP), [true, false]);
    }

    #[test]
    fn messages_that_are_cut_off_end_the_reading() {
        let whole = message(NEW_ADDRESS, VIP);
        for length in 0..whole.len() {
            assert!(changes_of(&whole[..length], VIP).is_empty(), "{length}");
        }
        assert!(changes_of(&[0; 64], VIP).is_empty());
    }

    #[test]
    fn the_checksum_of_a_probe_makes_its_sum_all_ones() {
        for number in [0, 1, 0x1234, u16::MAX] {
            let message = echo_request(number);
            let words = message.chunks(2);
            let sum: u32 = words
                .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
                .sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        }
    }
}
