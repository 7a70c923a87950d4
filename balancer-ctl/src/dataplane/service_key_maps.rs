//! Maps by address, port and protocol: the packet program has one for each family.

use std::{io, net::IpAddr, path::Path};

use aya::Pod;
use balancer_common::{
    addr::{Addr, Address, TCP, UDP},
    service::{self, ServiceKeyV4, ServiceKeyV6},
};

use super::map::Map;
use crate::model::{Protocol, ServiceKey};

/// The maps `NAME_V4` and `NAME_V6`.
#[derive(Debug)]
pub struct ServiceKeyMaps<V: Pod> {
    v4: Map<ServiceKeyV4, V>,
    v6: Map<ServiceKeyV6, V>,
}

impl<V: Pod> ServiceKeyMaps<V> {
    /// Opens the maps of this name pinned in `directory`.
    ///
    /// # Errors
    /// One is missing or has another layout.
    pub fn open(directory: &Path, name: &str) -> anyhow::Result<Self> {
        Ok(Self {
            v4: Map::open(directory, &format!("{name}_V4"))?,
            v6: Map::open(directory, &format!("{name}_V6"))?,
        })
    }

    /// Everything in both.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn all(&self) -> io::Result<Vec<(ServiceKey, V)>> {
        let (v4, v6) = (self.v4.all()?, self.v6.all()?);
        let v4 = v4
            .iter()
            .filter_map(|(key, value)| Some((model_key(key)?, *value)));
        let v6 = v6
            .iter()
            .filter_map(|(key, value)| Some((model_key(key)?, *value)));
        Ok(v4.chain(v6).collect())
    }

    /// Writes a value.
    ///
    /// # Errors
    /// The kernel refused; nothing is changed.
    pub fn set(&self, key: &ServiceKey, value: &V) -> io::Result<()> {
        match kernel_key(key) {
            KernelKey::V4(key) => self.v4.set(&key, value),
            KernelKey::V6(key) => self.v6.set(&key, value),
        }
    }

    /// Writes values, those of a family in one call and in their order.
    ///
    /// # Errors
    /// The kernel refused; some may be written.
    pub fn set_many(&self, entries: impl IntoIterator<Item = (ServiceKey, V)>) -> io::Result<()> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (key, value) in entries {
            match kernel_key(&key) {
                KernelKey::V4(key) => v4.push((key, value)),
                KernelKey::V6(key) => v6.push((key, value)),
            }
        }
        self.v4.set_many(&v4)?;
        self.v6.set_many(&v6)
    }

    /// Deletes a value; returns whether it was there.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn delete(&self, key: &ServiceKey) -> io::Result<bool> {
        match kernel_key(key) {
            KernelKey::V4(key) => self.v4.delete(&key),
            KernelKey::V6(key) => self.v6.delete(&key),
        }
    }
}

/// A service key in the form of the maps, in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KernelKey {
    V4(ServiceKeyV4),
    V6(ServiceKeyV6),
}

fn kernel_key(key: &ServiceKey) -> KernelKey {
    let port = key.address.port().to_be();
    let protocol = u16::from(key.protocol.number());
    let address = Addr::from(key.address.ip());
    match key.address.ip() {
        IpAddr::V4(_) => KernelKey::V4(service::ServiceKey {
            address: Address::narrow(address),
            port,
            protocol,
        }),
        IpAddr::V6(_) => KernelKey::V6(service::ServiceKey {
            address: Address::narrow(address),
            port,
            protocol,
        }),
    }
}

fn model_key<A: Address>(key: &service::ServiceKey<A>) -> Option<ServiceKey> {
    let protocol = match u8::try_from(key.protocol).ok()? {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    let address = (IpAddr::from(key.address.widen()), u16::from_be(key.port)).into();
    Some(ServiceKey { protocol, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_way_to_the_kernel_and_back() {
        for text in ["192.0.2.80:80", "[2001:db8::80]:0", "192.0.2.80:53"] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let key = ServiceKey {
                    protocol,
                    address: text.parse().unwrap(),
                };
                let back = match kernel_key(&key) {
                    KernelKey::V4(key) => model_key(&key),
                    KernelKey::V6(key) => model_key(&key),
                };
                assert_eq!(back, Some(key));
            }
        }
    }

    #[test]
    fn a_key_is_in_network_byte_order() {
        let key = ServiceKey {
            protocol: Protocol::Tcp,
            address: "192.0.2.80:80".parse().unwrap(),
        };
        let expected = service::ServiceKey {
            address: u32::from_ne_bytes([192, 0, 2, 80]),
            port: u16::from_ne_bytes([0, 80]),
            protocol: 6,
        };
        assert_eq!(kernel_key(&key), KernelKey::V4(expected));
    }
}
