//! A check in the configuration file's keys, as TOML and as JSON; keys that have their default are left out. Pure.

use std::path::Path;

use toml_edit::{InlineTable, Value};

use super::{
    AgentProbe, Check, DnsProbe, Exchange, ExecProbe, GrpcProbe, HttpProbe, HttpVersion, Initial,
    Probe, Timing, Tls, from_statuses,
};
use crate::model::{
    duration, toml_json,
    toml_table::{TableBuilder, lines, non_default, one_line},
};

/// A check as an inline table.
#[must_use]
pub fn table(check: &Check) -> InlineTable {
    let Check {
        probe,
        target,
        source,
        timing,
    } = check;
    let mut builder = TableBuilder::default();
    builder.put("type", probe.name());
    builder.timing(timing);
    builder.put_some("address", target.address.map(|address| address.to_string()));
    builder.put_some("port", target.port.map(i64::from));
    match probe {
        Probe::Tcp(exchange) | Probe::Udp(exchange) => builder.exchange(exchange),
        Probe::Http(http) => builder.http(http),
        Probe::Dns(DnsProbe {
            name,
            record,
            answer,
        }) => {
            builder.put("name", name);
            builder.put_some("record", non_default(record.as_str(), "A"));
            builder.put_some("answer", answer.as_deref().map(one_line));
        }
        Probe::Ping => {}
        Probe::Grpc(grpc) => {
            let GrpcProbe { service, tls } = &**grpc;
            builder.put_some("service", non_default(service.as_str(), "").map(one_line));
            if let Some(tls) = tls {
                builder.put("tls", true);
                builder.tls(tls);
            }
        }
        Probe::Exec(ExecProbe {
            run,
            user,
            is_monitor: _,
        }) => {
            builder.put("run", lines(run));
            builder.put_some("user", user.as_deref().map(one_line));
        }
        Probe::Agent(AgentProbe { send }) => builder.send(send),
    }
    builder.put_some("source", source.address.map(|address| address.to_string()));
    builder.put_some("interface", source.interface.as_ref());
    builder.put_some("mark", source.mark.map(i64::from));
    builder.0
}

/// A check as JSON.
#[must_use]
pub fn json(check: &Check) -> serde_json::Value {
    toml_json::to_json(&table(check).into())
}

/// The JSON of a check without the keys of [`Timing`].
#[must_use]
pub fn without_timing(mut check: serde_json::Value) -> serde_json::Value {
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

impl TableBuilder {
    fn timing(&mut self, timing: &Timing) {
        let Timing {
            interval,
            fast_interval,
            timeout,
            rise,
            fall,
            initial,
        } = timing;
        let default = Timing::default();
        let shown = duration::exact;
        self.put_some(
            "interval",
            non_default(*interval, default.interval).map(shown),
        );
        self.put_some("fast-interval", fast_interval.map(shown));
        let default_timeout = Timing::default_timeout(*interval, *fast_interval);
        self.put_some("timeout", non_default(*timeout, default_timeout).map(shown));
        self.put_some("rise", non_default(*rise, default.rise).map(i64::from));
        self.put_some("fall", non_default(*fall, default.fall).map(i64::from));
        let initial = non_default(*initial, Initial::default());
        self.put_some("initial", initial.map(Initial::name));
    }

    fn exchange(&mut self, Exchange { send, expect }: &Exchange) {
        self.send(send);
        self.put_some(
            "expect",
            expect.as_ref().map(|pattern| one_line(pattern.as_str())),
        );
    }

    fn send(&mut self, bytes: &[u8]) {
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
            request_body,
            status,
            body,
        } = http;
        let default = HttpProbe::default();
        self.put_some("method", non_default(method, &default.method));
        self.put_some("host", host.as_ref());
        self.put_some("path", non_default(path, &default.path));
        if !headers.is_empty() {
            let fields: InlineTable = headers
                .iter()
                .map(|(name, value)| (name.as_str(), Value::from(value)))
                .collect();
            self.put("headers", fields);
        }
        let request_body = non_default(request_body.as_str(), "");
        self.put_some("request-body", request_body.map(one_line));
        let status = non_default(status, &default.status);
        self.put_some("status", status.map(|status| from_statuses(status)));
        self.put_some(
            "body",
            body.as_ref().map(|pattern| one_line(pattern.as_str())),
        );
        let version = non_default(*version, HttpVersion::default());
        self.put_some("version", version.map(HttpVersion::name));
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
        self.put_some("server-name", server_name.as_ref());
        self.put_some("ca", ca.as_deref().map(shown));
        if let Some((certificate, key)) = certificate {
            self.put("certificate", shown(certificate));
            self.put("key", shown(key));
        }
        if *insecure {
            self.put("insecure", true);
        }
    }
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
        let mut builder = TableBuilder::default();
        builder.tls(&tls);
        builder.put("send", one_line("\r\n\t\u{7f}\""));
        assert_eq!(
            builder.0.to_string(),
            r#"{ ca = "/etc/a\nb.pem", send = "\r\n\t\u007f\"" }"#
        );
    }
}
