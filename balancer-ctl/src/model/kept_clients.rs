//! The filter with which the clients that keep a server are listed and forgotten.

use std::net::IpAddr;

use super::{ServiceKey, prefix::Prefix};

/// Which clients; a field that is `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PersistenceFilter {
    /// An address: who has it, alone or with the others of a prefix. Or a prefix: all who lie in it.
    pub client: Option<Prefix>,
    /// A service that they are clients of.
    pub service: Option<ServiceKey>,
    /// The server that they keep.
    pub server: Option<IpAddr>,
    /// List at most this many.
    pub limit: Option<usize>,
}

impl PersistenceFilter {
    /// Whether clients of these services, who share their clients' servers, may match.
    #[must_use]
    pub fn matches_services(&self, services: &[ServiceKey]) -> bool {
        self.service
            .is_none_or(|service| services.contains(&service))
    }

    /// Whether a client with its server matches, apart from the service.
    #[must_use]
    pub fn matches(&self, client: &Prefix, server: IpAddr) -> bool {
        let is_wanted = |wanted: Prefix| {
            wanted.contains(client) || wanted.is_address() && client.contains(&wanted)
        };
        self.client.is_none_or(is_wanted) && self.server.is_none_or(|wanted| wanted == server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address::service_key;

    #[test]
    fn an_address_finds_the_prefixes_around_it_and_a_prefix_those_in_it() {
        for (filter, client, matches) in [
            ("198.51.100.7", "198.51.100.7", true),
            ("198.51.100.7", "198.51.100.8", false),
            ("198.51.100.7", "198.51.100.0/24", true),
            ("198.51.100.7/32", "198.51.100.0/24", true),
            ("198.51.100.7", "198.51.101.0/24", false),
            ("198.51.100.0/24", "198.51.100.7", true),
            ("198.51.100.0/24", "198.51.100.0/24", true),
            ("198.51.100.0/24", "198.51.100.128/25", true),
            ("198.51.100.0/24", "198.51.0.0/16", false),
            ("0.0.0.0/0", "2001:db8::/64", false),
            ("2001:db8::9", "2001:db8::/64", true),
            ("2001:db8::/32", "2001:db8:1::/64", true),
        ] {
            let wanted = PersistenceFilter {
                client: Some(filter.parse().unwrap()),
                ..PersistenceFilter::default()
            };
            let server = "10.0.0.2".parse().unwrap();
            let found = wanted.matches(&client.parse().unwrap(), server);
            assert_eq!(found, matches, "{filter} {client}");
        }
    }

    #[test]
    fn each_field_excludes_what_differs() {
        let client: Prefix = "198.51.100.7".parse().unwrap();
        let server: IpAddr = "10.0.0.2".parse().unwrap();
        let [web, shop] = ["192.0.2.80:80", "192.0.2.80:443"].map(|key| service_key(key).unwrap());
        let all = PersistenceFilter::default();
        assert!(all.matches(&client, server) && all.matches_services(&[]));
        let filter = PersistenceFilter {
            client: Some(client),
            service: Some(web),
            server: Some(server),
            limit: None,
        };
        assert!(filter.matches(&client, server));
        assert!(!filter.matches(&client, "10.0.0.3".parse().unwrap()));
        assert!(!filter.matches(&"198.51.100.8".parse().unwrap(), server));
        assert!(filter.matches_services(&[shop, web]) && !filter.matches_services(&[shop]));
    }
}
