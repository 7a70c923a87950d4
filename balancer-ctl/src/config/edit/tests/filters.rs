//! Filters of services.

use super::*;
use crate::model::filter::{Prefixes, RateSetting};

fn list(text: &str) -> Option<Prefixes> {
    Some(Prefixes::from_argument(text).unwrap())
}

fn file(lines: &str) -> String {
    format!(
        "dataplane.interfaces = [\"eth0\"]\n\n[[service]]\naddress = \"192.0.2.80:80\"\n{lines}\n[[service.real]]\n\
         address = \"10.0.0.2:80\"\n"
    )
}

fn edit(settings: ServiceSettings) -> Change {
    Change::EditService(web(), settings)
}

fn deny(text: &str) -> Change {
    edit(ServiceSettings {
        deny: list(text),
        ..ServiceSettings::default()
    })
}

#[test]
fn filters_are_set_and_ended() {
    let change = edit(ServiceSettings {
        allow: list("10.0.0.0/8,192.0.2.7"),
        deny: list("10.1.0.0/16,10.2.0.0/16,10.3.0.0/16,10.4.0.0/16,10.5.0.0/16"),
        rate: Some(RateSetting::from_argument("100/s per /24").unwrap()),
        ..ServiceSettings::default()
    });
    let lines = "allow = [\"10.0.0.0/8\", \"192.0.2.7\"]\ndeny = [\n  \"10.1.0.0/16\",\n  \"10.2.0.0/16\",\n  \"10.3.0.0/16\",\n  \
                 \"10.4.0.0/16\",\n  \"10.5.0.0/16\",\n]\nrate = \"100/s per /24\"\n";
    assert_eq!(edited(&file(""), &change), file(lines));
    let change = edit(ServiceSettings {
        allow: list("none"),
        deny: list(""),
        rate: Some(RateSetting::Off),
        ..ServiceSettings::default()
    });
    assert_eq!(edited(&file(lines), &change), file(""));
}

#[test]
fn entries_that_stay_keep_their_comments() {
    let before = file(
        "deny = [ # by hand\n    # scanners\n    \"10.1.0.0/16\", # one\n    \"10.2.0.0/16\", # other\n\n    # a friend's\n    \
         \"10.3.0.0/16\" # third\n] # behind\n",
    );
    assert_eq!(
        edited(
            &before,
            &deny("10.1.0.0/16,10.3.0.0/16,10.4.0.0/16,10.5.0.0/16")
        ),
        file(
            "deny = [ # by hand\n    # scanners\n    \"10.1.0.0/16\", # one\n\n    # a friend's\n    \"10.3.0.0/16\", # third\n    \
             \"10.4.0.0/16\",\n    \"10.5.0.0/16\",\n] # behind\n"
        )
    );
    assert_eq!(
        edited(&before, &deny("10.2.0.0/16")),
        file("deny = [ # by hand\n    \"10.2.0.0/16\", # other\n] # behind\n")
    );
    // In another order, or with nothing that stays, it is a new list.
    assert_eq!(
        edited(&before, &deny("10.2.0.0/16,10.1.0.0/16")),
        file("deny = [\"10.2.0.0/16\", \"10.1.0.0/16\"] # behind\n")
    );
    assert_eq!(
        edited(&before, &deny("10.9.0.0/16")),
        file("deny = [\"10.9.0.0/16\"] # behind\n")
    );
}

#[test]
fn a_list_on_one_line_stays_there() {
    let before = file("deny = [\"10.1.0.0/16\", \"10.2.0.0/16\"] # two\n");
    for (wanted, line) in [
        (
            "10.1.0.0/16,10.2.0.0/16,10.3.0.0/16",
            "deny = [\"10.1.0.0/16\", \"10.2.0.0/16\", \"10.3.0.0/16\"] # two\n",
        ),
        (
            "10.2.0.0/16,10.3.0.0/16",
            "deny = [\"10.2.0.0/16\", \"10.3.0.0/16\"] # two\n",
        ),
        ("10.1.0.0/16", "deny = [\"10.1.0.0/16\"] # two\n"),
    ] {
        assert_eq!(edited(&before, &deny(wanted)), file(line));
    }
}
