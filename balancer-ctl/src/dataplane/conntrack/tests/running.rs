//! Sweeps note the clients of running connections.

use super::*;

/// The clients of persistent services are noted that have a connection which is complete and not at its end.
#[test]
fn a_sweep_notes_the_clients_that_have_a_connection() {
    use State::{
        Closed, Closing, Established, FinOriginal, FinReply, SynReceived, SynSent, TimeWait, Udp,
        UdpUnconfirmed, UdpUnreplied,
    };
    let conntrack = tables(64);
    let states = [
        (SynSent, false),
        (SynReceived, false),
        (Established, true),
        (FinOriginal, true),
        (FinReply, true),
        (Closing, false),
        (TimeWait, false),
        (Closed, false),
        (UdpUnreplied, false),
        (UdpUnconfirmed, false),
        (Udp, true),
    ];
    let stickiness = Stickiness {
        mask: Addr([u32::MAX; 4]),
        group: 7,
        timeout: 100,
        zero: 0,
    };
    let mut expected = BTreeSet::new();
    for (number, (state, is_noted)) in (1..).zip(states) {
        let flow = v4(number, state, [0, 0]);
        open(&conntrack.v4, &flow);
        // The same of IPv6, by a real server of IPv6.
        let flow6 = Flow::<[u32; 4]> {
            client: [0x2001, 0, 0, u32::from(number)],
            port: flow.port,
            real: 3,
            state,
            idle: [0, 0],
        };
        open(&conntrack.v6, &flow6);
        if is_noted {
            let is_udp = u32::from(flow.is_udp());
            expected.insert((flow.client.widen().0, real_address(2).0, is_udp));
            expected.insert((flow6.client.widen().0, real_address(3).0, is_udp));
        }
    }
    let noted = |persistent| -> BTreeSet<_> {
        let mut result = SweepResult::empty(REALS as usize, persistent);
        conntrack.sweep(&conntrack.v4, 0, 0..usize::MAX, &at(JIFFIES), &mut result);
        conntrack.sweep(&conntrack.v6, 1, 0..usize::MAX, &at(JIFFIES), &mut result);
        let noted = result.running.into_iter();
        noted
            .inspect(|client| assert_eq!(client.key.group, 7))
            .map(|client| (client.key.client.0, client.server.0, client.is_udp))
            .collect()
    };
    // The real servers of these tests are those of service 0.
    assert_eq!(noted(HashMap::from([(0, stickiness)])), expected);
    assert_eq!(noted(HashMap::from([(1, stickiness)])), BTreeSet::new());
}

#[test]
fn a_sweep_whose_clients_cannot_be_renewed_ends_all_the_same_and_tries_once() {
    let conntrack = tables(8 * (1 << 12));
    for client in 1..100 {
        open(&conntrack.v4, &v4(client, State::Established, [0, 0]));
    }
    let stickiness = Stickiness {
        timeout: 100,
        ..Stickiness::default()
    };
    let persistent = HashMap::from([(0, stickiness)]);
    let mut sweep = Sweep::start([].into(), REALS as usize, persistent);
    let mut tries = 0;
    let mut step = || {
        sweep.step(&conntrack, &at(JIFFIES), |_| {
            tries += 1;
            anyhow::bail!("the kernel refuses")
        })
    };
    let outcome = std::iter::repeat_with(&mut step).find_map(|it| it).unwrap();
    assert_eq!(
        outcome.renewed.unwrap_err().to_string(),
        "the kernel refuses"
    );
    assert_eq!((tries, outcome.counts.families), (1, [99, 0]));
}
