//! The configuration file's text → the model. All errors of a file are found, each with its place. Pure.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    time::Duration,
};

use toml_edit::{Document, Item, Key, TableLike};

use super::validate::{Place, validate};
use crate::{
    address::{self, RealRef},
    change::DEFAULT_WEIGHT,
    model::{
        DataplaneSettings, ForwardMethod, Mode, Model, NoReal, Protocol, RealServer, Scheduler, ServiceKey,
        Timeouts, VirtualService,
    },
};

/// An error in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// Idle timeouts when the file names none: those of IPVS.
pub const DEFAULT_TIMEOUTS: Timeouts = Timeouts {
    tcp: Duration::from_secs(15 * 60),
    tcp_fin: Duration::from_secs(2 * 60),
    udp: Duration::from_secs(5 * 60),
};
/// Size of the connection table when the file names none.
pub const DEFAULT_MAX_CONNECTIONS: u32 = 262_144;

/// Reads and validates a file's text. `host` names the node when the file does not.
///
/// # Errors
/// All that is wrong, in the order of the text; only the first error when it is not TOML.
pub fn model(text: &str, host: &str) -> Result<Model, Vec<Error>> {
    let document = Document::parse(text).map_err(|error| {
        let message = error.message().trim_end().replace('\n', ", ");
        vec![locate(text, error.span().map_or(0, |span| span.start), message)]
    })?;
    let mut reader = Reader { problems: Vec::new(), places: HashMap::new() };
    let model = reader.file(document.as_table(), host);
    let Reader { mut problems, places } = reader;
    for problem in validate(&model) {
        let at = places.get(&problem.place).copied().unwrap_or(0);
        problems.push((at, problem.sentence));
    }
    if problems.is_empty() {
        return Ok(model);
    }
    problems.sort_by_key(|(at, _)| *at);
    Err(problems.into_iter().map(|(at, message)| locate(text, at, message)).collect())
}

/// Turns a byte offset into line and column.
fn locate(text: &str, offset: usize, message: String) -> Error {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Error {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message,
    }
}

/// What stands in a table and is known: built, or planned and refused until it is.
struct Keys {
    known: &'static [&'static str],
    later: &'static [&'static str],
}

const FILE: Keys =
    Keys { known: &["node", "dataplane", "timeouts", "service"], later: &["metrics", "notify", "vrrp"] };
const NODE: Keys = Keys { known: &["name"], later: &[] };
const DATAPLANE: Keys = Keys { known: &["interfaces", "mode", "max-connections", "masquerade"], later: &[] };
const TIMEOUTS: Keys = Keys { known: &["tcp", "tcp-fin", "udp"], later: &[] };
const SERVICE: Keys = Keys {
    known: &["name", "address", "protocol", "scheduler", "no-real", "real"],
    later: &["persistence", "group", "check"],
};
const REAL: Keys = Keys { known: &["address", "weight", "forwarding"], later: &["backup", "upper", "lower"] };

/// Collects problems and remembers where values stand, as byte offsets.
struct Reader {
    problems: Vec<(usize, String)>,
    places: HashMap<Place, usize>,
}

impl Reader {
    fn file(&mut self, root: &dyn TableLike, host: &str) -> Model {
        self.keys(root, &FILE, "");
        let node = self.table(root, "node", &NODE);
        let node = node.and_then(|table| self.string(table, "name", Place::Node));
        let dataplane = self.dataplane(root);
        Model {
            node: node.unwrap_or(host).to_owned(),
            dataplane,
            services: self.services(root),
        }
    }

    fn dataplane(&mut self, root: &dyn TableLike) -> DataplaneSettings {
        let mut settings = DataplaneSettings {
            interfaces: Vec::new(),
            mode: Mode::default(),
            max_connections: DEFAULT_MAX_CONNECTIONS,
            timeouts: self.timeouts(root),
        };
        let Some(table) = self.table(root, "dataplane", &DATAPLANE) else {
            return settings;
        };
        settings.interfaces = self.interfaces(table);
        if let Some(mode) = self.one_of(
            table,
            "mode",
            Place::Dataplane("mode"),
            &[("auto", Mode::Auto), ("native", Mode::Native), ("generic", Mode::Generic)],
            &[],
        ) {
            settings.mode = mode;
        }
        if let Some(number) = self.number(table, "max-connections", Place::Dataplane("max-connections")) {
            settings.max_connections = number;
        }
        if let Some(item) = table.get("masquerade") {
            match item.as_bool() {
                Some(false) => {}
                Some(true) => self.problem(start(item), "this version does not have `masquerade` yet: set it to false"),
                None => self.problem(start(item), "masquerade must be true or false"),
            }
        }
        settings
    }

