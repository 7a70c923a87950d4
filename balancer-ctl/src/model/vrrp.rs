//! Virtual routers: which VIPs two nodes share by VRRP, and what decides which of the nodes is Active for them.

pub mod keys;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
    time::Duration,
};

use crate::model::{
    duration,
    limits::{OWNER, PROBE_TIMEOUT},
    names::names,
    prefix,
};

/// A virtual router of RFC 9568 on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualRouter {
    /// Its name, which no other has.
    pub name: String,
    /// Name of the interface that sends advertisements and carries the addresses.
    pub interface: String,
    /// What the nodes that share the addresses know it by, 1 to 255; one per interface and family.
    pub router_id: u8,
    /// The configured priority, 1 to 254: of the nodes that can be Active, the one with the highest is preferred. [`OWNER`] = this node
    /// owns the addresses.
    pub priority: u8,
    /// Time from one advertisement to the next; 10 ms to 40.95 s, in whole hundredths of a second.
    pub advertisement_interval: Duration,
    /// When this node takes the addresses back from an Active node of lower priority; of no meaning for the owner.
    pub failback: Failback,
    /// How long this node listens for an Active one at most after its interface has come up; zero = not longer than ever.
    pub link_up_delay: Duration,
    /// The VIPs, at least one and all of one family, in the order of the file, in which advertisements name them.
    pub addresses: Vec<VirtualAddress>,
    /// The other nodes, where advertisements go to each of them; of the family of the addresses. Empty = they go to the multicast
    /// group.
    pub unicast_peers: Vec<IpAddr>,
    /// The group of virtual routers that are Active together or not at all; they have one `priority` and one `failback`.
    pub group: Option<String>,
    /// Names of interfaces without whose link it is in fault, beside its own.
    pub track_interfaces: Vec<String>,
    /// Addresses that are pinged.
    pub track_ping: Option<TrackPing>,
    /// Virtual services that must be able to answer.
    pub track_services: Vec<TrackService>,
    /// Programs that are run.
    pub track_exec: Vec<TrackExec>,
    /// Which nodes probe the services on its VIPs.
    pub probes: Probes,
    /// How the checksum of IPv4 advertisements is computed; IPv6 has only one way.
    pub checksum: Checksum,
    /// While it is Active, time from one gratuitous ARP (of IPv6: unsolicited neighbour advertisement) of each address to the
    /// next; `None` = only when it becomes Active.
    pub announce_interval: Option<Duration>,
}

/// Priority if none is configured.
pub const DEFAULT_PRIORITY: u8 = 100;
/// Advertisement interval if none is configured.
pub const DEFAULT_ADVERTISEMENT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a node listens after its interface has come up if nothing is configured: as long as a switch port may block that runs the
/// spanning tree protocol with its defaults, twice 15 s.
pub const DEFAULT_LINK_UP_DELAY: Duration = Duration::from_secs(30);
/// Announce interval if none is configured.
pub const DEFAULT_ANNOUNCE_INTERVAL: Duration = Duration::from_secs(60);
/// Weight of what is tracked if none is configured.
pub const DEFAULT_WEIGHT: u8 = 50;
/// Time from one ping or run of a tracked program to the next if none is configured.
pub const DEFAULT_TRACK_INTERVAL: Duration = Duration::from_secs(1);
/// Failures in a row after which something tracked counts as down if none are configured.
pub const DEFAULT_FALL: u32 = 3;
/// Successes in a row after which it counts as up again if none are configured.
pub const DEFAULT_RISE: u32 = 2;

/// The timeout of a ping or of a tracked program for which none is configured: 1 s, or less where they follow each other faster.
#[must_use]
pub fn default_timeout(interval: Duration) -> Duration {
    // A shorter interval is out of range, which the validator reports.
    interval
        .min(Duration::from_secs(1))
        .max(*PROBE_TIMEOUT.start())
}

impl VirtualRouter {
    /// A virtual router with defaults, and without addresses.
    #[must_use]
    pub fn new(name: &str, interface: &str, router_id: u8) -> Self {
        Self {
            name: name.to_owned(),
            interface: interface.to_owned(),
            router_id,
            priority: DEFAULT_PRIORITY,
            advertisement_interval: DEFAULT_ADVERTISEMENT_INTERVAL,
            failback: Failback::default(),
            link_up_delay: DEFAULT_LINK_UP_DELAY,
            addresses: Vec::new(),
            unicast_peers: Vec::new(),
            group: None,
            track_interfaces: Vec::new(),
            track_ping: None,
            track_services: Vec::new(),
            track_exec: Vec::new(),
            probes: Probes::default(),
            checksum: Checksum::default(),
            announce_interval: Some(DEFAULT_ANNOUNCE_INTERVAL),
        }
    }

