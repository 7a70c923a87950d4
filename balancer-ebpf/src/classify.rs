//! The service that a packet is for.

use balancer_common::{
    conntrack::FlowKey,
    service::{Service, ServiceKey},
    settings::Settings,
};

use crate::table::Family;

/// Finds the service of the packet's destination: exactly, then on every port.
#[inline(always)]
pub fn classify<H: Family>(
    key: &FlowKey<H::Address>,
    settings: &Settings,
) -> Option<&'static Service> {
    let mut service = ServiceKey {
        address: key.destination,
        port: key.destination_port,
        protocol: key.protocol as u16,
    };
    // SAFETY: a service that the daemon replaces or deletes meanwhile is read old, new or, at the very worst, as
    // another one that took its place; every index in it is checked where it is used.
    if let Some(found) = unsafe { H::services().get(&service) } {
        return Some(found);
    }
    if settings.any_port == 0 {
        return None;
    }
    service.port = 0;
    // SAFETY: as above.
    unsafe { H::services().get(&service) }
}
