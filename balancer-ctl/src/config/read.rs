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
        AdminState, DataplaneSettings, ForwardMethod, HealthPolicy, Mode, Model, NoReal, Protocol,
        RealServer, Scheduler, ServiceKey, Timeouts, VirtualService,
    },
    sentence::listed,
};

/// An error in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
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
        vec![locate(
            text,
            error.span().map_or(0, |span| span.start),
            message,
        )]
    })?;
    let mut reader = Reader {
        problems: Vec::new(),
        places: HashMap::new(),
    };
    let model = reader.file(document.as_table(), host);
    let Reader {
        mut problems,
        places,
    } = reader;
    for problem in validate(&model) {
        let at = places.get(&problem.place).copied().unwrap_or(0);
        problems.push((at, problem.sentence));
    }
    if problems.is_empty() {
        return Ok(model);
    }
    problems.sort_by_key(|(at, _)| *at);
    Err(problems
        .into_iter()
        .map(|(at, message)| locate(text, at, message))
        .collect())
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

const FILE: Keys = Keys {
    known: &["node", "dataplane", "timeouts", "service"],
    later: &["metrics", "notify", "vrrp"],
};
const NODE: Keys = Keys {
    known: &["name"],
    later: &[],
};
const DATAPLANE: Keys = Keys {
    known: &["interfaces", "mode", "max-connections", "masquerade"],
    later: &[],
};
const TIMEOUTS: Keys = Keys {
    known: &["tcp", "tcp-fin", "udp"],
    later: &[],
};
const SERVICE: Keys = Keys {
    known: &[
        "name",
        "address",
        "protocol",
        "scheduler",
        "no-real",
        "real",
    ],
    later: &["persistence", "group", "check"],
};
const REAL: Keys = Keys {
    known: &["address", "weight", "forwarding"],
    later: &["backup", "upper", "lower"],
};

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
            notify: Vec::new(),
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
            &[
                ("auto", Mode::Auto),
                ("native", Mode::Native),
                ("generic", Mode::Generic),
            ],
            &[],
        ) {
            settings.mode = mode;
        }
        if let Some(number) = self.number(
            table,
            "max-connections",
            Place::Dataplane("max-connections"),
        ) {
            settings.max_connections = number;
        }
        if let Some(item) = table.get("masquerade") {
            match item.as_bool() {
                Some(false) => {}
                Some(true) => self.problem(
                    start(item),
                    "this version does not have `masquerade` yet: set it to false",
                ),
                None => self.problem(start(item), "masquerade must be true or false"),
            }
        }
        settings
    }

    fn interfaces(&mut self, table: &dyn TableLike) -> Vec<String> {
        let Some(item) = table.get("interfaces") else {
            return Vec::new();
        };
        self.places
            .insert(Place::Dataplane("interfaces"), start(item));
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
            let Some(text) = self.string(table, key, Place::Timeout(key)) else {
                continue;
            };
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
    fn service(
        &mut self,
        index: usize,
        table: &toml_edit::Table,
        at: usize,
    ) -> Option<VirtualService> {
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
            self.problem(
                at,
                "service has no address: add one, as in `address = \"192.0.2.80:80\"`",
            );
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
            checks: Vec::new(),
            health: HealthPolicy::default(),
            reals,
            runtime: false,
        })
    }

    fn reals(
        &mut self,
        service: usize,
        table: &toml_edit::Table,
        key: &ServiceKey,
    ) -> Vec<RealServer> {
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
                self.problem(
                    at,
                    "real has no address: add one, as in `address = \"10.0.0.2:80\"`",
                );
            }
            let address = self.string(table, "address", place("address"));
            let address = self.parsed(place("address"), address.map(str::parse::<RealRef>));
            let Some(address) = address else { continue };
            reals.push(RealServer {
                address: address.within(key),
                weight: weight.unwrap_or(DEFAULT_WEIGHT),
                forwarding: forwarding.unwrap_or_default(),
                backup: false,
                state: AdminState::Ready,
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
            let at = table
                .key(name)
                .and_then(Key::span)
                .map_or_else(|| start(item), |span| span.start);
            if keys.later.contains(&name) {
                self.problem(
                    at,
                    format!("this version does not have `{name}` yet: remove it"),
                );
                continue;
            }
            let place = if within.is_empty() {
                String::new()
            } else {
                format!(" in `{within}`")
            };
            self.problem(
                at,
                format!(
                    "unknown key `{name}`{place}: expected {}",
                    listed(keys.known)
                ),
            );
        }
    }

    fn table<'a>(
        &mut self,
        root: &'a dyn TableLike,
        name: &str,
        keys: &Keys,
    ) -> Option<&'a dyn TableLike> {
        let item = root.get(name)?;
        let Some(table) = item.as_table_like() else {
            self.problem(
                start(item),
                format!("{name} must be a table: write `[{name}]` on a line of its own"),
            );
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
            self.problem(
                start(item),
                format!("write each {name} as a block of its own that begins with `{header}`"),
            );
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
                self.problem(
                    start(item),
                    format!("{key} {number} is out of range: {least}..={most}"),
                );
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
        let value = known
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, value)| *value);
        if value.is_none() {
            let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            let sentence = if later.contains(&text) {
                format!(
                    "this version does not have {key} `{text}` yet: expected {}",
                    listed(&names)
                )
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

#[cfg(test)]
mod tests;
