//! Persistence, hash key and thresholds.

use super::*;
use crate::model::PersistenceDrain;

fn persistence(line: &str) -> Option<Persistence> {
    let text = format!(
        "dataplane.interfaces = [\"eth0\"]\n[[service]]\naddress = \"192.0.2.80:80\"\n{line}"
    );
    let model = model(&text, "lb1").unwrap();
    model.services[0].persistence.clone()
}

#[test]
fn persistence_is_a_table_in_any_form() {
    assert_eq!(persistence(""), None);
    for empty in ["persistence = {}", "[service.persistence]"] {
        assert_eq!(persistence(empty), Some(Persistence::default()));
    }
    let full = Persistence {
        timeout: Duration::from_secs(60),
        netmask: Some(24),
        group: Some("shop".to_owned()),
        drain: PersistenceDrain::Keep,
    };
    for text in [
        "persistence = { timeout = \"1m\", netmask = 24, group = \"shop\", drain = \"keep\" }",
        "persistence.timeout = \"60s\"\npersistence.netmask = \"255.255.255.0\"\n\
         persistence.group = \"shop\"\npersistence.drain = \"keep\"",
        "[service.persistence]\ntimeout = \"1m\"\nnetmask = 24\ngroup = \"shop\"\ndrain = \"keep\"",
    ] {
        assert_eq!(persistence(text), Some(full.clone()));
    }
    // The whole address is no netmask.
    for whole in ["32", "\"255.255.255.255\""] {
        let whole = persistence(&format!("persistence = {{ netmask = {whole} }}"));
        assert_eq!(whole, Some(Persistence::default()));
    }
}

#[test]
fn wrong_values_are_reported_where_they_are() {
    let text = r#"dataplane.interfaces = ["eth0"]
dataplane.max-persistence = 100
[[service]]
address = "192.0.2.80:80"
persistence = 300
[[service]]
address = "192.0.2.80:81"
persistence = { timeout = "0s", netmask = 33, group = "1shop", drain = "stay" }
[[service]]
address = "192.0.2.80:82"
[service.persistence]
timeout = 300
netmask = "255.0.255.0"
mask = 24
[[service]]
address = "[2001:db8::80]:80"
persistence = { netmask = "255.255.255.0", timeout = "8days" }
[[service]]
address = "192.0.2.80:83"
persistence.netmask = 0
persistence.group = ""
[[service]]
address = "192.0.2.80:84"
persistence = { netmask = true }
hash = "client-port"
[[service.real]]
address = "10.0.0.2"
upper = 16777217
[[service.real]]
address = "10.0.0.3"
lower = 10
[[service.real]]
address = "10.0.0.4"
upper = 9
lower = 10
[[service.real]]
address = "10.0.0.5"
upper = -1
[[service]]
address = "192.0.2.80:85"
scheduler = "rr"
hash = "client"
"#;
    assert_eq!(
        errors(text),
        [
            "2:29: max-persistence 100 is out of range: 1024..=16777216",
            "5:15: persistence must be a table, as in `persistence = { timeout = \"5m\" }`",
            "8:27: timeout of persistence of 0s is out of range: 1s to 7days",
            "8:43: netmask 33 of service tcp/192.0.2.80:81 is out of range: 1..=32",
            "8:55: `1shop` is no name for a group: a letter, then up to 62 letters, digits, `.`, `_` or `-`",
            "8:72: drain `stay` is not known: expected `move` or `keep`",
            "12:11: timeout must be a string in quotes",
            "13:11: netmask `255.0.255.0` is no netmask: a prefix length, as in 24, or for IPv4 a mask as in 255.255.255.0",
            "14:1: unknown key `mask` in `persistence`: expected `timeout`, `netmask`, `group` or `drain`",
            "17:27: netmask of an IPv6 service must be a prefix length in 1..=128, as in 64",
            "17:54: timeout of persistence of 8days is out of range: 1s to 7days",
            "20:23: netmask 0 is out of range: 1..=32 for IPv4, 1..=128 for IPv6",
            "24:27: netmask must be a prefix length, as in 24, or for IPv4 a mask, as in \"255.255.255.0\"",
            "25:8: hash client-port is of no use with scheduler wrr, which does not hash clients: use scheduler sh or mh, or leave hash out",
            "28:9: upper 16777217 of real 10.0.0.2:84 is out of range: 0..=16777216",
            "31:9: lower 10 of real 10.0.0.3:84 without upper: give it upper too, or leave lower out",
            "35:9: lower 10 of real 10.0.0.4:84 is above upper 9: make it 9 at most",
            "38:9: upper -1 is out of range: 0..=16777216",
            "42:8: hash client is of no use with scheduler rr, which does not hash clients: use scheduler sh or mh, or leave hash out",
        ]
    );
}

#[test]
fn services_of_one_group_agree() {
    let text = r#"dataplane.interfaces = ["eth0"]
[[service]]
address = "192.0.2.80:80"
persistence = { group = "shop" }
[[service]]
address = "192.0.2.80:443"
persistence = { group = "shop", timeout = "10m", drain = "keep" }
[[service]]
address = "192.0.2.81:443"
persistence = { group = "shop", timeout = "300s", netmask = 24 }
[[service]]
address = "[2001:db8::80]:80"
persistence = { group = "shop", netmask = 128 }
[[service]]
address = "[2001:db8::80]:443"
persistence = { group = "other" }
"#;
    assert_eq!(
        errors(text),
        [
            "7:43: timeout 10m of service tcp/192.0.2.80:443 differs from 5m of service tcp/192.0.2.80:80, which is in group `shop` too: services of one group have one timeout",
            "7:58: drain keep of service tcp/192.0.2.80:443 differs from move of service tcp/192.0.2.80:80, which is in group `shop` too: services of one group have one drain",
            "10:61: netmask 24 of service tcp/192.0.2.81:443 differs from none of service tcp/192.0.2.80:80, which is in group `shop` too: services of one group have one netmask",
            "13:25: service tcp/[2001:db8::80]:80 is not of the family of service tcp/192.0.2.80:80, which is in group `shop` too: both must be IPv4 or both IPv6",
        ]
    );
}
