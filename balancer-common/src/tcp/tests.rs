use super::*;
use State::{
    Closed, ClosedOriginal, Closing, Established, FinOriginal, FinReply, SynReceived, SynSent,
    TimeWait,
};

const TCP_STATES: [State; 9] = [
    SynSent,
    SynReceived,
    Established,
    FinOriginal,
    FinReply,
    Closing,
    Closed,
    ClosedOriginal,
    TimeWait,
];
/// Sequence number of the SYN|ACK.
const ISN: u32 = 9000;

const fn segment(flags: u8) -> Segment {
    Segment {
        flags,
        sequence: 1001,
        acknowledgement: 9001,
        data: 0,
    }
}

fn after_original(segment: Segment) -> [State; 9] {
    TCP_STATES
        .map(|state| State::from_number(next_original(state as u8, ISN, segment)).expect("a state"))
}

fn after_reply(segment: Segment) -> [State; 9] {
    TCP_STATES
        .map(|state| State::from_number(next_reply(state as u8, ISN, segment)).expect("a state"))
}

#[test]
fn every_transition_by_a_client() {
    use flags::{ACK, FIN, RST, SYN};
    for flags in [SYN, SYN | ACK, SYN | FIN, SYN | RST, SYN | RST | ACK] {
        assert_eq!(after_original(segment(flags)), TCP_STATES, "{flags:x}");
    }
    assert_eq!(
        after_original(segment(ACK)),
        [
            SynSent,
            Established,
            Established,
            FinOriginal,
            FinReply,
            Closing,
            Closed,
            ClosedOriginal,
            TimeWait
        ]
    );
    let wrong = Segment {
        acknowledgement: 1,
        ..segment(ACK)
    };
    assert_eq!(after_original(wrong), TCP_STATES);
    assert_eq!(after_original(segment(0)), TCP_STATES);
    assert_eq!(
        after_original(segment(FIN | ACK)),
        [
            SynSent,
            FinOriginal,
            FinOriginal,
            FinOriginal,
            Closing,
            Closing,
            Closed,
            ClosedOriginal,
            TimeWait
        ]
    );
    assert_eq!(
        after_original(segment(RST)),
        [
            SynSent,
            SynReceived,
            ClosedOriginal,
            ClosedOriginal,
            ClosedOriginal,
            Closing,
            Closed,
            ClosedOriginal,
            TimeWait
        ]
    );
    // The number that is kept stands for the SYN|ACK's or, where a FIN was seen, for what acknowledges that.
    let data = Segment {
        data: 4,
        ..segment(ACK)
    };
    let after = |fin_original, closing| {
        [
            SynSent,
            Established,
            Established,
            fin_original,
            FinReply,
            closing,
            Closed,
            ClosedOriginal,
            TimeWait,
        ]
    };
    assert_eq!(
        after_original(data),
        after(FinOriginal, Closing),
        "sent again"
    );
    let beyond = Segment {
        sequence: ISN - 4,
        ..data
    };
    assert_eq!(after_original(beyond), after(Established, FinReply));
    let last = Segment {
        sequence: ISN - 5,
        ..data
    };
    assert_eq!(after_original(last), after(FinOriginal, Closing));
    let elsewhere = Segment {
        sequence: ISN.wrapping_sub(1 << 21),
        ..data
    };
    assert_eq!(after_original(elsewhere), after(Established, FinReply));
}

#[test]
fn every_transition_by_a_real_server() {
    use flags::{ACK, FIN, RST, SYN};
    for flags in [ACK, 0] {
        for data in [0, 4] {
            let segment = Segment {
                data,
                ..segment(flags)
            };
            assert_eq!(after_reply(segment), TCP_STATES, "{flags:x}");
        }
    }
    let again = Segment {
        sequence: ISN,
        ..segment(SYN | ACK)
    };
    assert_eq!(
        after_reply(again),
        [
            SynReceived,
            SynReceived,
            Established,
            FinOriginal,
            FinReply,
            SynReceived,
            SynReceived,
            SynReceived,
            SynReceived
        ]
    );
    let mut another = [SynReceived; 9];
    another[3] = FinOriginal;
    assert_eq!(after_reply(segment(SYN | ACK)), another);
    assert_eq!(
        after_reply(segment(FIN | ACK)),
        [
            SynSent,
            SynReceived,
            FinReply,
            Closing,
            FinReply,
            Closing,
            Closed,
            ClosedOriginal,
            TimeWait
        ]
    );
    let mut reset = [Closed; 9];
    let continuing = Segment {
        sequence: ISN + 1,
        ..segment(RST)
    };
    assert_eq!(after_reply(continuing), reset);
    reset[1] = SynReceived;
    assert_eq!(after_reply(segment(RST | ACK)), reset);
}

