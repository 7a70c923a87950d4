//! Persistence, hash key and thresholds in the file's text.

use serde_json::json;

use super::*;

fn set(settings: serde_json::Value) -> Change {
    let settings: ServiceSettings<serde_json::Value> = serde_json::from_value(settings).unwrap();
    let no_checks = |_| Ok::<_, ()>(Vec::new());
    Change::EditService(web(), settings.with_checks(no_checks).unwrap())
}

/// The file with these lines behind the scheduler of its first service.
fn with(lines: &str) -> String {
    let scheduler = "scheduler = \"rr\" # fair\n";
    FILE.replace(scheduler, &format!("{scheduler}{lines}"))
}

#[test]
fn persistence_comes_as_one_line_and_goes_without_a_trace() {
    for (settings, line) in [
        (
            json!({"timeout": "5m"}),
            "persistence = { timeout = \"5m\" }\n",
        ),
        (
            json!({"timeout": "1m", "netmask": 24, "group": "shop", "drain": "keep"}),
            "persistence = { timeout = \"1m\", netmask = 24, group = \"shop\", drain = \"keep\" }\n",
        ),
        (
            json!({"timeout": "1m", "netmask": "255.255.0.0", "group": null}),
            "persistence = { timeout = \"1m\", netmask = \"255.255.0.0\" }\n",
        ),
    ] {
        let text = edited(FILE, &set(json!({ "persistence": settings })));
        assert_eq!(text, with(line));
        assert_eq!(edited(&text, &set(json!({"persistence": null}))), FILE);
    }
}

#[test]
fn a_changed_persistence_keeps_its_spelling_and_its_comments() {
    let change = set(json!({"persistence": {"timeout": "10m", "netmask": null, "group": "shop"}}));
    for (before, after) in [
        (
            "persistence = { netmask = 24, drain = \"keep\" } # the carts\n",
            "persistence = { drain = \"keep\", timeout = \"10m\", group = \"shop\" } # the carts\n",
        ),
        (
            "persistence={timeout=\"60s\",netmask=24}\n",
            "persistence={timeout=\"10m\",group = \"shop\"}\n",
        ),
        (
            "persistence.timeout = \"60s\" # long\npersistence.netmask = 24\n",
            "persistence.timeout = \"10m\" # long\npersistence.group = \"shop\"\n",
        ),
        (
            "\n  # carts\n  [service.persistence]\n  # how long\n  timeout = \"60s\" # long\n  netmask = \"255.255.255.0\"\n",
            "\n  # carts\n  [service.persistence]\n  # how long\n  timeout = \"10m\" # long\n  group = \"shop\"\n",
        ),
    ] {
        assert_eq!(edited(&with(before), &change), with(after));
    }
}

#[test]
fn a_removed_block_leaves_the_comments_of_the_file() {
    let block = "\n# Of the file.\n\n# carts\n[service.persistence]\ntimeout = \"60s\"\n";
    let text = edited(
        &with(block),
        &set(json!({"persistence": {"timeout": "0s"}})),
    );
    assert_eq!(text, with("\n# Of the file.\n"));
}

#[test]
fn hash_and_thresholds_are_keys_as_the_others() {
    let change = set(json!({"scheduler": "mh", "hash": "client-port"}));
    let scheduler = "scheduler = \"rr\" # fair\n";
    let hashed = "scheduler = \"mh\" # fair\nhash = \"client-port\"\n";
    check(&change, &[(scheduler, hashed)]);
    let settings = RealSettings {
        upper: Some(100),
        lower: Some(80),
        ..Default::default()
    };
    let weight = "  weight = 3   # strong\n";
    let limited = "  weight = 3   # strong\n  upper = 100\n  lower = 80\n";
    check(
        &Change::EditReal(web(), real("10.0.0.2:80"), settings),
        &[(weight, limited)],
    );
}
