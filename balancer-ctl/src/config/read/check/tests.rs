//! Checks are read as they are written, and the reference names their keys.

use super::*;
use crate::model::{check::keys, names::Named as _, toml_json};

/// Reads the checks of a value of the file.
fn checks(text: &str) -> Vec<Check> {
    super::super::checks(text.parse().unwrap()).unwrap()
}

#[test]
fn what_is_written_means_the_same_in_toml_and_json() {
    for text in [
        r#"{ type = "tcp" }"#,
        r#"{ type = "tcp", interval = "1s", fast-interval = "500ms", timeout = "100ms", rise = 1, fall = 5, initial = "up", address = "127.0.0.1", port = 81, send = "PING\r\n", expect = '^\+PONG', source = "10.0.0.1", interface = "eth1", mark = 7 }"#,
        r#"{ type = "udp", send-hex = "00ff", expect = '(?-u)\xff' }"#,
        r#"{ type = "http", method = "OPTIONS", host = "www.example.org", path = "/health", headers = { Accept = "text/html", X-Check = "yes" }, status = "200,204-299", body = "ok", version = "2" }"#,
        r#"{ type = "https", server-name = "www.example.org", ca = "/etc/ca.pem", certificate = "/etc/c.pem", key = "/etc/k.pem" }"#,
        r#"{ type = "https", insecure = true }"#,
        r#"{ type = "dns", name = "www.example.org", record = "AAAA", answer = "2001:db8::1" }"#,
        r#"{ type = "ping" }"#,
        r#"{ type = "grpc", service = "shop", tls = true, server-name = "shop" }"#,
        r#"{ type = "exec", run = ["/bin/true", "a b"] }"#,
        r#"{ type = "exec", run = ["/bin/true"], user = "nobody" }"#,
        r#"{ type = "agent", port = 8700, send = "hello\n" }"#,
    ] {
        let read = checks(text);
        assert_eq!(keys::table(&read[0]).to_string(), text);
        let json = keys::json(&read[0]);
        assert_eq!(
            super::super::checks(toml_json::from_json(&json).unwrap()).unwrap(),
            read
        );
    }
}

#[test]
fn what_is_usual_is_left_out_however_it_was_written() {
    for (text, expected) in [
        (
            r#"{ type = "dns", name = "a", record = "A", interval = "5s", timeout = "2s", rise = 2, fall = 3, initial = "down" }"#,
            r#"{ type = "dns", name = "a" }"#,
        ),
        // With an interval below two seconds, the default timeout is the interval.
        (
            r#"{ type = "http", interval = "1000ms", timeout = "1s", path = "/", status = "200-299", method = "GET", version = "1.1" }"#,
            r#"{ type = "http", interval = "1s" }"#,
        ),
        (
            r#"{ type = "grpc", service = "", tls = false }"#,
            r#"{ type = "grpc" }"#,
        ),
    ] {
        assert_eq!(keys::table(&checks(text)[0]).to_string(), expected);
    }
}

#[test]
fn the_manual_lists_types_and_records() {
    for (name, values) in [("type", Kind::NAMES), ("record", Record::NAMES)] {
        let (key, _) = KEYS.iter().find(|(key, _)| key.name == name).unwrap();
        assert!(key.what.contains(&listed(values)), "{}", key.what);
    }
}

#[test]
fn the_example_names_each_key() {
    let example = include_str!("../../../../balancer.toml.example");
    let words: Vec<_> = example
        .split(|letter: char| !letter.is_ascii_lowercase() && letter != '-')
        .collect();
    for (key, _) in KEYS {
        assert!(words.contains(&key.name), "the example lacks {}", key.name);
    }
}