    fn interfaces(&mut self, table: &dyn TableLike) -> Vec<String> {
        let Some(item) = table.get("interfaces") else {
            return Vec::new();
        };
        self.places.insert(Place::Dataplane("interfaces"), start(item));
        let wrong = "interfaces must be a list of names, as in [\"eth0\"]";
        let Some(array) = item.as_array() else {
            self.problem(start(item), wrong);
            return vec!["unknown".to_owned()]; // not empty: one problem is enough
        };
        let mut names = Vec::new();
        for value in array {
            let at = value.span().map_or(0, |span| span.start);
            self.places.insert(Place::Interface(names.len()), at);
            match value.as_str() {
                Some(name) => names.push(name.to_owned()),
                None => self.problem(at, wrong),
            }
        }
        names
    }

    fn timeouts(&mut self, root: &dyn TableLike) -> Timeouts {
        let mut timeouts = DEFAULT_TIMEOUTS;
        let Some(table) = self.table(root, "timeouts", &TIMEOUTS) else {
            return timeouts;
        };
        for (key, timeout) in [
            ("tcp", &mut timeouts.tcp),
            ("tcp-fin", &mut timeouts.tcp_fin),
            ("udp", &mut timeouts.udp),
        ] {
            let Some(text) = self.string(table, key, Place::Timeout(key)) else { continue };
            match humantime::parse_duration(text) {
                Ok(duration) => *timeout = duration,
                Err(_) => self.problem_at(
                    Place::Timeout(key),
                    format!("{key} `{text}` is not a duration: write it with its unit, as in \"15m\" or \"90s\""),
                ),
            }
        }
        timeouts
    }

    fn services(&mut self, root: &dyn TableLike) -> Vec<VirtualService> {
        let mut services = Vec::new();
        for table in self.blocks(root, "service", "[[service]]") {
            let at = table.span().map_or(0, |span| span.start);
            if let Some(service) = self.service(services.len(), table, at) {
                services.push(service);
            }
        }
        services
    }

