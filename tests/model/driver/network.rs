//! The network around a data plane, as the model takes it to be.

use std::net::IpAddr;

use balancer_tests::{addresses::mac_of, dataplane::Dataplane, network::ip};

use crate::world::{BROADCASTS, HOST, REFUSING, Surroundings, World};

/// Brings the network of a fresh data plane to what the model takes it for.
pub fn surround(lb: &mut Dataplane, around: Surroundings) {
    for (number, (kind, _)) in REFUSING.iter().enumerate() {
        ip(&format!(
            "route add {kind} 198.18.{number}.0/24\nroute add {kind} 2001:db8:b0{number}::/48"
        ));
    }
    set_mtu(lb, around.mtu);
    if around.knows_host {
        let mut prefixes = vec![([127, 0, 0, 0].into(), 8)];
        for address in HOST.into_iter().chain(BROADCASTS) {
            prefixes.push((address, if address.is_ipv4() { 32 } else { 128 }));
        }
        lb.set_host_addresses(&prefixes);
    }
    if around.redirects_back {
        lb.redirect_back();
    }
    if !around.has_egress {
        let outside = lb.outside;
        lb.devices().remove(outside).expect("remove from DEVICES");
    }
}

/// Brings the network back from what a sequence has made of it.
pub(super) fn restore(lb: &mut Dataplane, around: Surroundings, world: &World) {
    if world.around.mtu != around.mtu {
        set_mtu(lb, around.mtu);
    }
    for address in &world.silent {
        set_neighbour(lb, *address, true);
    }
}

/// Both ways out have another MTU: towards the clients, and towards the real servers.
pub(super) fn set_mtu(lb: &mut Dataplane, [outside, inside]: [usize; 2]) {
    ip(&format!(
        "link set outside mtu {outside}\nlink set inside mtu {inside}"
    ));
    lb.retire_routes();
}

/// The host knows a real server's MAC address, or does not.
pub(super) fn set_neighbour(lb: &mut Dataplane, address: IpAddr, is_known: bool) {
    if is_known {
        let mac = mac_of(address).map(|byte| format!("{byte:02x}")).join(":");
        ip(&format!(
            "neigh replace {address} lladdr {mac} dev inside nud permanent"
        ));
    } else {
        ip(&format!("neigh del {address} dev inside"));
    }
    lb.retire_routes();
}
