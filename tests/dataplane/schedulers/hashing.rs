//! `sh`, `dh`, `mh`: the slot that a hash names, the same on every node.

use std::net::IpAddr;

use balancer_common::{
    addr::Addr,
    real_server::state,
    scheduler::{hashed, slot_hash},
    service,
    verdict::Discard,
};
use balancer_tests::{
    dataplane::{Dataplane, Options, Side::Outside, run, run_with},
    expected::{answered, dropped},
    packet::{
        Packet,
        flag::{ACK, RST},
    },
    services::Schedule,
};

use super::{Farm, farms};
use crate::syn;

/// How many looks into the ring there are, before only those that take new connections count.
const LOOKS: u32 = 3;

/// A hash's ring and list, by the numbers of real servers.
struct Slots<'a> {
    ring: &'a [usize],
    available: &'a [usize],
}

impl Slots<'_> {
    /// The choice for an address and port, as every node has to make it.
    fn choice(&self, address: IpAddr, port: u16) -> Option<usize> {
        let of_available = || slot(self.available, address, port, LOOKS);
        self.look(address, port).or_else(of_available)
    }

    /// That by the looks into the ring alone.
    fn look(&self, address: IpAddr, port: u16) -> Option<usize> {
        let mut looks = (0..LOOKS).filter_map(|attempt| slot(self.ring, address, port, attempt));
        looks.find(|real| self.available.contains(real))
    }

    /// Gives a farm this ring and list: those that are not in the list are drained.
    fn write(&self, lb: &mut Dataplane, farm: &Farm) {
        let ids = |slots: &[usize]| -> Vec<_> { slots.iter().map(|at| farm.reals[*at]).collect() };
        lb.set_slots(farm.service, &ids(self.ring), &ids(self.available));
        for (at, real) in farm.reals.iter().enumerate() {
            let takes = self.available.contains(&at);
            let state = if takes {
                state::TAKES_NEW
            } else {
                state::DRAINING
            };
            lb.set_real_state(*real, state);
        }
    }
}

/// The real server in the slot that a hash names.
fn slot(slots: &[usize], address: IpAddr, port: u16, attempt: u32) -> Option<usize> {
    let hash = slot_hash(&Addr::from(address), port, attempt);
    let at = hash.checked_rem(slots.len() as u64)?;
    Some(slots[at as usize])
}

/// Packets of so many clients, each from two ports.
fn clients(first: &Packet, count: u32) -> impl Iterator<Item = Packet> {
    (0..count).flat_map(move |number| {
        let source = match first.source {
            IpAddr::V4(address) => IpAddr::V4((u32::from(address) + 7 * number).into()),
            IpAddr::V6(address) => {
                IpAddr::V6((u128::from(address) + (u128::from(7 * number) << 30)).into())
            }
        };
        [20_000, 20_001].map(|port| Packet {
            source,
            source_port: port,
            ..first.clone()
        })
    })
}

const RING: [usize; 7] = [0, 1, 2, 3, 0, 1, 4];

/// Each client's packet goes to the slot that its address names, and the port that `port` returns.
fn goes_to_the_slot(hash: u8, port: fn(&Packet) -> u16) {
    run_with(Options::ROOMY, |lb| {
        for farm in farms(lb, 5) {
            lb.set_schedule(farm.service, Schedule::hashing(hash));
            let slots = Slots {
                ring: &RING,
                available: &[0, 1, 2, 3, 4],
            };
            slots.write(lb, &farm);
            for syn in clients(&farm.syn, 30) {
                let at = slots.choice(syn.source, port(&syn)).expect("a slot");
                lb.step(Outside, &syn, farm.opened(at, &syn));
            }
        }
    });
}

#[test]
fn the_slot_follows_from_the_clients_address() {
    goes_to_the_slot(hashed::CLIENT, |_| 0);
}

#[test]
fn the_slot_follows_from_the_clients_address_and_port() {
    goes_to_the_slot(hashed::CLIENT_PORT, |syn| syn.source_port);
}

#[test]
fn the_slot_follows_from_what_the_client_asks_for() {
    run_with(Options::ROOMY, |lb| {
        let ping = Packet::udp(b"ping");
        for first in [syn(), syn().v6(), ping.clone(), ping.v6()] {
            for number in 0..6 {
                let mut first = first.clone();
                first.destination = match first.destination {
                    IpAddr::V4(address) => IpAddr::V4((u32::from(address) + number).into()),
                    IpAddr::V6(address) => {
                        IpAddr::V6((u128::from(address) + u128::from(number)).into())
                    }
                };
                let farm = Farm::new(lb, 5, first);
                lb.set_schedule(farm.service, Schedule::hashing(hashed::DESTINATION));
                let slots = Slots {
                    ring: &RING,
                    available: &[0, 1, 2, 3, 4],
                };
                slots.write(lb, &farm);
                for mut packet in clients(&farm.syn, 2) {
                    // The real servers' answers to all these services have to be told apart.
                    packet.source_port += 10 * number as u16;
                    let at = slots.choice(packet.destination, 0).expect("a slot");
                    lb.step(Outside, &packet, farm.opened(at, &packet));
                }
            }
        }
    });
}

