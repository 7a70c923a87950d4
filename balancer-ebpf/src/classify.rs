//! The service that a packet is for.

use balancer_common::{
    conntrack::FlowKey,
    service::{Service, ServiceKey},
    settings::Settings,
};

use crate::family::Family;

/// Finds the service of the packet's destination, exactly, then on every port: a copy, since the map may give the
/// service's place to another one while a packet is under way.
#[inline(always)]
pub fn classify<H: Family>(key: &FlowKey<H::Address>, settings: &Settings) -> Option<Service> {
    let mut service = ServiceKey {
        address: key.destination,
        port: key.ports.destination(),
        protocol: key.protocol as u16,
    };
    // SAFETY: the value is copied at once; what a copy may mix is checked where it is used.
    if let Some(found) = unsafe { H::services().get(&service) } {
        return Some(*found);
    }
    if settings.any_port == 0 {
        return None;
    }
    service.port = 0;
    // SAFETY: as above.
    unsafe { H::services().get(&service) }.copied()
}

/// Whether the packet comes from a real server's address and port. Of a service on every port it is not known which of its real servers'
/// packets are answers, and which are their own.
#[inline(always)]
pub fn is_from_real<H: Family>(key: &FlowKey<H::Address>) -> bool {
    let real = ServiceKey {
        address: key.source,
        port: key.ports.source(),
        protocol: key.protocol as u16,
    };
    H::real_ports().get_ptr(&real).is_some()
}
