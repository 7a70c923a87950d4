//! Makes a model of the configuration file's text. Reports all errors of a file, each with its position. Pure.

pub mod check;
pub(super) mod keys;
pub mod notify;
mod peers;
mod persistence;
mod values;
mod vrrp;

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    time::Duration,
};

use toml_edit::{Document, Item, TableLike, TomlError};

use self::keys::{DATAPLANE, FILE, NODE, REAL, SERVICE, TIMEOUTS};
use super::{
    parts::Parts,
    validate::{Place, Problem, validate},
};
use crate::{
    model::{
        Check, DataplaneSettings, Mode, Model, PortRange, Protocol, RealServer, ServiceKey,
        StrayReplies, Timeouts, VirtualService,
        address::{self, RealRef},
        limits::{MAX_CONNECTIONS, MAX_PERSISTENCE, max_connections_ipv6},
        real::REAL_SETTINGS,
        service::SERVICE_SETTINGS,
    },
    os::printable::printable,
};

/// An error in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ReadError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// Idle timeouts if the file sets none: those of IPVS.
pub const DEFAULT_TIMEOUTS: Timeouts = Timeouts {
    tcp: Duration::from_secs(15 * 60),
    tcp_fin: Duration::from_secs(2 * 60),
    udp: Duration::from_secs(5 * 60),
};
/// Size of the connection table if the file sets none.
pub const DEFAULT_MAX_CONNECTIONS: u32 = 262_144;
/// Size of the table of persistent clients if the file sets none.
pub const DEFAULT_MAX_PERSISTENCE: u32 = 65_536;
/// The ports of connections with full NAT if the file sets none: 50,536.
pub const DEFAULT_SNAT_PORTS: PortRange = PortRange {
    first: 10_000,
    last: 60_535,
};

/// Reads and validates a file's text. `host` is the node's name if the file sets none.
///
/// # Errors
/// All errors in the order of the text; if the text is not TOML, only the first.
pub fn model(text: &str, host: &str) -> Result<Model, Vec<ReadError>> {
    validated(text, host, validate).map(|(model, _)| model)
}

/// As [`model`], with the rules of `validate` in place of the validator's. Returns also which bytes belong to which service.
///
/// # Errors
/// As [`model`].
pub(super) fn validated(
    text: &str,
    host: &str,
    validate: impl FnOnce(&Model) -> Vec<Problem>,
) -> Result<(Model, Parts), Vec<ReadError>> {
    let (document, oversized) = parsed(text).map_err(|error| {
        let message = error.message().trim_end().replace('\n', ", ");
        vec![locate(
            text,
            error.span().map_or(0, |span| span.start),
            message,
        )]
    })?;
    let mut reader = Reader::new(text);
    let model = reader.file(document.as_table(), host);
    reader.name_oversized(&oversized);
    let Reader {
        mut problems,
        places,
        ..
    } = reader;
    for problem in validate(&model) {
        let at = places.get(&problem.place).copied().unwrap_or(0);
        problems.push((at, problem.sentence));
    }
    if problems.is_empty() {
        return Ok((model, Parts::of(document.as_table(), text.len())));
    }
    problems.sort_by_key(|(at, _)| *at);
    if problems.len() > MAX_ERRORS {
        let more = problems.len() - MAX_ERRORS;
        problems.truncate(MAX_ERRORS + 1);
        problems[MAX_ERRORS].1 = format!("here, and from here on, are {more} more errors");
    }
    Err(problems
        .into_iter()
        .map(|(at, message)| locate(text, at, message))
        .collect())
}

/// The byte offset of an interface's name in the file.
pub(super) fn interface_place(text: &str, name: &str) -> Option<usize> {
    let document = Document::parse(text).ok()?;
    let names = document.as_table().get("dataplane")?.get("interfaces")?;
    let mut names = names.as_array()?.iter();
    let named = names.find(|value| value.as_str() == Some(name))?;
    named.span().map(|span| span.start)
}

/// Reads the checks of a service from a request: a table with the file's keys, or a list of such tables.
///
/// # Errors
/// A sentence for each error.
pub fn checks(value: toml_edit::Value) -> Result<Vec<Check>, String> {
    let mut reader = Reader::new("");
    let checks = reader.checks_of(0, &Item::Value(value));
    if reader.problems.is_empty() {
        return Ok(checks);
    }
    let sentences: Vec<_> = reader.problems.into_iter().map(|(_, said)| said).collect();
    Err(sentences.join("; "))
}