    /// Reads a service; `None` when there is no address to know it by.
    fn service(&mut self, index: usize, table: &toml_edit::Table, at: usize) -> Option<VirtualService> {
        self.keys(table, &SERVICE, "service");
        let place = |key| Place::Service(index, key);
        let name = self.string(table, "name", place("name")).map(str::to_owned);
        let protocol = self.one_of(
            table,
            "protocol",
            place("protocol"),
            &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)],
            &[],
        );
        let scheduler = self.one_of(
            table,
            "scheduler",
            place("scheduler"),
            &[("rr", Scheduler::Rr), ("wrr", Scheduler::Wrr)],
            &LATER_SCHEDULERS,
        );
        let no_real = self.one_of(
            table,
            "no-real",
            place("no-real"),
            &[("reject", NoReal::Reject), ("drop", NoReal::Drop)],
            &[],
        );
        if table.get("address").is_none() {
            self.problem(at, "service has no address: add one, as in `address = \"192.0.2.80:80\"`");
        }
        let address = self.string(table, "address", place("address"));
        let address = self.parsed(place("address"), address.map(address::service_address));
        // Without an address the real servers are still worth reading for their own errors.
        let key = ServiceKey {
            protocol: protocol.unwrap_or_default(),
            address: address.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)),
        };
        let reals = self.reals(index, table, &key);
        address?;
        Some(VirtualService {
            key,
            name,
            scheduler: scheduler.unwrap_or_default(),
            no_real: no_real.unwrap_or_default(),
            reals,
            runtime: false,
        })
    }

    fn reals(&mut self, service: usize, table: &toml_edit::Table, key: &ServiceKey) -> Vec<RealServer> {
        let mut reals = Vec::new();
        for table in self.blocks(table, "real", "[[service.real]]") {
            self.keys(table, &REAL, "real");
            let place = |key| Place::Real(service, reals.len(), key);
            let at = table.span().map_or(0, |span| span.start);
            let weight = self.number(table, "weight", place("weight"));
            let forwarding = self.one_of(
                table,
                "forwarding",
                place("forwarding"),
                &[("nat", ForwardMethod::Nat)],
                &LATER_FORWARDING,
            );
            if table.get("address").is_none() {
                self.problem(at, "real has no address: add one, as in `address = \"10.0.0.2:80\"`");
            }
            let address = self.string(table, "address", place("address"));
            let address = self.parsed(place("address"), address.map(str::parse::<RealRef>));
            let Some(address) = address else { continue };
            reals.push(RealServer {
                address: address.within(key),
                weight: weight.unwrap_or(DEFAULT_WEIGHT),
                forwarding: forwarding.unwrap_or_default(),
                runtime: false,
            });
        }
        reals
    }

    /// Complains about each key that is not known, or not built yet.
    fn keys(&mut self, table: &dyn TableLike, keys: &Keys, within: &str) {
        for (name, item) in table.iter() {
            if keys.known.contains(&name) {
                continue;
            }
            let at = table.key(name).and_then(Key::span).map_or_else(|| start(item), |span| span.start);
            if keys.later.contains(&name) {
                self.problem(at, format!("this version does not have `{name}` yet: remove it"));
                continue;
            }
            let place = if within.is_empty() { String::new() } else { format!(" in `{within}`") };
            self.problem(at, format!("unknown key `{name}`{place}: expected {}", listed(keys.known)));
        }
    }

    fn table<'a>(&mut self, root: &'a dyn TableLike, name: &str, keys: &Keys) -> Option<&'a dyn TableLike> {
        let item = root.get(name)?;
        let Some(table) = item.as_table_like() else {
            self.problem(start(item), format!("{name} must be a table: write `[{name}]` on a line of its own"));
            return None;
        };
        self.keys(table, keys, name);
        Some(table)
    }

    /// The blocks of an array of tables.
    fn blocks<'a>(
        &mut self,
        table: &'a dyn TableLike,
        name: &str,
        header: &str,
    ) -> Vec<&'a toml_edit::Table> {
        let Some(item) = table.get(name) else {
            return Vec::new();
        };
        let Some(array) = item.as_array_of_tables() else {
            self.problem(start(item), format!("write each {name} as a block of its own that begins with `{header}`"));
            return Vec::new();
        };
        array.iter().collect()
    }

    fn string<'a>(&mut self, table: &'a dyn TableLike, key: &str, place: Place) -> Option<&'a str> {
        let item = table.get(key)?;
        self.places.insert(place, start(item));
        let text = item.as_str();
        if text.is_none() {
            self.problem(start(item), format!("{key} must be a string in quotes"));
        }
        text
    }

    fn number(&mut self, table: &dyn TableLike, key: &str, place: Place) -> Option<u32> {
        let item = table.get(key)?;
        self.places.insert(place, start(item));
        let Some(number) = item.as_integer() else {
            self.problem(start(item), format!("{key} must be a whole number"));
            return None;
        };
        // Whatever does not fit is far out of range in either direction; the validator names the range.
        match u32::try_from(number) {
            Ok(number) => Some(number),
            Err(_) => {
                let range = match place {
                    Place::Real(..) => 0..=crate::model::MAX_WEIGHT,
                    _ => super::validate::MAX_CONNECTIONS,
                };
                let (least, most) = range.into_inner();
                self.problem(start(item), format!("{key} {number} is out of range: {least}..={most}"));
                None
            }
        }
    }

    fn one_of<T: Copy>(
        &mut self,
        table: &dyn TableLike,
        key: &str,
        place: Place,
        known: &[(&str, T)],
        later: &[&str],
    ) -> Option<T> {
        let text = self.string(table, key, place)?;
        let value = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if value.is_none() {
            let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            let sentence = if later.contains(&text) {
                format!("this version does not have {key} `{text}` yet: expected {}", listed(&names))
            } else {
                format!("{key} `{text}` is not known: expected {}", listed(&names))
            };
            self.problem_at(place, sentence);
        }
        value
    }

    fn parsed<T>(&mut self, place: Place, result: Option<Result<T, address::Error>>) -> Option<T> {
        match result? {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem_at(place, error.to_string());
                None
            }
        }
    }

    fn problem_at(&mut self, place: Place, sentence: String) {
        let at = self.places.get(&place).copied().unwrap_or(0);
        self.problem(at, sentence);
    }

    fn problem(&mut self, at: usize, sentence: impl Into<String>) {
        self.problems.push((at, sentence.into()));
    }
}

