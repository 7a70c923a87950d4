//! Checks → the file's words, and the file's words ↔ JSON. What is usual stays unsaid. Pure.

use std::{path::Path, time::Duration};

use toml_edit::{Array, InlineTable, Value};

use super::{read::check::usual_timeout, text};
use crate::model::{
    Check,
    check::{
        AgentProbe, DnsProbe, Exchange, GrpcProbe, HttpProbe, HttpVersion, Initial, Probe, Timing,
        Tls,
    },
};

/// A check as an inline table.
#[must_use]
pub fn check(check: &Check) -> InlineTable {
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
        Probe::Exec(exec) => words.put(
            "run",
            exec.run
                .iter()
                .map(|word| one_line(word))
                .collect::<Array>(),
        ),
        Probe::Agent(AgentProbe { send }) => words.sent(send),
    }
    words.some("source", source.address.map(|address| address.to_string()));
    words.some("interface", source.interface.as_ref());
    words.some("mark", source.mark.map(i64::from));
    words.0
}

/// A check as JSON, in the file's keys.
#[must_use]
pub fn check_as_json(checked: &Check) -> serde_json::Value {
    json(&check(checked).into())
}

/// Such JSON without how often is asked and how many results decide: what remains is what is asked.
#[must_use]
pub fn question_as_json(mut check: serde_json::Value) -> serde_json::Value {
    if let Some(keys) = check.as_object_mut() {
        for key in TIMING {
            keys.remove(key);
        }
    }
    check
}

/// A check in a few words: "http every 5s".
#[must_use]
pub fn check_in_words(check: &Check) -> String {
    format!(
        "{} every {}",
        check.probe.name(),
        text::from_duration(check.timing.interval)
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
        let shown = |duration: Duration| text::from_duration(duration);
        self.some("interval", unusual(*interval, usual.interval).map(shown));
        self.some("fast-interval", fast_interval.map(shown));
        let usual_timeout = usual_timeout(*interval, *fast_interval);
        self.some("timeout", unusual(*timeout, usual_timeout).map(shown));
        self.some("rise", unusual(*rise, usual.rise).map(i64::from));
        self.some("fall", unusual(*fall, usual.fall).map(i64::from));
        match initial {
            Initial::Down => {}
            Initial::Up => self.put("initial", "up"),
        }
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
        self.some("status", status.map(|status| text::from_statuses(status)));
        self.some(
            "body",
            body.as_ref().map(|pattern| one_line(pattern.as_str())),
        );
        match version {
            HttpVersion::Http1 => {}
            HttpVersion::Http2 => self.put("version", "2"),
        }
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
        let shown = |path: &Path| path.display().to_string();
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
fn one_line(text: &str) -> Value {
    if !text.contains(char::is_control) {
        return text.into();
    }
    // What JSON escapes is escaped so in TOML.
    let escaped = serde_json::Value::from(text).to_string();
    escaped.parse().unwrap_or_else(|_| text.into())
}

fn unusual<T: PartialEq>(value: T, usual: T) -> Option<T> {
    Some(value).filter(|value| *value != usual)
}

/// A value of the file as JSON.
#[must_use]
pub fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::String(text) => text.value().as_str().into(),
        Value::Integer(number) => (*number.value()).into(),
        Value::Float(number) => (*number.value()).into(),
        Value::Boolean(value) => (*value.value()).into(),
        // There is no such thing in JSON, nor any key that takes one.
        Value::Datetime(time) => time.value().to_string().into(),
        Value::Array(array) => array.iter().map(json).collect(),
        Value::InlineTable(table) => table
            .iter()
            .map(|(key, value)| (key.to_owned(), json(value)))
            .collect(),
    }
}

/// JSON as a value of the file.
///
/// # Errors
/// It holds what no file can.
pub fn value(json: &serde_json::Value) -> Result<Value, String> {
    Ok(match json {
        serde_json::Value::Null => {
            return Err("null is no value: leave the key out".to_owned());
        }
        serde_json::Value::Bool(value) => (*value).into(),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => return Err(format!("{number} is too large a number")),
        },
        serde_json::Value::String(text) => text.into(),
        serde_json::Value::Array(values) => {
            Value::Array(values.iter().map(value).collect::<Result<Array, _>>()?)
        }
        serde_json::Value::Object(entries) => {
            let entries = entries.iter().map(|(key, entry)| Ok((key, value(entry)?)));
            Value::InlineTable(entries.collect::<Result<InlineTable, String>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read;

    /// The checks that a value of the file means.
    fn checks(text: &str) -> Vec<Check> {
        read::checks(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn what_is_written_means_the_same_in_toml_and_json() {
        for text in [
            r#"{ type = "tcp" }"#,
            r#"{ type = "tcp", interval = "1s", fast-interval = "500ms", timeout = "100ms", rise = 1, fall = 5, initial = "up", address = "127.0.0.1", port = 81, send = "PING\r\n", expect = '^\+PONG', source = "10.0.0.1", interface = "eth1", mark = 7 }"#,
            r#"{ type = "udp", send-hex = "00ff", expect = '(?-u)\xff' }"#,
            r#"{ type = "http", method = "HEAD", host = "www.example.org", path = "/health", headers = { Accept = "text/html", X-Check = "yes" }, status = "200,204-299", body = "ok", version = "2" }"#,
            r#"{ type = "https", server-name = "www.example.org", ca = "/etc/ca.pem", certificate = "/etc/c.pem", key = "/etc/k.pem" }"#,
            r#"{ type = "https", insecure = true }"#,
            r#"{ type = "dns", name = "www.example.org", record = "AAAA", answer = "2001:db8::1" }"#,
            r#"{ type = "ping" }"#,
            r#"{ type = "grpc", service = "shop", tls = true, server-name = "shop" }"#,
            r#"{ type = "exec", run = ["/bin/true", "a b"] }"#,
            r#"{ type = "agent", port = 8700, send = "hello\n" }"#,
        ] {
            let read = checks(text);
            assert_eq!(check(&read[0]).to_string(), text);
            let json = check_as_json(&read[0]);
            assert_eq!(read::checks(value(&json).unwrap()).unwrap(), read);
        }
    }

    #[test]
    fn what_is_usual_is_left_out_however_it_was_written() {
        for (text, expected) in [
            (
                r#"{ type = "dns", name = "a", record = "A", interval = "5s", timeout = "2s", rise = 2, fall = 3, initial = "down" }"#,
                r#"{ type = "dns", name = "a" }"#,
            ),
            // Where probes follow each other faster than every two seconds, they take less long.
            (
                r#"{ type = "http", interval = "1000ms", timeout = "1s", path = "/", status = "200-299", method = "GET", version = "1.1" }"#,
                r#"{ type = "http", interval = "1s" }"#,
            ),
            (
                r#"{ type = "grpc", service = "", tls = false }"#,
                r#"{ type = "grpc" }"#,
            ),
        ] {
            assert_eq!(check(&checks(text)[0]).to_string(), expected);
        }
    }

    #[test]
    fn json_that_no_file_can_hold_is_refused() {
        assert_eq!(
            value(&serde_json::json!({"port": null})).unwrap_err(),
            "null is no value: leave the key out"
        );
    }
}