/// A file's tables, and the positions of integers that are too large for TOML.
type Parsed<'t> = (Document<Cow<'t, str>>, Vec<Range<usize>>);

/// Parses a file's tables, and finds integers that are too large for TOML. Each is replaced by one of the same length that TOML can
/// hold but that is out of every key's range, so that the error names the key and its range.
fn parsed(text: &str) -> Result<Parsed<'_>, TomlError> {
    let mut fitting = Cow::Borrowed(text);
    let mut oversized = Vec::new();
    loop {
        let error = match Document::parse(fitting.clone()) {
            Ok(document) => return Ok((document, oversized)),
            Err(error) => error,
        };
        if oversized.len() == MAX_OVERSIZED {
            return Err(error);
        }
        let is_number = |span: &Range<usize>| fitting.get(span.clone()).is_some_and(is_oversized);
        let Some(span) = error.span().filter(is_number) else {
            return Err(error);
        };
        let number = format!("{OVERSIZED:<width$}", width = span.len());
        fitting.to_mut().replace_range(span.clone(), &number);
        oversized.push(span);
    }
}

/// Errors of a file that are told.
const MAX_ERRORS: usize = 100;

/// Integers too large for TOML that are named with their keys: each has the text parsed once more.
const MAX_OVERSIZED: usize = 16;

/// Whether this is a decimal integer that is too large for TOML.
fn is_oversized(token: &str) -> bool {
    let digits = token.replace('_', "");
    let number = digits.strip_prefix(['+', '-']).unwrap_or(&digits);
    number.len() >= OVERSIZED.len()
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && digits.parse::<i64>().is_err()
}

/// The integer that replaces one that is too large.
const OVERSIZED: &str = "9223372036854775807";

/// Turns a byte offset into line and column.
pub(super) fn locate(text: &str, offset: usize, message: String) -> ReadError {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    ReadError {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message: printable(&message),
    }
}

/// Collects problems, and the byte offsets of values.
struct Reader<'t> {
    text: &'t str,
    problems: Vec<(usize, String)>,
    places: HashMap<Place, usize>,
}

