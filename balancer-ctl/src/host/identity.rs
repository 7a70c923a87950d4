//! This host: its name and its interfaces.

use std::{collections::HashSet, io, net::IpAddr};

use nix::net::if_::InterfaceFlags;

/// This host's interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostInterfaces {
    /// All addresses of all of them.
    pub addresses: HashSet<IpAddr>,
    /// The names of those that have a link.
    pub with_link: HashSet<String>,
}

/// Lists this host's interfaces.
///
/// # Errors
/// The kernel refused to list them.
pub fn interfaces() -> io::Result<HostInterfaces> {
    let mut interfaces = HostInterfaces::default();
    for interface in nix::ifaddrs::getifaddrs()? {
        if interface.flags.contains(InterfaceFlags::IFF_LOWER_UP) {
            interfaces.with_link.insert(interface.interface_name);
        }
        let Some(address) = interface.address else {
            continue;
        };
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let ip = v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())));
        interfaces.addresses.extend(ip);
    }
    Ok(interfaces)
}

/// The host's name; `localhost` if it is empty or not UTF-8.
#[must_use]
pub fn host_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_loopback_address_is_among_them() {
        let interfaces = super::interfaces().unwrap();
        assert!(
            interfaces.addresses.contains(&"127.0.0.1".parse().unwrap()),
            "{interfaces:?}"
        );
        assert!(interfaces.with_link.contains("lo"), "{interfaces:?}");
    }
}
