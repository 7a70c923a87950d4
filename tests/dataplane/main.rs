//! The packet suite: the loaded packet program, driven frame by frame with the kernel's own test run. Each test
//! compares verdict, whole frame, rows and all counters. Numbers are those of the packet cases.

mod answers;
mod connections;
mod discards;
mod extensions;
mod failover;
mod failure;
mod filters;
mod forged;
mod forwarding;
mod fragments;
mod full_nat;
mod handshakes;
mod host_source;
mod icmp;
mod load;
mod loads;
mod malformed;
mod not_ours;
mod persistence;
mod schedulers;
mod scheduling;
mod table;
mod tcp;
mod udp;

use balancer_common::{direction, tcp::State};
use balancer_tests::{
    addresses::{R, R2, R6, R26, V, V6},
    dataplane::{Dataplane, Side},
    expected::redirected,
    packet::{
        Packet,
        flag::{ACK, SYN},
    },
    services::ServiceHandle,
};

/// V:80 with R and R2 in turn.
fn two_reals(lb: &mut Dataplane) -> (ServiceHandle, u32, u32) {
    let first = lb.add_real(R, 8080);
    let second = lb.add_real(R2, 8080);
    let service = lb.add_service(6, V, 80, &[first, second]);
    (service, first, second)
}

/// As [`two_reals`], in IPv6.
fn two_reals6(lb: &mut Dataplane) -> (ServiceHandle, u32, u32) {
    let first = lb.add_real(R6, 8080);
    let second = lb.add_real(R26, 8080);
    let service = lb.add_service(6, V6, 80, &[first, second]);
    (service, first, second)
}

/// The client's SYN of the cases: C:40000 to V:80, sequence number 1000.
fn syn() -> Packet {
    Packet::tcp(SYN, 1000, 0)
}

/// The real server's answer to [`syn`].
fn syn_ack(syn: &Packet, real: std::net::IpAddr, port: u16) -> Packet {
    syn.answered(real, port).segment(SYN | ACK, 9000, 1001)
}

/// Takes a connection through its handshake.
fn establish(lb: &Dataplane, syn: &Packet, real: std::net::IpAddr, port: u16) {
    lb.pass_through(Side::Outside, syn);
    lb.pass_through(Side::Inside, &syn_ack(syn, real, port));
    lb.pass_through(Side::Outside, &syn.clone().segment(ACK, 1001, 9001));
}

/// A client's packet goes along its connection to the real server at [`R`]:8080, which has this id.
#[track_caller]
fn reaches_real(lb: &mut Dataplane, real: u32, packet: &Packet) {
    lb.step(
        Side::Outside,
        packet,
        redirected(&packet.delivered(R, 8080)).original(real, packet),
    );
}

/// That real server's packet goes along its connection to the client, as the service at [`V`]:80.
#[track_caller]
fn reaches_client(lb: &mut Dataplane, real: u32, packet: &Packet) {
    lb.step(
        Side::Inside,
        packet,
        redirected(&packet.returned(V, 80)).reply(real, packet),
    );
}

/// Both rows of the only connection are in this state, and there is one for each direction.
#[track_caller]
fn assert_state(lb: &Dataplane, state: State) {
    let rows = lb.rows_v4();
    let mut directions: Vec<_> = rows.iter().map(|(_, row)| row.direction).collect();
    directions.sort_unstable();
    assert_eq!(directions, [direction::ORIGINAL, direction::REPLY]);
    for (_, row) in rows {
        assert_eq!(State::from_number(row.state), Some(state));
    }
}