#[test]
fn the_clients_of_a_slot_whose_real_server_drains_move_once_and_no_others() {
    const AVAILABLE: [&[usize]; 4] = [&[0, 1, 2, 3, 4], &[0, 2, 3, 4], &[3, 4], &[4]];
    run_with(Options::ROOMY, |lb| {
        for farm in farms(lb, 5) {
            for hash in [hashed::CLIENT, hashed::CLIENT_PORT] {
                lb.set_schedule(farm.service, Schedule::hashing(hash));
                let mut before: Vec<Option<usize>> = Vec::new();
                for available in AVAILABLE {
                    let slots = Slots {
                        ring: &RING,
                        available,
                    };
                    slots.write(lb, &farm);
                    let mut found = Vec::new();
                    for (at, syn) in clients(&farm.syn, 20).enumerate() {
                        let port = if hash == hashed::CLIENT {
                            0
                        } else {
                            syn.source_port
                        };
                        let real = farm.choice_for(lb, &syn);
                        lb.delete_connection(&syn);
                        assert_eq!(real, slots.choice(syn.source, port));
                        // Whose real server still takes connections stays there.
                        if let Some(Some(before)) = before.get(at)
                            && available.contains(before)
                        {
                            assert_eq!(real, Some(*before));
                        }
                        found.push(slots.look(syn.source, port));
                    }
                    assert!(found.iter().flatten().count() > found.len() / 6);
                    before = found;
                }
            }
        }
    });
}

#[test]
fn where_all_drain_no_real_server_is_there_before_the_list_is_new_and_then() {
    run(|lb| {
        for farm in farms(lb, 3) {
            lb.set_schedule(farm.service, Schedule::hashing(hashed::CLIENT));
            for (listed, port) in [(&farm.reals[..], 20_000), (&[], 20_001)] {
                lb.set_slots(farm.service, &farm.reals, listed);
                for real in &farm.reals {
                    lb.set_real_state(*real, state::DRAINING);
                }
                lb.step(Outside, &farm.syn(port), dropped(Discard::NoReal));
            }
            lb.update_service(farm.service, |value| value.flags |= service::REJECT);
            let syn = farm.syn(20_002);
            let reset = syn.reset(RST | ACK, 0, 1001);
            lb.step(Outside, &syn, answered(Discard::NoRealReject, &reset));
        }
    });
}

#[test]
fn that_a_real_server_is_full_which_takes_nobody_is_not_why_none_is_found() {
    run(|lb| {
        for farm in farms(lb, 2) {
            lb.set_schedule(farm.service, Schedule::hashing(hashed::CLIENT));
            let slots = Slots {
                ring: &[0, 1],
                available: &[],
            };
            slots.write(lb, &farm);
            for real in &farm.reals {
                lb.set_load(*real, 5, 0);
                lb.set_limits(*real, 5, 0);
            }
            lb.step(Outside, &farm.syn(20_000), dropped(Discard::NoReal));
        }
    });
}

#[test]
fn a_client_whose_hash_names_a_full_real_server_goes_to_its_next_one_and_comes_back() {
    run_with(Options::ROOMY, |lb| {
        for farm in farms(lb, 5) {
            lb.set_schedule(farm.service, Schedule::hashing(hashed::CLIENT));
            let slots = Slots {
                ring: &RING,
                available: &[0, 1, 2, 3, 4],
            };
            slots.write(lb, &farm);
            let own = slots.choice(farm.syn.source, 0).expect("a slot");
            let others: Vec<_> = (0..5).filter(|at| *at != own).collect();
            let without = Slots {
                ring: &RING,
                available: &others,
            };
            lb.set_load(farm.reals[own], 0, 10);
            for (port, upper, slots) in [(20_000, 10, &without), (20_001, 11, &slots)] {
                lb.set_limits(farm.reals[own], upper, 0);
                let syn = farm.syn(port);
                let at = slots.choice(syn.source, 0).expect("a slot");
                lb.step(Outside, &syn, farm.opened(at, &syn));
            }
        }
    });
}