/// The client's FIN is acknowledged by `9001`, which [`segment`] carries.
#[test]
fn only_the_acknowledgement_of_the_clients_fin_ends_a_connection() {
    use flags::{ACK, FIN};
    let after = |state: State, number, flags| {
        State::from_number(next_reply(state as u8, number, segment(flags))).expect("a state")
    };
    for flags in [ACK, FIN | ACK] {
        assert_eq!(after(Closing, 9001, flags), TimeWait, "{flags:x}");
        for another in [9000, 9002, 0, 1 << 31] {
            assert_eq!(after(Closing, another, flags), Closing, "{flags:x}");
        }
    }
    assert_eq!(after(Closing, 9001, 0), Closing);
    assert_eq!(after(Closing, 9001, FIN), Closing);
    assert_eq!(after(FinOriginal, 9001, FIN | ACK), TimeWait);
    assert_eq!(after(FinOriginal, 9001, FIN), Closing);
    assert_eq!(after(FinOriginal, 9001, ACK), FinOriginal);
    // The real server's own FIN while the client still sends.
    assert_eq!(after(Established, 9001, FIN | ACK), FinReply);
    assert_eq!(after(FinReply, 9001, ACK), FinReply);
}

#[test]
fn the_number_of_the_syn_ack_is_kept_and_then_that_of_the_clients_fin() {
    use flags::{ACK, FIN, RST, SYN};
    let kept = |segment, is_original| {
        TCP_STATES.map(|state| next_number(state as u8, state as u8, 7, segment, is_original))
    };
    let data = |flags| Segment {
        data: 4,
        ..segment(flags)
    };
    for segment in [
        segment(ACK),
        data(ACK),
        segment(SYN),
        segment(RST),
        segment(SYN | FIN),
    ] {
        assert_eq!(kept(segment, true), [7; 9], "{segment:?}");
    }
    let fin = |after| [7, 7, 7, after, 7, after, 7, 7, 7];
    assert_eq!(kept(segment(FIN | ACK), true), fin(1002));
    assert_eq!(kept(data(FIN | ACK), true), fin(1006));
    let wraps = Segment {
        sequence: u32::MAX - 1,
        ..data(FIN)
    };
    assert_eq!(kept(wraps, true), fin(3));
    for segment in [segment(ACK), segment(FIN | ACK), segment(RST)] {
        assert_eq!(kept(segment, false), [7; 9], "{segment:?}");
    }
    // The acknowledgement that completes the handshake and closes at once: the FIN is sent again, if need be.
    let closes = segment(FIN | ACK);
    let number = next_number(SynReceived as u8, FinOriginal as u8, 7, closes, true);
    assert_eq!(number, 7);
    let received = |number| [7, number, 7, 7, 7, 7, 7, 7, 7];
    assert_eq!(kept(segment(SYN | ACK), false), received(1001));
    assert_eq!(kept(data(ACK), false), received(1000));
}

#[test]
fn what_is_steady_stays_as_it_is() {
    let is_udp = |state: State| {
        matches!(
            state,
            State::Udp | State::UdpUnreplied | State::UdpUnconfirmed
        )
    };
    for state in State::ALL {
        for direction in [direction::ORIGINAL, direction::REPLY] {
            if !is_steady(state as u8, direction) {
                continue;
            }
            for data in [0, 4] {
                let segment = Segment {
                    data,
                    ..segment(flags::ACK)
                };
                let next = match (is_udp(state), direction) {
                    (true, _) => next_udp(state as u8, direction),
                    (false, direction::ORIGINAL) => next_original(state as u8, ISN, segment),
                    (false, _) => next_reply(state as u8, ISN, segment),
                };
                assert_eq!(next, state as u8, "{state:?} {direction}");
            }
            assert!(!is_reset(state as u8), "{state:?} {direction}");
        }
    }
}

