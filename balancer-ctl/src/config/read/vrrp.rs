//! `[[vrrp]]`: virtual routers, which bring VIPs to one of two nodes.

use std::{net::IpAddr, time::Duration};

use toml_edit::{Item, TableLike, Value};

use super::{
    Reader,
    keys::{TRACK_EXEC, TRACK_PING, TRACK_SERVICE, VRRP},
    start,
};
use crate::{
    config::{text, validate::Place},
    model::{
        address::ServiceRef,
        duration,
        limits::{OWNER, PRIORITY, RISE_FALL, ROUTER_ID, TRACK_WEIGHT},
        vrrp::{
            DEFAULT_FALL, DEFAULT_RISE, DEFAULT_TRACK_INTERVAL, DEFAULT_WEIGHT, TrackExec,
            TrackPing, TrackService, VirtualAddress, VirtualRouter, default_timeout,
        },
    },
};

/// How often something is tried, and how many results in a row count.
struct Tries {
    interval: Duration,
    timeout: Duration,
    fall: u32,
    rise: u32,
}

impl Reader<'_> {
    pub(super) fn vrrp(&mut self, root: &dyn TableLike) -> Vec<VirtualRouter> {
        let mut routers = Vec::new();
        for table in self.blocks(root, "vrrp", "[[vrrp]]") {
            let at = table.span().map_or(0, |span| span.start);
            if let Some(router) = self.virtual_router(routers.len(), table, at) {
                routers.push(router);
            }
        }
        routers
    }

    /// Reads a virtual router; `None` if a key that it must have is missing or wrong.
    fn virtual_router(
        &mut self,
        index: usize,
        table: &dyn TableLike,
        at: usize,
    ) -> Option<VirtualRouter> {
        self.keys(table, &VRRP, "vrrp");
        let place = |key| Place::Vrrp(index, key);
        for (key, what) in [
            ("name", "no name: add one, as in `name = \"outside\"`"),
            (
                "interface",
                "no interface: add one, as in `interface = \"eth0\"`",
            ),
            ("router-id", "no router-id: add one, as in `router-id = 51`"),
            (
                "addresses",
                "no addresses: add some, as in `addresses = [\"192.0.2.80/24\"]`",
            ),
        ] {
            if table.get(key).is_none() {
                self.problem(at, format!("vrrp has {what}"));
            }
        }
        let name = self.string(table, "name", place("name"));
        let interface = self.string(table, "interface", place("interface"));
        let router_id = self.byte(table, "router-id", place("router-id"), ROUTER_ID);
        let priority = self.byte(table, "priority", place("priority"), PRIORITY);
        let interval = self.duration(
            table,
            "advertisement-interval",
            place("advertisement-interval"),
        );
        let failback = self.parse_string(table, "failback", place("failback"), str::parse);
        if priority == Some(OWNER) && table.contains_key("failback") {
            self.problem_at(
                place("failback"),
                format!(
                    "failback has no meaning with priority {OWNER}: the owner of the addresses takes them back at once; leave failback out"
                ),
            );
        }
        let link_up_delay = self.duration(table, "link-up-delay", place("link-up-delay"));
        let addresses = self.virtual_addresses(index, table);
        let unicast_peers = self.addresses(index, table, "unicast-peers", place("unicast-peers"));
        let group = self.string(table, "group", place("group"));
        let track_interfaces = self.track_interfaces(index, table);
        let track_ping = self.track_ping(index, table);
        let track_services = self.track_services(index, table);
        let track_exec = self.track_exec(index, table);
        let probes = self.one_of(table, "probes", place("probes"));
        let checksum = self.one_of(table, "checksum", place("checksum"));
        let announce = self.announce_interval(table, place("announce-interval"));
        let mut router = VirtualRouter::new(name?, interface?, router_id?);
        router.priority = priority.unwrap_or(router.priority);
        router.advertisement_interval = interval.unwrap_or(router.advertisement_interval);
        router.link_up_delay = link_up_delay.unwrap_or(router.link_up_delay);
        router.announce_interval = announce.unwrap_or(router.announce_interval);
        Some(VirtualRouter {
            failback: failback.unwrap_or_default(),
            addresses: addresses?,
            unicast_peers,
            group: group.map(str::to_owned),
            track_interfaces,
            track_ping,
            track_services,
            track_exec,
            probes: probes.unwrap_or_default(),
            checksum: checksum.unwrap_or_default(),
            ..router
        })
    }

    /// Reads the VIPs; `None` if there is no list of them, or none in it is right.
    fn virtual_addresses(
        &mut self,
        index: usize,
        table: &dyn TableLike,
    ) -> Option<Vec<VirtualAddress>> {
        const EXAMPLE: &str = "[\"192.0.2.80/24\"]";
        let place = Place::Vrrp(index, "addresses");
        let texts = self.strings(table, "addresses", place, EXAMPLE)?;
        let is_empty = texts.is_empty();
        let mut addresses = Vec::new();
        for (text, at) in texts {
            match text.parse::<VirtualAddress>() {
                Ok(address) => {
                    let place = Place::VrrpEntry(index, "addresses", addresses.len());
                    self.places.insert(place, at);
                    addresses.push(address);
                }
                Err(error) => self.problem(at, error.to_string()),
            }
        }
        // The validator reports an empty list.
        (is_empty || !addresses.is_empty()).then_some(addresses)
    }

    /// Reads a list of addresses without ports.
    fn addresses(
        &mut self,
        index: usize,
        table: &dyn TableLike,
        key: &'static str,
        place: Place,
    ) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        let texts = self.strings(table, key, place, "[\"192.0.2.1\"]");
        for (text, at) in texts.unwrap_or_default() {
            match text::address(&text) {
                Ok(address) => {
                    let place = Place::VrrpEntry(index, key, addresses.len());
                    self.places.insert(place, at);
                    addresses.push(address);
                }
                Err(sentence) => self.problem(at, format!("`{text}` {sentence}")),
            }
        }
        addresses
    }

    fn track_interfaces(&mut self, index: usize, table: &dyn TableLike) -> Vec<String> {
        const KEY: &str = "track-interfaces";
        let names = self.strings(table, KEY, Place::Vrrp(index, KEY), "[\"eth1\"]");
        let names = names.unwrap_or_default().into_iter().enumerate();
        names
            .map(|(number, (name, at))| {
                self.places.insert(Place::VrrpEntry(index, KEY, number), at);
                name
            })
            .collect()
    }

    fn track_ping(&mut self, index: usize, root: &dyn TableLike) -> Option<TrackPing> {
        let item = root.get("track-ping")?;
        let Some(table) = item.as_table_like() else {
            self.problem(
                start(item),
                "track-ping must be a table, as in `track-ping = { targets = [\"192.0.2.1\"] }`",
            );
            return None;
        };
        self.keys(table, &TRACK_PING, "track-ping");
        let place = |key| Place::VrrpTrack(index, "track-ping", 0, key);
        let is_named = table.contains_key("targets");
        if !is_named {
            self.problem(
                start(item),
                "track-ping has no targets: add some, as in `targets = [\"192.0.2.1\"]`",
            );
        }
        let before = self.problems.len();
        let targets = self.addresses(index, table, "targets", place("targets"));
        let is_right = is_named && self.problems.len() == before;
        let tries = self.tries(table, place);
        let weight = self.weight(table, place("weight"), start(item));
        // The validator reports an empty list.
        (is_right || !targets.is_empty()).then_some(TrackPing {
            targets,
            interval: tries.interval,
            timeout: tries.timeout,
            fall: tries.fall,
            rise: tries.rise,
            weight,
        })
    }

    /// Reads a list of services, each by its name alone or in a table.
    fn track_services(&mut self, index: usize, table: &dyn TableLike) -> Vec<TrackService> {
        let mut services = Vec::new();
        match table.get("track-services") {
            None => {}
            Some(Item::Value(Value::Array(values))) => {
                for value in values {
                    let at = value.span().map_or(0, |span| span.start);
                    let number = services.len();
                    services.extend(match (value.as_str(), value.as_inline_table()) {
                        (Some(name), _) => self.service_of_default_weight(index, number, name, at),
                        (None, Some(table)) => self.track_service(index, number, table, at),
                        (None, None) => {
                            self.problem(at, WRONG_SERVICES);
                            None
                        }
                    });
                }
            }
            Some(Item::ArrayOfTables(blocks)) => {
                for block in blocks {
                    let at = block.span().map_or(0, |span| span.start);
                    services.extend(self.track_service(index, services.len(), block, at));
                }
            }
            Some(other) => self.problem(start(other), WRONG_SERVICES),
        }
        services
    }

    fn service_of_default_weight(
        &mut self,
        index: usize,
        number: usize,
        name: &str,
        at: usize,
    ) -> Option<TrackService> {
        let place = |key| Place::VrrpTrack(index, "track-services", number, key);
        self.places.insert(place("weight"), at);
        let service = self.named_service(name, place("service"), at)?;
        Some(TrackService {
            service,
            weight: DEFAULT_WEIGHT,
        })
    }

    fn track_service(
        &mut self,
        index: usize,
        number: usize,
        table: &dyn TableLike,
        at: usize,
    ) -> Option<TrackService> {
        self.keys(table, &TRACK_SERVICE, "track-services");
        let place = |key| Place::VrrpTrack(index, "track-services", number, key);
        let weight = self.weight(table, place("weight"), at);
        let Some(item) = table.get("service") else {
            self.problem(
                at,
                "track-services has no service: add one, as in `service = \"web\"`",
            );
            return None;
        };
        let name = self.string(table, "service", place("service"))?;
        let service = self.named_service(name, place("service"), start(item))?;
        Some(TrackService { service, weight })
    }

    /// A service by name or by `tcp/ADDRESS:PORT`, in full whatever was written.
    fn named_service(&mut self, name: &str, place: Place, at: usize) -> Option<String> {
        self.places.insert(place, at);
        match name.parse() {
            Ok(ServiceRef::Only) => {
                self.problem(at, "`-` is no service: name the service, as in \"web\"");
                None
            }
            Ok(service) => Some(service.to_string()),
            Err(error) => {
                self.problem(at, error.to_string());
                None
            }
        }
    }

    /// Reads the value of `track-exec`: a table, or a list of tables.
    fn track_exec(&mut self, index: usize, root: &dyn TableLike) -> Vec<TrackExec> {
        const WRONG: &str = "track-exec must be a table or a list of tables, as in `track-exec = { run = [\"/usr/local/bin/check\"] }`";
        let mut programs = Vec::new();
        let Some(item) = root.get("track-exec") else {
            return programs;
        };
        for (at, table) in self.tables(item, WRONG) {
            self.keys(table, &TRACK_EXEC, "track-exec");
            let number = programs.len();
            let place = |key| Place::VrrpTrack(index, "track-exec", number, key);
            let user = self.user(table, place("user"));
            let tries = self.tries(table, place);
            let weight = self.weight(table, place("weight"), at);
            let Some(run) = self.program(table, place("run"), "track-exec", at) else {
                continue;
            };
            programs.push(TrackExec {
                run,
                user,
                interval: tries.interval,
                timeout: tries.timeout,
                fall: tries.fall,
                rise: tries.rise,
                weight,
            });
        }
        programs
    }

    fn tries(&mut self, table: &dyn TableLike, place: impl Fn(&'static str) -> Place) -> Tries {
        let interval = self
            .duration(table, "interval", place("interval"))
            .unwrap_or(DEFAULT_TRACK_INTERVAL);
        let timeout = self.duration(table, "timeout", place("timeout"));
        let fall = self.number(table, "fall", place("fall"), RISE_FALL);
        let rise = self.number(table, "rise", place("rise"), RISE_FALL);
        Tries {
            interval,
            timeout: timeout.unwrap_or_else(|| default_timeout(interval)),
            fall: fall.unwrap_or(DEFAULT_FALL),
            rise: rise.unwrap_or(DEFAULT_RISE),
        }
    }

    /// Reads a weight. Where there is none, `at` is the place of the default.
    fn weight(&mut self, table: &dyn TableLike, place: Place, at: usize) -> u8 {
        self.places.insert(place, at);
        self.byte(table, "weight", place, TRACK_WEIGHT)
            .unwrap_or(DEFAULT_WEIGHT)
    }

    fn announce_interval(
        &mut self,
        table: &dyn TableLike,
        place: Place,
    ) -> Option<Option<Duration>> {
        self.parse_string(table, "announce-interval", place, |text| {
            if text == "never" {
                return Ok(None);
            }
            let interval = duration::parse(text);
            interval
                .map(Some)
                .map_err(|sentence| format!("{sentence}, or \"never\""))
        })
    }
}

const WRONG_SERVICES: &str = "track-services must be a list of services, as in [\"web\"] or [{ service = \"web\", weight = 50 }]";
