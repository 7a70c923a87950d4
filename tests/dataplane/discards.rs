//! Discards by service: what was dropped, or answered in its stead.

use std::collections::BTreeMap;

use balancer_common::{service, verdict::Discard};
use balancer_tests::{
    addresses::{R, R6, T, T6, V, V6},
    dataplane::{
        Side::{Inside, Outside},
        run,
    },
    expected::passed,
    packet::{
        Packet,
        flag::{ACK, RST, SYN},
    },
};

use crate::{establish, syn};

fn counted(reasons: &[(Discard, u64)]) -> BTreeMap<&'static str, u64> {
    let named = reasons
        .iter()
        .map(|(reason, count)| (reason.name(), *count));
    named.collect()
}

#[test]
fn packets_to_a_service_are_counted_by_their_reason_and_no_others() {
    run(|lb| {
        lb.change_settings(|settings| settings.any_port = 1);
        for (vip, real, stranger) in [(V, R, T), (V6, R6, T6)] {
            let of_family = |packet: Packet| if vip.is_ipv4() { packet } else { packet.v6() };
            let id = lb.add_real(real, 8080);
            let web = lb.add_service(6, vip, 80, &[id]);
            let empty = lb.add_service(6, vip, 81, &[]);
            lb.add_service_flags(empty, service::REJECT);
            let any = lb.add_service(17, vip, 0, &[]);
            assert_eq!(lb.discards_of(web), BTreeMap::new());

            let first = of_family(syn());
            establish(lb, &first, real, 8080);
            let stray = first.clone().client_port(50_000);
            for _ in 0..3 {
                let _ = lb.send(Outside, &stray.clone().segment(ACK, 1, 1).bytes());
            }
            let _ = lb.send(Outside, &stray.clone().segment(RST, 1, 0).bytes());
            let _ = lb.send(Outside, &stray.clone().segment(SYN | ACK, 1, 1).bytes());
            // Of an established connection, too.
            let mut last_hop = first.clone().segment(ACK, 1001, 9001);
            last_hop.hops = 1;
            let _ = lb.send(Outside, &last_hop.bytes());
            let _ = lb.send(Outside, &first.clone().to_port(81).bytes());
            let datagram = of_family(Packet::udp(b"ping")).to_port(4_000);
            for _ in 0..2 {
                let _ = lb.send(Outside, &datagram.bytes());
            }

            // Of no service: another port, another address, a real server's.
            let other = first.clone().to_port(90);
            lb.step(Outside, &other, passed(Discard::NoService, &other.bytes()));
            let mut elsewhere = first.clone();
            elsewhere.destination = stranger;
            let _ = lb.send(Outside, &elsewhere.bytes());
            let reply = first.answered(real, 8080).client_port(9).segment(ACK, 1, 1);
            let _ = lb.send(Inside, &reply.bytes());

            assert_eq!(
                lb.discards_of(web),
                counted(&[
                    (Discard::NoConnection, 3),
                    (Discard::StrayReset, 1),
                    (Discard::StraySynAck, 1),
                    (Discard::TimeExceeded, 1),
                ])
            );
            assert_eq!(
                lb.discards_of(empty),
                counted(&[(Discard::NoRealReject, 1)])
            );
            assert_eq!(lb.discards_of(any), counted(&[(Discard::NoReal, 2)]));
        }
    });
}