#[test]
fn a_udp_client_is_assured_by_its_second_datagram_after_an_answer() {
    use State::{Udp, UdpUnconfirmed, UdpUnreplied};
    for (state, original, reply) in [
        (UdpUnreplied, UdpUnreplied, UdpUnconfirmed),
        (UdpUnconfirmed, Udp, UdpUnconfirmed),
        (Udp, Udp, Udp),
    ] {
        assert_eq!(next_udp(state as u8, direction::ORIGINAL), original as u8);
        assert_eq!(next_udp(state as u8, direction::REPLY), reply as u8);
    }
}

#[test]
fn what_was_picked_up_is_what_the_real_server_says_of_it() {
    let picked_up = State::PickedUp as u8;
    for flags in 0..=u8::MAX {
        for data in [0, 100] {
            let segment = Segment {
                flags,
                sequence: 7,
                acknowledgement: 8,
                data,
            };
            // Whatever its client, or somebody in its name, says.
            assert_eq!(next_original(picked_up, 0, segment), picked_up, "{flags:x}");
            let expected = if flags & flags::RST != 0 {
                Closed
            } else if flags & flags::SYN != 0 {
                SynReceived
            } else if flags & flags::FIN != 0 {
                FinReply
            } else {
                Established
            };
            assert_eq!(
                next_reply(picked_up, 0, segment),
                expected as u8,
                "{flags:x}"
            );
        }
    }
}

#[test]
fn who_has_shown_the_client() {
    let shown = State::ALL
        .into_iter()
        .filter(|state| has_shown_client(*state as u8));
    let expected = [Established, FinOriginal, FinReply, Closing, TimeWait];
    assert_eq!(shown.collect::<Vec<_>>(), expected);
    assert!(!has_shown_client(0) && !has_shown_client(15));
}

#[test]
fn only_a_segment_with_ack_alone_of_three_continues_a_connection() {
    for flags in 0..=u8::MAX {
        let expected =
            flags & flags::ACK != 0 && flags & flags::SYN == 0 && flags & flags::RST == 0;
        assert_eq!(continues(flags), expected, "{flags:x}");
    }
}

#[test]
fn only_what_both_sides_have_ended_gives_its_ports_to_a_new_connection() {
    let reusable: Vec<_> = State::ALL
        .into_iter()
        .filter(|state| may_be_reused(*state as u8))
        .collect();
    assert_eq!(reusable, [Closed, TimeWait]);
}

#[test]
fn only_an_acknowledgement_of_the_syn_ack_completes_the_handshake() {
    let waiting = SynReceived as u8;
    assert_eq!(shows_client(waiting, 9000, 9001), 1);
    assert_eq!(shows_client(waiting, u32::MAX, 0), 1);
    for wrong in [0, 9000, 9002, 9001 + (1 << 16)] {
        assert_eq!(shows_client(waiting, 9000, wrong), 0);
    }
    assert_eq!(shows_client(Established as u8, 9000, 9001), 0);
    assert_eq!(shows_client(State::UdpUnconfirmed as u8, 0, 77), 1);
    assert_eq!(shows_client(State::UdpUnreplied as u8, 0, 1), 0);
    assert!(completes_handshake(9001, 9000));
    assert!(completes_handshake(0, u32::MAX));
    assert!(completes_handshake(9001 + 1460, 9000));
    assert!(!completes_handshake(9000, 9000));
    assert!(!completes_handshake(1, 9000));
    assert!(completes_handshake(9000 + (1 << 16), 9000));
    assert!(!completes_handshake(9001 + (1 << 16), 9000));
}

#[test]
fn a_reset_continues_what_the_segment_acknowledges_or_acknowledges_all_of_it() {
    use flags::{ACK, FIN, RST, SYN};
    assert_eq!(reset(ACK, 1001, 7000, 5), (7000, 0, RST));
    assert_eq!(reset(SYN | ACK, 1001, 7000, 0), (7000, 0, RST));
    assert_eq!(reset(SYN, 1000, 0, 0), (0, 1001, RST | ACK));
    assert_eq!(reset(SYN, u32::MAX, 0, 10), (0, 10, RST | ACK));
    assert_eq!(reset(FIN, 5, 77, 3), (0, 9, RST | ACK));
    assert_eq!(reset(0, 5, 77, 0), (0, 5, RST | ACK));
}

#[test]
fn numbers_name_their_states() {
    for state in State::ALL {
        assert_eq!(State::from_number(state as u8), Some(state));
    }
    assert_eq!(State::from_number(0), None);
    assert_eq!(State::from_number(14), None);
}
