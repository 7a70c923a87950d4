use serde_json::json;

use super::*;
use crate::model::address::service_key;

fn read(json: serde_json::Value) -> Result<PersistenceSettings, String> {
    serde_json::from_value(json).map_err(|error| error.to_string())
}

#[test]
fn what_is_not_named_keeps_its_value_and_null_removes_it() {
    let vip = IpAddr::from([192, 0, 2, 80]);
    let present = Persistence {
        timeout: Duration::from_secs(60),
        netmask: Some(24),
        group: Some("shop".to_owned()),
        drain: PersistenceDrain::Keep,
    };
    let applied = |json| {
        let settings = read(json).unwrap();
        settings.applied(Some(present.clone()), vip).unwrap()
    };
    assert_eq!(applied(json!({})), present);
    let changed = applied(json!({"timeout": "5m", "netmask": 16, "drain": "move"}));
    assert_eq!(changed.to_string(), "5m netmask 16 group shop");
    let removed = applied(json!({"netmask": null, "group": null}));
    assert_eq!(removed.to_string(), "1m drain keep");
    // The whole address is no netmask.
    assert_eq!(applied(json!({"netmask": 32})).netmask, None);
    assert_eq!(
        applied(json!({"netmask": "255.255.254.0"})).netmask,
        Some(23)
    );
    let off = read(json!({"timeout": "0s"})).unwrap();
    assert_eq!(off.applied(Some(present), vip), None);
    let begun = read(json!({"timeout": "5m"})).unwrap().applied(None, vip);
    assert_eq!(begun, Some(Persistence::default()));
}

#[test]
fn settings_are_the_same_in_json_and_back() {
    for json in [
        json!({"timeout": "5m"}),
        json!({"netmask": 24, "group": "shop", "drain": "keep"}),
        json!({"netmask": "255.255.255.0", "group": ""}),
        json!({"netmask": null}),
        json!({}),
    ] {
        let settings = read(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(settings).unwrap(), json);
    }
}

#[test]
fn a_netmask_is_a_prefix_length_or_a_mask_of_ipv4() {
    for (json, refusal) in [
        (
            json!({"netmask": 0}),
            "0 is out of range: 1..=32 for IPv4, 1..=128 for IPv6",
        ),
        (
            json!({"netmask": 129}),
            "129 is out of range: 1..=32 for IPv4, 1..=128 for IPv6",
        ),
        (
            json!({"netmask": "255.0.255.0"}),
            "`255.0.255.0` is no netmask: a prefix length, as in 24, or for IPv4 a mask as in 255.255.255.0",
        ),
        (
            json!({"netmask": [24]}),
            "must be a prefix length, as in 24, or for IPv4 a mask, as in \"255.255.255.0\"",
        ),
    ] {
        assert_eq!(read(json).unwrap_err(), refusal);
    }
    let lengths = ["24", "255.255.255.0", "255.255.255.255", "128.0.0.0"];
    let lengths = lengths.map(Netmask::from_argument);
    assert_eq!(
        lengths,
        [
            Ok(Netmask::Prefix(24)),
            Ok(Netmask::Dotted(24)),
            Ok(Netmask::Dotted(32)),
            Ok(Netmask::Dotted(1))
        ]
    );
    for wrong in ["", "0", "-1", "0.0.0.0", "255.255.255", "24.5"] {
        assert!(Netmask::from_argument(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_needs_persistence_is_refused_without_it() {
    let refusal = |json, (key, present): &(&str, Option<Persistence>)| {
        let key = service_key(key).unwrap();
        read(json).unwrap().refusal(&key, present.as_ref())
    };
    let without = ("192.0.2.80:80", None);
    let with = ("[2001:db8::80]:80", Some(Persistence::default()));
    for (json, key) in [
        (json!({"netmask": 24}), "netmask"),
        (json!({"group": "shop", "drain": "keep"}), "group"),
        (json!({"drain": "keep"}), "drain"),
        (json!({"timeout": "0s", "drain": "keep"}), "drain"),
    ] {
        let sentence = format!(
            "{key} without persistence: give service tcp/192.0.2.80:80 a timeout too, as in `--persistent 300`"
        );
        assert_eq!(refusal(json, &without), Some(sentence));
    }
    assert_eq!(
        refusal(json!({}), &without).as_deref(),
        Some("persistence without a timeout: give one, as in \"5m\"")
    );
    for json in [
        json!({"timeout": "0s"}),
        json!({"timeout": "1m", "netmask": 24}),
    ] {
        assert_eq!(refusal(json, &without), None);
    }
    assert_eq!(refusal(json!({"netmask": 64}), &with), None);
    assert_eq!(
        refusal(json!({"netmask": "255.255.255.0"}), &with).as_deref(),
        Some("netmask of an IPv6 service must be a prefix length in 1..=128, as in 64")
    );
}