    /// Whether this node owns the addresses: it is Active whenever it can be.
    #[must_use]
    pub const fn is_owner(&self) -> bool {
        self.priority == OWNER
    }

    /// Whether it is a virtual router of IPv4; `None` without addresses.
    #[must_use]
    pub fn is_ipv4(&self) -> Option<bool> {
        self.addresses.first().map(|first| first.address.is_ipv4())
    }
}

/// A VIP with the length of its network's prefix, as `ip address` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VirtualAddress {
    /// The VIP.
    pub address: IpAddr,
    /// Bits of the network's prefix, 1 to 32 or to 128; all of them = no network comes with the VIP.
    pub length: u8,
}

impl VirtualAddress {
    /// A VIP without a network.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self {
            address,
            length: prefix::whole(address),
        }
    }

    /// Why no machine can have this address as its own in its network, and which it could have; `None` if it can.
    #[must_use]
    pub fn unusable_in_network(&self) -> Option<String> {
        match self.address {
            // The two addresses of a /31 are its hosts' (RFC 3021).
            IpAddr::V4(address) if self.length < 31 => {
                let hosts = u32::MAX >> self.length;
                let network = address.to_bits() & !hosts;
                let what = match address.to_bits() & hosts {
                    0 => "its network's own address",
                    host if host == hosts => "its network's broadcast address",
                    _ => return None,
                };
                Some(format!(
                    "{what}: use one of {} to {}",
                    Ipv4Addr::from_bits(network + 1),
                    Ipv4Addr::from_bits(network + hosts - 1)
                ))
            }
            // There is none in a /127 (RFC 6164).
            IpAddr::V6(address) if self.length < 127 => {
                let is_anycast = address.to_bits() & (u128::MAX >> self.length) == 0;
                is_anycast.then(|| {
                    "the subnet-router anycast address, which every router of its network has: use another of the network"
                        .to_owned()
                })
            }
            _ => None,
        }
    }
}

/// A text that is no VIP.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no address of a virtual router: write `192.0.2.80/24` or `2001:db8::80/64`; without a length it is /32 or /128"
)]
pub struct VirtualAddressError(String);

impl FromStr for VirtualAddress {
    type Err = VirtualAddressError;

    /// Reads `ADDRESS/LENGTH` or `ADDRESS`.
    fn from_str(text: &str) -> Result<Self, VirtualAddressError> {
        let wrong = || VirtualAddressError(text.to_owned());
        let (address, length) = match text.split_once('/') {
            None => (text, None),
            Some((address, length)) => (address, Some(length)),
        };
        let host = Self::host(address.parse().map_err(|_| wrong())?);
        let Some(length) = length else {
            return Ok(host);
        };
        // `u8::from_str` would accept a plus sign.
        let digits = length.bytes().all(|byte| byte.is_ascii_digit());
        let length = length.parse().ok().filter(|_| digits);
        let length = length.filter(|length| (1..=host.length).contains(length));
        Ok(Self {
            length: length.ok_or_else(wrong)?,
            ..host
        })
    }
}

impl fmt::Display for VirtualAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// When a node takes the addresses back from an Active node of lower priority: VRRP's preemption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failback {
    /// Not by itself: who is Active stays so while it can.
    #[default]
    Never,
    /// As soon as it can be Active.
    Immediate,
    /// Once it could have been Active for this long without interruption.
    After(Duration),
    /// Once it could have been Active for a minute, twice as long for each time it failed within the last hour.
    WhenStable,
}

impl fmt::Display for Failback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::Immediate => f.write_str("immediate"),
            Self::After(delay) => write!(f, "after {}", duration::exact(*delay)),
            Self::WhenStable => f.write_str("when-stable"),
        }
    }
}

impl FromStr for Failback {
    type Err = String;

    /// Reads `never`, `immediate`, `after DURATION` or `when-stable`; the error continues a sentence that begins with the key and
    /// the value.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Self::Never),
            "immediate" => Ok(Self::Immediate),
            "when-stable" => Ok(Self::WhenStable),
            _ => text
                .strip_prefix("after ")
                .and_then(|delay| duration::parse(delay.trim()).ok())
                .map(Self::After)
                .ok_or_else(|| {
                    "is not known: expected `never`, `immediate`, `when-stable` or `after DURATION`, as in \"after 10m\""
                        .to_owned()
                }),
        }
    }
}