/// Schedulers that are planned.
pub const LATER_SCHEDULERS: [&str; 6] = ["lc", "wlc", "sed", "nq", "sh", "mh"];
/// Forwarding methods that are planned.
pub const LATER_FORWARDING: [&str; 3] = ["full-nat", "direct", "tunnel"];

fn start(item: &Item) -> usize {
    item.span().map_or(0, |Range { start, .. }| start)
}

/// Names in a sentence: "`a`, `b` or `c`".
pub fn listed(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// Names in a sentence, of which there may be very many.
pub fn listed_few(names: &[String]) -> String {
    const FEW: usize = 10;
    let few: Vec<_> = names.iter().take(FEW).map(String::as_str).collect();
    let more = names.len().saturating_sub(FEW);
    if more == 0 { listed(&few) } else { format!("`{}` (and {more} more)", few.join("`, `")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        model(text, "lb1").unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_contracts_example_as_far_as_it_is_built_is_read() {
        let text = r#"
[dataplane]
interfaces = ["eth0", "eth1"]      # the XDP program is attached to each
mode = "native"
max-connections = 4096
masquerade = false

[timeouts]                          # humantime
tcp = "20m"
tcp-fin = "1m 30s"
udp = "10s"

[[service]]
name = "web"
address = "192.168.1.35:80"
protocol = "tcp"
scheduler = "rr"
no-real = "drop"

  [[service.real]]
  address = "192.168.0.2:8080"
  weight = 0
  forwarding = "nat"

  [[service.real]]
  address = "192.168.0.3"

[[service]]
address = "[2001:db8::80]:53"
protocol = "udp"

[node]
name = "lb7"
"#;
        let expected = Model {
            node: "lb7".to_owned(),
            dataplane: DataplaneSettings {
                interfaces: vec!["eth0".to_owned(), "eth1".to_owned()],
                mode: Mode::Native,
                max_connections: 4096,
                timeouts: Timeouts {
                    tcp: Duration::from_secs(1200),
                    tcp_fin: Duration::from_secs(90),
                    udp: Duration::from_secs(10),
                },
            },
            services: vec![
                VirtualService {
                    key: address::service_key("192.168.1.35:80").unwrap(),
                    name: Some("web".to_owned()),
                    scheduler: Scheduler::Rr,
                    no_real: NoReal::Drop,
                    reals: vec![
                        RealServer {
                            address: "192.168.0.2:8080".parse().unwrap(),
                            weight: 0,
                            forwarding: ForwardMethod::Nat,
                            runtime: false,
                        },
                        RealServer {
                            address: "192.168.0.3:80".parse().unwrap(),
                            weight: 1,
                            forwarding: ForwardMethod::Nat,
                            runtime: false,
                        },
                    ],
                    runtime: false,
                },
                VirtualService {
                    key: address::service_key("udp/[2001:db8::80]:53").unwrap(),
                    name: None,
                    scheduler: Scheduler::Wrr,
                    no_real: NoReal::Reject,
                    reals: Vec::new(),
                    runtime: false,
                },
            ],
        };
        assert_eq!(model(text, "lb1"), Ok(expected));
    }

    #[test]
    fn what_is_not_named_has_its_default() {
        let read = model("dataplane = { interfaces = [\"eth0\"] }", "host").unwrap();
        let expected = Model {
            node: "host".to_owned(),
            dataplane: DataplaneSettings {
                interfaces: vec!["eth0".to_owned()],
                mode: Mode::Auto,
                max_connections: 262_144,
                timeouts: DEFAULT_TIMEOUTS,
            },
            services: Vec::new(),
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn a_syntax_error_stands_alone_with_its_place() {
        assert_eq!(
            errors("[dataplane]\ninterfaces = [\"eth0\"\n[[service]]\nadress = 1\n"),
            ["3:1: missing comma between array elements, expected `,`"]
        );
    }

    #[test]
    fn every_error_of_a_file_is_told_in_its_order_with_line_and_column() {
        let text = r#"[dataplane]
interfaces = ["eth0", "eth0", "a name", 7]
mode = "fast"
max-connections = 12
masquerade = true
colour = "red"

[timeouts]
tcp = "0s"
tcp-fin = "soon"
udp = 5

[metrics]
listen = "127.0.0.1:9808"

[[service]]
# no address to know it by
address = "192.0.2.80"
protocol = "sctp"
scheduler = "wlc"
persistence = { timeout = "5m" }
  [service.check]
  type = "http"
  [[service.real]]
  address = "10.0.0.2:99999"
  weight = "heavy"

[[service]]
name = "web"
address = "192.0.2.80:80"
scheduler = "random"
  [[service.real]]
  weight = 1
  [[service.real]]
  address = "2001:db8::2"
  [[service.real]]
  address = "10.0.0.2:0"
  weight = 65536
  forwarding = "tunnel"
  [[service.real]]
  address = "10.0.0.3"
  weight = -1
  backup = true
  [[service.real]]
  address = "10.0.0.3:80"

[[service]]
name = "web"
address = "192.0.2.80:80"

[[service]]
no-real = "ignore"

[[service]]
name = "1web"
address = "192.0.2.80:81"
"#;
        assert_eq!(
            errors(text),
            [
                "2:23: interface `eth0` is named twice: name it once",
                "2:31: `a name` is no interface name: 1 to 15 bytes without space or `/`",
                "2:41: interfaces must be a list of names, as in [\"eth0\"]",
                "3:8: mode `fast` is not known: expected `auto`, `native` or `generic`",
                "4:19: max-connections 12 is out of range: 1024..=16777216",
                "5:14: this version does not have `masquerade` yet: set it to false",
                "6:1: unknown key `colour` in `dataplane`: expected `interfaces`, `mode`, `max-connections` or `masquerade`",
                "9:7: timeout tcp of 0s is out of range: 1s to 7days",
                "10:11: tcp-fin `soon` is not a duration: write it with its unit, as in \"15m\" or \"90s\"",
                "11:7: udp must be a string in quotes",
                "13:2: this version does not have `metrics` yet: remove it",
                "18:11: `192.0.2.80` has no port: write `192.0.2.80:80` (port 0 stands for every port)",
                "19:12: protocol `sctp` is not known: expected `tcp` or `udp`",
                "20:13: this version does not have scheduler `wlc` yet: expected `rr` or `wrr`",
                "21:1: this version does not have `persistence` yet: remove it",
                "22:12: this version does not have `check` yet: remove it",
                "25:13: port `99999` is not a number in 0..=65535",
                "26:12: weight must be a whole number",
                "31:13: scheduler `random` is not known: expected `rr` or `wrr`",
                "32:3: real has no address: add one, as in `address = \"10.0.0.2:80\"`",
                "35:13: real [2001:db8::2]:80 is not of the family of service tcp/192.0.2.80:80: both must be IPv4 or both IPv6",
                "37:13: real 10.0.0.2:0 has port 0, but service tcp/192.0.2.80:80 is on one port: give the real's port",
                "38:12: weight 65536 of real 10.0.0.2:0 is out of range: 0..=65535",
                "39:16: this version does not have forwarding `tunnel` yet: expected `nat`",
                "42:12: weight -1 is out of range: 0..=65535",
                "43:3: this version does not have `backup` yet: remove it",
                "45:13: real 10.0.0.3:80 is there twice in service tcp/192.0.2.80:80: name it once",
                "48:8: name `web` is taken by service tcp/192.0.2.80:80: choose another",
                "49:11: service tcp/192.0.2.80:80 is there twice: address, port and protocol must differ",
                "51:1: service has no address: add one, as in `address = \"192.0.2.80:80\"`",
                "52:11: no-real `ignore` is not known: expected `reject` or `drop`",
                "55:8: `1web` is no name for a service: a letter, then up to 62 letters, digits, `.`, `_` or `-`",
            ]
        );
    }

    #[test]
    fn addresses_that_cannot_work_are_refused() {
        for (vip, real, expected) in [
            ("0.0.0.0:80", "10.0.0.2:80", "3:11: address 0.0.0.0 of a service is unspecified: use the address itself"),
            ("224.0.0.1:80", "10.0.0.2:80", "3:11: address 224.0.0.1 of a service is a multicast address: use a unicast address"),
            ("255.255.255.255:80", "10.0.0.2:80", "3:11: address 255.255.255.255 of a service is the broadcast address: use a unicast address"),
            ("127.0.0.1:80", "10.0.0.2:80", "3:11: address 127.0.0.1 of a service is a loopback address, which never leaves the host: use an address on the network"),
            ("[::]:80", "[2001:db8::2]:80", "3:11: address :: of a service is unspecified: use the address itself"),
            ("[::ffff:192.0.2.80]:80", "[2001:db8::2]:80", "3:11: address ::ffff:192.0.2.80 of a service is an IPv4 address in IPv6 form: write the IPv4 address"),
            ("[2001:db8::80]:80", "[fe80::2]:80", "5:11: address fe80::2 of a real is link-local, which is not forwarded: use a global or unique local address"),
            ("[2001:db8::80]:80", "[ff02::2]:80", "5:11: address ff02::2 of a real is a multicast address: use a unicast address"),
            ("[2001:db8::80]:80", "[::1]:80", "5:11: address ::1 of a real is a loopback address, which never leaves the host: use an address on the network"),
            ("192.0.2.80:80", "192.0.2.80:80", "5:11: real 192.0.2.80:80 is itself the address of a service: name the server behind it"),
            ("192.0.2.80:0", "192.0.2.80:81", "5:11: real 192.0.2.80:81 is itself the address of a service: name the server behind it"),
        ] {
            let text = format!(
                "dataplane.interfaces = [\"eth0\"]\n[[service]]\naddress = \"{vip}\"\n[[service.real]]\naddress = \"{real}\"\n"
            );
            assert_eq!(errors(&text), [expected]);
        }
    }

    #[test]
    fn a_service_on_every_port_takes_reals_with_and_without_a_port() {
        let text = "dataplane.interfaces = [\"eth0\"]\n[[service]]\naddress = \"192.0.2.80:0\"\n\
                    [[service.real]]\naddress = \"10.0.0.2\"\n[[service.real]]\naddress = \"10.0.0.2:80\"\n";
        let model = model(text, "lb1").unwrap();
        let reals: Vec<_> = model.services[0].reals.iter().map(|real| real.address.to_string()).collect();
        assert_eq!(reals, ["10.0.0.2:0", "10.0.0.2:80"]);
    }

    #[test]
    fn a_file_without_interfaces_is_refused() {
        let empty = "interfaces is empty: name at least one, as in `interfaces = [\"eth0\"]`";
        assert_eq!(errors(""), [format!("1:1: {empty}")]);
        assert_eq!(errors("[dataplane]\ninterfaces = []"), [format!("2:14: {empty}")]);
        assert_eq!(errors("dataplane = 1"), [
            format!("1:1: {empty}"),
            "1:13: dataplane must be a table: write `[dataplane]` on a line of its own".to_owned()
        ]);
    }

    #[test]
    fn services_and_reals_are_written_as_blocks() {
        let text = "service = [{ address = \"192.0.2.80:80\" }]\ndataplane.interfaces = [\"eth0\"]\n";
        assert_eq!(errors(text), ["1:11: write each service as a block of its own that begins with `[[service]]`"]);
        let text = "dataplane.interfaces = [\"eth0\"]\n[[service]]\naddress = \"192.0.2.80:80\"\nreal = [\"10.0.0.2\"]\n";
        assert_eq!(errors(text), ["4:8: write each real as a block of its own that begins with `[[service.real]]`"]);
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(errors("node.name = \"é\" # é\ndataplane = { interfaces = [\"é\", \"é\"] }"), [
            "2:34: interface `é` is named twice: name it once"
        ]);
    }

    #[test]
    fn the_timeouts_bounds_are_allowed() {
        for (timeout, good) in [("999ms", false), ("1s", true), ("7days", true), ("7days 1s", false)] {
            let text = format!("dataplane.interfaces = [\"eth0\"]\ntimeouts.udp = \"{timeout}\"");
            assert_eq!(model(&text, "lb1").is_ok(), good, "{timeout}");
        }
    }
}
