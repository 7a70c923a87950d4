//! The service that a packet is for.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use balancer_common::{
    addr::Address,
    conntrack::FlowKey,
    failover::FailoverReal,
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

/// Where the segment comes from a real server, and its connection may be another node's: that real server.
#[inline(always)]
pub fn failover_real<H: Family>(key: &FlowKey<H::Address>) -> Option<FailoverReal> {
    // SAFETY: the value is copied at once; what a copy may mix is checked where it is used.
    let failover_real = unsafe { H::failover_reals().get(&sender(key)) }.copied()?;
    // SAFETY: the helper only reads a clock.
    (unsafe { bpf_ktime_get_ns() } <= failover_real.until).then_some(failover_real)
}

/// The packet's source, as real servers are found by it.
#[inline(always)]
const fn sender<A: Address>(key: &FlowKey<A>) -> ServiceKey<A> {
    ServiceKey {
        address: key.source,
        port: key.ports.source(),
        protocol: key.protocol as u16,
    }
}

/// Whether the packet comes from a real server's address and port. Of a service on every port it is not known which of its real servers'
/// packets are answers, and which are their own.
#[inline(always)]
pub fn is_from_real<H: Family>(key: &FlowKey<H::Address>) -> bool {
    H::real_ports().get_ptr(&sender(key)).is_some()
}
