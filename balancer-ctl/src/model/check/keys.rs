//! A check in the configuration file's keys, as TOML and as JSON; keys that have their default are left out. Pure.

use std::path::Path;

use toml_edit::{Array, InlineTable, Value};

use super::{
    AgentProbe, Check, DnsProbe, Exchange, ExecProbe, GrpcProbe, HttpProbe, HttpVersion, Initial,
    Probe, Timing, Tls, from_statuses,
};
use crate::model::{duration, toml_json};

/// A check as an inline table.
#[must_use]
pub fn table(check: &Check) -> InlineTable {
    let Check {
        probe,
        target,
        source,
        timing,
    } = check;
    let mut words = Words(InlineTable::new());
    words.put("type", probe.name());
    words.timing(timing);
    words.some("address", target.address.map(|address| address.to_string()));
    words.some("port", target.port.map(i64::from));
    match probe {
        Probe::Tcp(exchange) | Probe::Udp(exchange) => words.exchange(exchange),
        Probe::Http(http) => words.http(http),
        Probe::Dns(DnsProbe {
            name,
            record,
            answer,
        }) => {
            words.put("name", name);
            words.some("record", unusual(record.as_str(), "A"));
            words.some("answer", answer.as_deref().map(one_line));
        }
        Probe::Ping => {}
        Probe::Grpc(grpc) => {
            let GrpcProbe { service, tls } = &**grpc;
            words.some("service", unusual(service.as_str(), "").map(one_line));
            if let Some(tls) = tls {
                words.put("tls", true);
                words.tls(tls);
            }
        }
        Probe::Exec(ExecProbe { run, user }) => {
            let run: Array = run.iter().map(|word| one_line(word)).collect();
            words.put("run", run);
            words.some("user", user.as_deref().map(one_line));
        }
        Probe::Agent(AgentProbe { send }) => words.sent(send),
    }
    words.some("source", source.address.map(|address| address.to_string()));
    words.some("interface", source.interface.as_ref());
    words.some("mark", source.mark.map(i64::from));
    words.0
}

/// A check as JSON.
#[must_use]
pub fn json(check: &Check) -> serde_json::Value {
    toml_json::to_json(&table(check).into())
}

/// The JSON of a check without the keys of [`Timing`]: what is asked, whenever it is asked.
#[must_use]
pub fn question(mut check: serde_json::Value) -> serde_json::Value {
    if let Some(keys) = check.as_object_mut() {
        for key in TIMING {
            keys.remove(key);
        }
    }
    check
}

/// A check in a few words: "http every 5s".
#[must_use]
pub fn summary(check: &Check) -> String {
    format!(
        "{} every {}",
        check.probe.name(),
        duration::exact(check.timing.interval)
    )
}

/// The keys of [`Timing`].
const TIMING: [&str; 6] = [
    "interval",
    "fast-interval",
    "timeout",
    "rise",
    "fall",
    "initial",
];

struct Words(InlineTable);

impl Words {
    fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key, value.into());
    }

    fn some(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    fn timing(&mut self, timing: &Timing) {
        let Timing {
            interval,
            fast_interval,
            timeout,
            rise,
            fall,
            initial,
        } = timing;
        let usual = Timing::default();
        let shown = duration::exact;
        self.some("interval", unusual(*interval, usual.interval).map(shown));
        self.some("fast-interval", fast_interval.map(shown));
        let default_timeout = Timing::default_timeout(*interval, *fast_interval);
        self.some("timeout", unusual(*timeout, default_timeout).map(shown));
        self.some("rise", unusual(*rise, usual.rise).map(i64::from));
        self.some("fall", unusual(*fall, usual.fall).map(i64::from));
        let initial = unusual(*initial, Initial::default());
        self.some("initial", initial.map(Initial::name));
    }

    fn exchange(&mut self, Exchange { send, expect }: &Exchange) {
        self.sent(send);
        self.some(
            "expect",
            expect.as_ref().map(|pattern| one_line(pattern.as_str())),
        );
    }

    fn sent(&mut self, bytes: &[u8]) {
        let is_text = |text: &&str| {
            !text
                .chars()
                .any(|c| c.is_control() && !"\r\n\t".contains(c))
        };
        match std::str::from_utf8(bytes).ok().filter(is_text) {
            Some("") => {}
            Some(text) => self.put("send", one_line(text)),
            None => {
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                self.put("send-hex", digits);
            }
        }
    }

    fn http(&mut self, http: &HttpProbe) {
        let HttpProbe {
            tls,
            version,
            method,
            host,
            path,
            headers,
            status,
            body,
        } = http;
        let usual = HttpProbe::default();
        self.some("method", unusual(method, &usual.method));
        self.some("host", host.as_ref());
        self.some("path", unusual(path, &usual.path));
        if !headers.is_empty() {
            let fields: InlineTable = headers
                .iter()
                .map(|(name, value)| (name.as_str(), Value::from(value)))
                .collect();
            self.put("headers", fields);
        }
        let status = unusual(status, &usual.status);
        self.some("status", status.map(|status| from_statuses(status)));
        self.some(
            "body",
            body.as_ref().map(|pattern| one_line(pattern.as_str())),
        );
        let version = unusual(*version, HttpVersion::default());
        self.some("version", version.map(HttpVersion::name));
        if let Some(tls) = tls {
            self.tls(tls);
        }
    }

    fn tls(&mut self, tls: &Tls) {
        let Tls {
            server_name,
            ca,
            certificate,
            insecure,
        } = tls;
        let shown = |path: &Path| one_line(&path.display().to_string());
        self.some("server-name", server_name.as_ref());
        self.some("ca", ca.as_deref().map(shown));
        if let Some((certificate, key)) = certificate {
            self.put("certificate", shown(certificate));
            self.put("key", shown(key));
        }
        if *insecure {
            self.put("insecure", true);
        }
    }
}

/// A string on one line: one with line breaks in it would else be written over several, and mean something else in a
/// file whose lines end otherwise.
#[must_use]
pub fn one_line(text: &str) -> Value {
    if !text.contains(char::is_control) {
        return text.into();
    }
    // What JSON escapes is escaped so in TOML, which escapes one character more.
    let escaped = serde_json::Value::from(text).to_string();
    let escaped = escaped.replace('\u{7f}', "\\u007f");
    escaped.parse().unwrap_or_else(|_| text.into())
}

fn unusual<T: PartialEq>(value: T, usual: T) -> Option<T> {
    Some(value).filter(|value| *value != usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_control_characters_is_written_on_one_line() {
        let tls = Tls {
            ca: Some("/etc/a\nb.pem".into()),
            ..Tls::default()
        };
        let mut words = Words(InlineTable::new());
        words.tls(&tls);
        words.put("send", one_line("\r\n\t\u{7f}\""));
        assert_eq!(
            words.0.to_string(),
            r#"{ ca = "/etc/a\nb.pem", send = "\r\n\t\u007f\"" }"#
        );
    }
}
