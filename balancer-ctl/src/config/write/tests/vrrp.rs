//! Any virtual router.

use super::*;
use crate::model::{
    limits::{
        LINK_UP_DELAY, MAX_VIRTUAL_ADDRESSES, OWNER, PRIORITY, RISE_FALL, TRACK_EXEC_INTERVAL,
    },
    vrrp::{
        Checksum, DEFAULT_ADVERTISEMENT_INTERVAL, DEFAULT_ANNOUNCE_INTERVAL, DEFAULT_LINK_UP_DELAY,
        DEFAULT_TRACK_INTERVAL, Failback, Probes, TrackExec, TrackPing, VirtualAddress,
        default_timeout,
    },
};

fn track_exec() -> impl Strategy<Value = TrackExec> {
    let interval = prop_oneof![
        Just(DEFAULT_TRACK_INTERVAL),
        duration(*TRACK_EXEC_INTERVAL.start(), DAY)
    ];
    let counts = (RISE_FALL, RISE_FALL, TRACK_WEIGHT);
    let run = (run(), option::of(word()));
    (run, interval, option::of(1_u32..4), counts).prop_map(
        |((run, user), interval, shorter, (fall, rise, weight))| TrackExec {
            run,
            user,
            interval,
            timeout: shorter.map_or_else(|| default_timeout(interval), |by| interval / by),
            fall,
            rise,
            weight,
        },
    )
}

fn track_ping() -> impl Strategy<Value = TrackPing> {
    let targets = vec(any::<bool>().prop_flat_map(address), 1..4);
    (targets, track_exec()).prop_map(|(mut targets, tries)| {
        targets.sort_unstable();
        targets.dedup();
        TrackPing {
            targets,
            interval: tries.interval,
            timeout: tries.timeout,
            fall: tries.fall,
            rise: tries.rise,
            weight: tries.weight,
        }
    })
}

/// The n-th virtual router; which of the `services` it tracks is not yet decided.
pub(super) fn virtual_router(number: u8) -> impl Strategy<Value = VirtualRouter> {
    let advertised = (1_u64..=4095).prop_map(|hundredths| Duration::from_millis(hundredths * 10));
    let failback = prop_oneof![
        Just(Failback::Never),
        Just(Failback::Immediate),
        Just(Failback::WhenStable),
        duration(SECOND, MAX_TIMEOUT).prop_map(Failback::After),
    ];
    let times = (
        prop_oneof![Just(DEFAULT_ADVERTISEMENT_INTERVAL), advertised],
        option::of(prop_oneof![
            Just(DEFAULT_ANNOUNCE_INTERVAL),
            duration(SECOND, DAY)
        ]),
        prop_oneof![
            Just(DEFAULT_LINK_UP_DELAY),
            duration(Duration::ZERO, *LINK_UP_DELAY.end())
        ],
    );
    let tracked = (
        proptest::collection::btree_set("[a-z0-9]{1,15}", 0..3),
        option::of(track_ping()),
        vec(track_exec(), 0..3),
    );
    let kind = (
        any::<bool>(),
        one_of::<Checksum>(),
        any::<bool>(),
        one_of::<Probes>(),
    );
    let what = (name(), "[a-z0-9.@]{3,15}", PRIORITY, option::of(name()));
    let sizes = (1_u8..=32, 1..=MAX_VIRTUAL_ADDRESSES, 0_usize..3);
    (what, times, failback, tracked, kind, sizes).prop_map(
        move |(what, times, failback, (interfaces, ping, exec), kind, (length, vips, peers))| {
            let (name, interface, priority, group) = what;
            let (v4, checksum, is_owner, probes) = kind;
            let address = |network: u8, host: usize| match v4 {
                true => IpAddr::V4(Ipv4Addr::new(10, 1 + network, number, host as u8)),
                false => Ipv6Addr::from([
                    0xfd01,
                    network.into(),
                    number.into(),
                    0,
                    0,
                    0,
                    0,
                    host as u16,
                ])
                .into(),
            };
            let mut router = VirtualRouter {
                priority,
                advertisement_interval: times.0,
                announce_interval: times.1,
                link_up_delay: times.2,
                failback,
                addresses: (0..vips)
                    .map(|host| {
                        let address = address(0, host);
                        let vip = VirtualAddress { address, length };
                        match vip.unusable_in_network() {
                            None => vip,
                            Some(_) => VirtualAddress::host(address),
                        }
                    })
                    .collect(),
                unicast_peers: (0..peers).map(|host| address(1, host)).collect(),
                group: group.map(|group| format!("{group}{number}")),
                track_interfaces: interfaces.into_iter().collect(),
                track_ping: ping,
                track_exec: exec,
                probes,
                checksum: if v4 { checksum } else { Checksum::default() },
                ..VirtualRouter::new(&format!("{name}{number}"), &interface, number + 1)
            };
            if is_owner || router.is_owner() {
                router.priority = OWNER;
                router.failback = Failback::Never;
                router
                    .track_ping
                    .iter_mut()
                    .for_each(|ping| ping.weight = 0);
                router
                    .track_exec
                    .iter_mut()
                    .for_each(|exec| exec.weight = 0);
            }
            router
        },
    )
}