impl<'t> Reader<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            text,
            problems: Vec::new(),
            places: HashMap::new(),
        }
    }

    /// Puts integers that are too large for TOML back into the problems about them, as the text has them. For one without a problem,
    /// it adds one.
    fn name_oversized(&mut self, oversized: &[Range<usize>]) {
        for span in oversized {
            let number = &self.text[span.clone()];
            let mut is_named = false;
            for (at, sentence) in &mut self.problems {
                if *at == span.start {
                    *sentence = sentence.replacen(OVERSIZED, number, 1);
                    is_named = true;
                }
            }
            if !is_named && self.problems.is_empty() {
                self.problem(span.start, format!("{number} is too large a number"));
            }
        }
    }

    fn file(&mut self, root: &dyn TableLike, host: &str) -> Model {
        self.keys(root, &FILE, "");
        let node = self.table(root, "node", &NODE);
        let node = node.and_then(|table| self.string(table, "name", Place::Node));
        let dataplane = self.dataplane(root);
        Model {
            node: node.unwrap_or(host).to_owned(),
            dataplane,
            services: self.services(root),
            notify: self.notify(root),
            peers: self.peers(root),
            vrrp: self.vrrp(root),
        }
    }

    fn dataplane(&mut self, root: &dyn TableLike) -> DataplaneSettings {
        let mut settings = DataplaneSettings {
            interfaces: Vec::new(),
            mode: Mode::default(),
            max_connections: DEFAULT_MAX_CONNECTIONS,
            max_connections_ipv6: max_connections_ipv6(DEFAULT_MAX_CONNECTIONS),
            max_persistence: DEFAULT_MAX_PERSISTENCE,
            stray_replies: StrayReplies::default(),
            snat_addresses: Vec::new(),
            snat_ports: DEFAULT_SNAT_PORTS,
            timeouts: self.timeouts(root),
        };
        let Some(table) = self.table(root, "dataplane", &DATAPLANE) else {
            return settings;
        };
        settings.interfaces = self.interfaces(table);
        if let Some(mode) = self.one_of(table, "mode", Place::Dataplane("mode")) {
            settings.mode = mode;
        }
        if let Some(number) = self.number(
            table,
            "max-connections",
            Place::Dataplane("max-connections"),
            MAX_CONNECTIONS,
        ) {
            settings.max_connections = number;
            settings.max_connections_ipv6 = max_connections_ipv6(number);
        }
        if let Some(number) = self.number(
            table,
            "max-connections-ipv6",
            Place::Dataplane("max-connections-ipv6"),
            MAX_CONNECTIONS,
        ) {
            settings.max_connections_ipv6 = number;
        }
        if let Some(number) = self.number(
            table,
            "max-persistence",
            Place::Dataplane("max-persistence"),
            MAX_PERSISTENCE,
        ) {
            settings.max_persistence = number;
        }
        if let Some(stray_replies) =
            self.one_of(table, "stray-replies", Place::Dataplane("stray-replies"))
        {
            settings.stray_replies = stray_replies;
        }
        settings.snat_addresses = self.snat_addresses(table);
        if let Some(text) = self.string(table, "snat-ports", Place::Dataplane("snat-ports")) {
            match text.parse() {
                Ok(ports) => settings.snat_ports = ports,
                Err(()) => {
                    let at = table.get("snat-ports").map_or(0, start);
                    self.problem(
                        at,
                        format!(
                            "snat-ports must be the first and the last port, as in \"{DEFAULT_SNAT_PORTS}\""
                        ),
                    );
                }
            }
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

    fn snat_addresses(&mut self, table: &dyn TableLike) -> Vec<IpAddr> {
        let Some(item) = table.get("snat-addresses") else {
            return Vec::new();
        };
        self.places
            .insert(Place::Dataplane("snat-addresses"), start(item));
        let wrong = "snat-addresses must be a list of addresses of this host, as in [\"192.168.0.1\", \"fd00::1\"]";
        let Some(array) = item.as_array() else {
            self.problem(start(item), wrong);
            return Vec::new();
        };
        let mut addresses = Vec::new();
        for value in array {
            match value.as_str().map(str::parse) {
                Some(Ok(address)) => addresses.push(address),
                _ => self.problem(value.span().map_or(0, |span| span.start), wrong),
            }
        }
        addresses
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
            if let Some(duration) = self.duration(table, key, Place::Timeout(key)) {
                *timeout = duration;
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

    /// Reads a service; `None` if it has no valid address.
    fn service(
        &mut self,
        index: usize,
        table: &toml_edit::Table,
        at: usize,
    ) -> Option<VirtualService> {
        self.keys(table, &SERVICE, "service");
        let place = |key| Place::Service(index, key);
        let protocol: Option<Protocol> = self.one_of(table, "protocol", place("protocol"));
        if table.get("address").is_none() {
            self.problem(
                at,
                "service has no address: add one, as in `address = \"192.0.2.80:80\"`",
            );
        }
        let address = self.string(table, "address", place("address"));
        let address = self.parsed(place("address"), address.map(address::service_address));
        // Without an address the real servers are read all the same, to report their errors.
        let key = ServiceKey {
            protocol: protocol.unwrap_or_default(),
            address: address.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)),
        };
        let mut service = VirtualService::new(key);
        service.set(self.settings(table, &SERVICE_SETTINGS, place));
        service.persistence = self.persistence(index, table, key.address.ip());
        service.checks = self.checks(index, table);
        service.reals = self.reals(index, table, &key);
        address.map(|_| service)
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
            let settings = self.settings(table, &REAL_SETTINGS, place);
            if table.get("address").is_none() {
                self.problem(
                    at,
                    "real has no address: add one, as in `address = \"10.0.0.2:80\"`",
                );
            }
            let address = self.string(table, "address", place("address"));
            let address = self.parsed(place("address"), address.map(str::parse::<RealRef>));
            let Some(address) = address else { continue };
            let mut real = RealServer::new(address.within(key));
            real.set(settings);
            reals.push(real);
        }
        reals
    }
}

fn start(item: &Item) -> usize {
    item.span().map_or(0, |Range { start, .. }| start)
}

#[cfg(test)]
mod tests;
