//! Reads `check` of a service: one table or several, each with the keys of its type.

pub(in crate::config) mod keys;

use toml_edit::{Item, TableLike};

use self::keys::{
    ALL, KEYS,
    Kind::{self, Agent, Dns, Exec, Grpc, Http, Https, Ping, Tcp, Udp},
    TLS,
};
use super::{Reader, keys::names, start};
use crate::{
    config::{text, validate::Place},
    model::{
        check::{
            AgentProbe, Check, DnsProbe, Exchange, ExecProbe, GrpcProbe, HttpProbe, Probe, Source,
            Target, Timing, Tls,
        },
        enumeration::listed,
        limits::RISE_FALL,
        names::names,
    },
};

/// Record types that a `dns` check may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Record {
    #[default]
    A,
    Aaaa,
    Cname,
    Mx,
    Ns,
    Soa,
    Srv,
    Txt,
}

names!(Record {
    A = "A",
    Aaaa = "AAAA",
    Cname = "CNAME",
    Mx = "MX",
    Ns = "NS",
    Soa = "SOA",
    Srv = "SRV",
    Txt = "TXT",
});

impl Reader<'_> {
    pub(super) fn checks(&mut self, service: usize, table: &dyn TableLike) -> Vec<Check> {
        table
            .get("check")
            .map(|item| self.checks_of(service, item))
            .unwrap_or_default()
    }

    /// Reads the value of `check`: a table, or a list of tables.
    pub(super) fn checks_of(&mut self, service: usize, item: &Item) -> Vec<Check> {
        const WRONG: &str = "check must be a table: write `[service.check]` on a line of its own";
        let mut checks = Vec::new();
        for (at, table) in self.tables(item, WRONG) {
            if let Some(check) = self.check(service, checks.len(), table, at) {
                checks.push(check);
            }
        }
        checks
    }

    /// Reads a check; `None` if its type, or a key that its type requires, is missing or wrong.
    fn check(
        &mut self,
        service: usize,
        index: usize,
        table: &dyn TableLike,
        at: usize,
    ) -> Option<Check> {
        let place = |key| Place::Check(service, index, key);
        if table.get("type").is_none() {
            self.problem(at, "check has no type: add one, as in `type = \"http\"`");
        }
        let kind = self.one_of(table, "type", place("type"));
        self.check_keys(table, kind);
        let timing = self.timing(table, place);
        let target = Target {
            address: self.parse_string(table, "address", place("address"), text::address),
            // A wrong port counts as set, so that only one problem is reported.
            port: self
                .port(table, "port", place("port"))
                .or_else(|| table.contains_key("port").then_some(1)),
        };
        let source = Source {
            address: self.parse_string(table, "source", place("source"), text::address),
            interface: self
                .string(table, "interface", place("interface"))
                .map(str::to_owned),
            mark: self.number(table, "mark", place("mark"), 0..=u32::MAX),
        };
        let probe = match kind? {
            Tcp => Probe::Tcp(self.exchange(table, place)),
            Udp => Probe::Udp(self.exchange(table, place)),
            Http => Probe::Http(Box::new(self.http(table, None, place))),
            Https => {
                let tls = self.tls(table, place);
                Probe::Http(Box::new(self.http(table, Some(tls), place)))
            }
            Dns => Probe::Dns(self.dns(table, place, at)?),
            Ping => Probe::Ping,
            Grpc => Probe::Grpc(Box::new(self.grpc(table, place))),
            Exec => Probe::Exec(ExecProbe {
                user: self.user(table, place("user")),
                is_monitor: true,
                run: self.program(table, place("run"), "check", at)?,
            }),
            Agent => Probe::Agent(AgentProbe {
                send: self.sent(table, place),
            }),
        };
        Some(Check {
            probe,
            target,
            source,
            timing,
        })
    }

    /// Reports each key that a check of this type does not have.
    fn check_keys(&mut self, table: &dyn TableLike, kind: Option<Kind>) {
        for (name, at) in names(table) {
            let known = KEYS.iter().find(|(key, _)| key.name == name);
            let sentence = match (known, kind) {
                (Some(_), None) => continue,
                (Some((_, kinds)), Some(kind)) if kinds.contains(&kind) => continue,
                (Some((_, kinds)), Some(kind)) => {
                    let kinds: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
                    format!(
                        "`{name}` does not belong to a check of type `{}`: it is for {}",
                        kind.name(),
                        listed(&kinds)
                    )
                }
                (None, kind) => {
                    let keys: Vec<_> = KEYS
                        .iter()
                        .filter(|(_, kinds)| {
                            kind.map_or(*kinds == ALL, |kind| kinds.contains(&kind))
                        })
                        .map(|(key, _)| key.name)
                        .collect();
                    format!(
                        "unknown key `{name}` in `check`: expected {}",
                        listed(&keys)
                    )
                }
            };
            self.problem(at, sentence);
        }
    }

    fn timing(&mut self, table: &dyn TableLike, place: impl Fn(&'static str) -> Place) -> Timing {
        let default = Timing::default();
        let interval = self
            .duration(table, "interval", place("interval"))
            .unwrap_or(default.interval);
        let fast_interval = self.duration(table, "fast-interval", place("fast-interval"));
        let timeout = self.duration(table, "timeout", place("timeout"));
        let rise = self.number(table, "rise", place("rise"), RISE_FALL);
        let fall = self.number(table, "fall", place("fall"), RISE_FALL);
        let initial = self.one_of(table, "initial", place("initial"));
        Timing {
            interval,
            fast_interval,
            timeout: timeout.unwrap_or_else(|| Timing::default_timeout(interval, fast_interval)),
            rise: rise.unwrap_or(default.rise),
            fall: fall.unwrap_or(default.fall),
            initial: initial.unwrap_or_default(),
        }
    }

    fn exchange(
        &mut self,
        table: &dyn TableLike,
        place: impl Fn(&'static str) -> Place,
    ) -> Exchange {
        Exchange {
            send: self.sent(table, &place),
            expect: self.pattern(table, "expect", place("expect")),
        }
    }

    fn sent(&mut self, table: &dyn TableLike, place: impl Fn(&'static str) -> Place) -> Vec<u8> {
        let text = self.string(table, "send", place("send")).map(str::as_bytes);
        let bytes = self.parse_string(table, "send-hex", place("send-hex"), text::hex);
        if text.is_some() && bytes.is_some() {
            self.problem_at(
                place("send-hex"),
                "send and send-hex exclude each other: keep one".to_owned(),
            );
        }
        bytes
            .or_else(|| text.map(<[u8]>::to_vec))
            .unwrap_or_default()
    }

    fn http(
        &mut self,
        table: &dyn TableLike,
        tls: Option<Tls>,
        place: impl Fn(&'static str) -> Place,
    ) -> HttpProbe {
        let default = HttpProbe::default();
        let version = self.one_of(table, "version", place("version"));
        HttpProbe {
            tls,
            version: version.unwrap_or_default(),
            method: self
                .parse_string(table, "method", place("method"), text::method)
                .unwrap_or(default.method),
            host: self.parse_string(table, "host", place("host"), text::host),
            path: self
                .parse_string(table, "path", place("path"), text::path)
                .unwrap_or(default.path),
            headers: self.headers(table),
            request_body: self
                .string(table, "request-body", place("request-body"))
                .unwrap_or_default()
                .to_owned(),
            status: self
                .parse_string(table, "status", place("status"), text::statuses)
                .unwrap_or(default.status),
            body: self.pattern(table, "body", place("body")),
        }
    }

    fn headers(&mut self, table: &dyn TableLike) -> Vec<(String, String)> {
        let wrong = "headers must be a table of strings, as in { Accept = \"text/html\" }";
        let Some(item) = table.get("headers") else {
            return Vec::new();
        };
        let Some(fields) = item.as_table_like() else {
            self.problem(start(item), wrong);
            return Vec::new();
        };
        let mut headers = Vec::new();
        for (name, at) in names(fields) {
            match fields.get(name).and_then(Item::as_str) {
                None => self.problem(at, wrong),
                Some(value) => match text::header(name, value) {
                    Ok(()) => headers.push((name.to_owned(), value.to_owned())),
                    Err(sentence) => self.problem(at, sentence),
                },
            }
        }
        headers
    }

    fn tls(&mut self, table: &dyn TableLike, place: impl Fn(&'static str) -> Place) -> Tls {
        let certificate = self.file_path(table, "certificate", place("certificate"));
        let key = self.file_path(table, "key", place("key"));
        for (named, other) in [("certificate", "key"), ("key", "certificate")] {
            if table.get(named).is_some() && table.get(other).is_none() {
                self.problem_at(
                    place(named),
                    format!("{named} needs {other} beside it: the client shows the one and signs with the other"),
                );
            }
        }
        Tls {
            server_name: self.parse_string(
                table,
                "server-name",
                place("server-name"),
                text::server_name,
            ),
            ca: self.file_path(table, "ca", place("ca")),
            certificate: certificate.zip(key),
            insecure: self
                .boolean(table, "insecure", place("insecure"))
                .unwrap_or_default(),
        }
    }

    fn grpc(&mut self, table: &dyn TableLike, place: impl Fn(&'static str) -> Place) -> GrpcProbe {
        let service = self.string(table, "service", place("service"));
        let secure = self.boolean(table, "tls", place("tls")).unwrap_or_default();
        let tls = self.tls(table, &place);
        if !secure {
            for (name, at) in names(table) {
                let of_tls = KEYS
                    .iter()
                    .any(|(key, kinds)| key.name == name && *kinds == TLS);
                if of_tls {
                    self.problem(at, format!("`{name}` needs `tls = true` beside it"));
                }
            }
        }
        GrpcProbe {
            service: service.unwrap_or_default().to_owned(),
            tls: secure.then_some(tls),
        }
    }

    fn dns(
        &mut self,
        table: &dyn TableLike,
        place: impl Fn(&'static str) -> Place,
        at: usize,
    ) -> Option<DnsProbe> {
        if table.get("name").is_none() {
            self.problem(
                at,
                "check has no name to ask for: add one, as in `name = \"www.example.org\"`",
            );
        }
        let name = self.parse_string(table, "name", place("name"), text::dns_name);
        let record: Option<Record> = self.one_of(table, "record", place("record"));
        let record = record.unwrap_or_default();
        let answer = self.parse_string(table, "answer", place("answer"), |answer| match record {
            Record::A if answer.parse::<std::net::Ipv4Addr>().is_err() => {
                Err("is no IPv4 address, which the answer to record `A` is".to_owned())
            }
            Record::Aaaa if answer.parse::<std::net::Ipv6Addr>().is_err() => {
                Err("is no IPv6 address, which the answer to record `AAAA` is".to_owned())
            }
            _ => Ok(answer.to_owned()),
        });
        Some(DnsProbe {
            name: name?,
            record: record.name().to_owned(),
            answer,
        })
    }
}

#[cfg(test)]
mod tests;
