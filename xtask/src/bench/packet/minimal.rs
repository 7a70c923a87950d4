//! The entries in the table of the minimal NAT, with which the packet bench compares. The program is in the bench's object.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use balancer_common::checksum::{Delta, DeltaSum};

use super::{
    network::{BALANCER_MAC, GATEWAY_MAC},
    route::Route,
};

/// One direction of a flow, as its packets carry it; laid out as in the bench's object. Network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Key {
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
    protocol: u32,
}

/// What the packets of one direction become; laid out as in the bench's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Minimal {
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
    ip_delta: Delta,
    l4_delta: Delta,
    macs: [[u8; 6]; 2],
}

const _: () = assert!(size_of::<Key>() == 16);
const _: () = assert!(size_of::<Minimal>() == 28);

// SAFETY: `repr(C)`, only integers, and the size shows that there is no padding.
unsafe impl aya::Pod for Key {}
// SAFETY: as above.
unsafe impl aya::Pod for Minimal {}

/// Both rows of a TCP connection over IPv4: the client's packets and the real server's.
///
/// # Errors
/// The route is not of IPv4.
pub fn rows(route: &Route) -> Result<[(Key, Minimal); 2]> {
    let [balancer, real] = route.inside;
    let asks = key(route.client, route.virtual_address)?;
    let delivered = key(route.client, route.real)?;
    let answers = key(route.real, route.client)?;
    let returned = key(route.virtual_address, route.client)?;
    Ok([
        (asks, translation(&asks, &delivered, [real, balancer])),
        (
            answers,
            translation(&answers, &returned, [GATEWAY_MAC, BALANCER_MAC]),
        ),
    ])
}

fn key(from: SocketAddr, to: SocketAddr) -> Result<Key> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else {
        bail!("the minimal NAT knows IPv4 only");
    };
    Ok(Key {
        source: u32::from_ne_bytes(source.octets()),
        destination: u32::from_ne_bytes(destination.octets()),
        source_port: from.port().to_be(),
        destination_port: to.port().to_be(),
        protocol: 6,
    })
}

/// Makes packets of `old` packets of `new`; `macs` are the destination's and the source's.
fn translation(old: &Key, new: &Key, macs: [[u8; 6]; 2]) -> Minimal {
    let addresses = DeltaSum::new()
        .words(old.source.into(), new.source.into())
        .words(old.destination.into(), new.destination.into());
    let all = addresses
        .half(old.source_port, new.source_port)
        .half(old.destination_port, new.destination_port);
    Minimal {
        source: new.source,
        destination: new.destination,
        source_port: new.source_port,
        destination_port: new.destination_port,
        ip_delta: addresses.fold(),
        l4_delta: all.fold(),
        macs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_row_takes_back_what_the_first_does() {
        let [(asks, there), (answers, back)] = rows(&Route::of_set(5)).unwrap();
        assert_eq!(
            [there.source, there.destination],
            [answers.destination, answers.source]
        );
        assert_eq!(
            [back.source, back.destination],
            [asks.destination, asks.source]
        );
        assert_eq!(
            [back.source_port, back.destination_port],
            [asks.destination_port, asks.source_port]
        );
        for checksum in [0x0001_u16, 0x27eb, 0xfffe] {
            let translated = there.l4_delta.apply(checksum);
            assert_eq!(back.l4_delta.apply(translated), checksum);
        }
    }
}