/// Addresses that are pinged. They count as one: it is up while any of them answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackPing {
    /// The addresses, at least one, of either family; those that are link-local are on the virtual router's interface.
    pub targets: Vec<IpAddr>,
    /// From one ping to the next.
    pub interval: Duration,
    /// How long an answer may take; at most the interval.
    pub timeout: Duration,
    /// Failures in a row after which it is down.
    pub fall: u32,
    /// Successes in a row after which it is up again.
    pub rise: u32,
    /// How much lower the priority is while it is down, 0 to 253; 0 = the virtual router is in fault.
    pub weight: u8,
}

/// A virtual service that must be able to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackService {
    /// The service by name or `tcp/ADDRESS:PORT`.
    pub service: String,
    /// How much lower the priority is while it cannot answer, 0 to 253; 0 = the virtual router is in fault.
    pub weight: u8,
}

/// A program that is run again and again; its exit status 0 is a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackExec {
    /// The program by its absolute path, then its arguments; not a shell's line.
    pub run: Vec<String>,
    /// The user that it runs as; `None` = root.
    pub user: Option<String>,
    /// From the start of one run to the start of the next.
    pub interval: Duration,
    /// Time after which it is killed, which is a failure; at most the interval.
    pub timeout: Duration,
    /// Failures in a row after which it is down.
    pub fall: u32,
    /// Successes in a row after which it is up again.
    pub rise: u32,
    /// How much lower the priority is while it is down, 0 to 253; 0 = the virtual router is in fault.
    pub weight: u8,
}

/// Which nodes probe the services on a virtual router's VIPs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Probes {
    /// All, so that a Backup node knows which real servers are up when it takes over.
    #[default]
    EveryNode,
    /// The one where it is Active: the others keep the states that they know, and probe as soon as they take over.
    ActiveOnly,
}

names!(Probes {
    EveryNode = "every-node",
    ActiveOnly = "active-only",
});

/// How the checksum of an advertisement over IPv4 is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// With a pseudo-header in front, as keepalived computes it.
    #[default]
    PseudoHeader,
    /// Over the advertisement alone, as RFC 9568 says.
    Plain,
}

names!(Checksum {
    PseudoHeader = "pseudo-header",
    Plain = "plain",
});

/// What a virtual router is at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VirtualRouterState {
    /// It has the addresses, and advertises that.
    Active,
    /// Another node has them.
    Backup,
    /// It cannot have them: its interface or something that it tracks is down.
    Fault,
}

names!(VirtualRouterState {
    Active = "active",
    Backup = "backup",
    Fault = "fault",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_with_their_length() {
        for (text, shown) in [
            ("192.168.1.35/24", "192.168.1.35/24"),
            ("192.168.1.35", "192.168.1.35/32"),
            ("2001:db8::80/64", "2001:db8::80/64"),
            ("fe80::1", "fe80::1/128"),
        ] {
            let address: VirtualAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse(), Ok(address));
        }
        for text in [
            "192.168.1.35/33",
            "192.168.1.35/0",
            "192.168.1.35/+24",
            "192.168.1.35/",
            "192.168.1.35/24/1",
            "192.168.1.35:80",
            "2001:db8::80/129",
            "web",
            "",
        ] {
            assert_eq!(
                text.parse::<VirtualAddress>().unwrap_err().to_string(),
                format!(
                    "`{text}` is no address of a virtual router: write `192.0.2.80/24` or `2001:db8::80/64`; without a length \
                     it is /32 or /128"
                )
            );
        }
    }

    #[test]
    fn failback_is_read_and_shown() {
        for failback in [
            Failback::Never,
            Failback::Immediate,
            Failback::After(Duration::from_secs(630)),
            Failback::WhenStable,
        ] {
            assert_eq!(failback.to_string().parse(), Ok(failback));
        }
        assert_eq!(
            "after  10m".parse(),
            Ok(Failback::After(Duration::from_secs(600)))
        );
        for text in ["after", "after ", "10m", "after 10", "always"] {
            assert!(text.parse::<Failback>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_timeout_fits_into_its_interval() {
        for (interval, timeout) in [(0, 1), (100, 100), (1_000, 1_000), (5_000, 1_000)] {
            assert_eq!(
                default_timeout(Duration::from_millis(interval)),
                Duration::from_millis(timeout)
            );
        }
    }
}
