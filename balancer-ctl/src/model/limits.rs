//! The ranges of settings, which the validator enforces.

use std::{ops::RangeInclusive, time::Duration};

/// Largest weight of a real server.
pub const MAX_WEIGHT: u32 = 65_535;
/// Shortest idle timeout.
pub const MIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest idle timeout. The packet program compares times as 32-bit numbers of ticks, a thousandth of a
/// second each at the finest: half their range is 24 days.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Largest `upper` and `lower` of a real server, in connections.
pub const MAX_THRESHOLD: u32 = 16_777_216;
/// Connections that the smallest and the largest connection table are sized for.
pub const MAX_CONNECTIONS: RangeInclusive<u32> = 1_024..=16_777_216;
/// Clients that the smallest and the largest table of persistent clients hold, both families together.
pub const MAX_PERSISTENCE: RangeInclusive<u32> = MAX_CONNECTIONS;

/// The default for `max-connections-ipv6`: a quarter of `max-connections`.
#[must_use]
pub fn max_connections_ipv6(max_connections: u32) -> u32 {
    (max_connections / 4).max(*MAX_CONNECTIONS.start())
}

/// Most prefixes in the filters of all services together.
pub const MAX_PREFIXES: usize = balancer_common::filter::MAX_PREFIXES as usize;
/// Connections that a service may let a client open in a second.
pub const RATE: RangeInclusive<u32> = 1..=1_000_000;
/// Largest quorum; far above the weight of any service.
pub const MAX_QUORUM: u32 = 1_000_000_000;
/// Longest slow start, and longest delay until a lost real server's connections are reset.
pub const MAX_DELAY: Duration = DAY;
/// Values of `rise` and `fall`.
pub const RISE_FALL: RangeInclusive<u32> = 1..=100;
/// Time from one probe to the next.
pub const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
/// Time that one probe may take.
pub const PROBE_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;
/// Longest body of a probe's request, in bytes: sockets take so much from us although the server does not read.
pub const MAX_REQUEST_BODY: usize = 64 * 1024;
/// Timeout of a notify program.
pub const NOTIFY_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
/// Time from one report of a condition to the next.
pub const ALERT_EVERY: RangeInclusive<Duration> = Duration::from_secs(1)..=MAX_TIMEOUT;
/// Priority of the node that owns a virtual router's addresses; the largest of the others is one less.
pub const OWNER: u8 = 255;
/// Router ids.
pub const ROUTER_ID: RangeInclusive<u8> = 1..=255;
/// Priorities, the owner's among them.
pub const PRIORITY: RangeInclusive<u8> = 1..=OWNER;
/// Weights of what a virtual router tracks: up to the difference between the largest and the least priority that is no owner's.
pub const TRACK_WEIGHT: RangeInclusive<u8> = 0..=253;
/// Time from one advertisement to the next: what its 12 bits of hundredths of a second hold.
pub const ADVERTISEMENT_INTERVAL: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_millis(40_950);
/// Most VIPs of a virtual router: an advertisement of so many, also of IPv6, fits a packet of 1,280 bytes, the least that every link
/// carries.
pub const MAX_VIRTUAL_ADDRESSES: usize = 64;
/// How long a node may wait until it takes the addresses back.
pub const FAILBACK_AFTER: RangeInclusive<Duration> = Duration::from_secs(1)..=MAX_TIMEOUT;
/// How long a node may listen for an Active one after its interface has come up.
pub const LINK_UP_DELAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(300);
/// Time from one announcement of the addresses to the next.
pub const ANNOUNCE_INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=DAY;
/// Time from one run of a tracked program to the next.
pub const TRACK_EXEC_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=DAY;
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest interface name (`IFNAMSIZ` less its closing zero).
pub const MAX_INTERFACE_NAME: usize = 15;
/// The most nodes that share VIPs, this one included.
pub const MAX_NODES: usize = 4;
