//! Files before and after a change, to the letter.

use super::*;
use crate::{
    address::service_key,
    config::read,
    model::{NoReal, Scheduler},
};

const FILE: &str = r#"# Our balancer.

[dataplane]
interfaces = ["eth0"]   # outside and inside

# What the shop needs.

# the shop itself
[[service]]   # first
name = "web"
address = "192.0.2.80:80"
scheduler = "rr" # fair

  # the old machine
  [[service.real]]
  address = "10.0.0.2:80"
  weight = 3   # strong

  # the new machine
  [[service.real]]
  address = "10.0.0.3:80"

# All names.

[[service]]
address = "192.0.2.80:53"
protocol = "udp"

[node]
name = "lb1"
# the end
"#;

fn web() -> ServiceKey {
    service_key("192.0.2.80:80").unwrap()
}

fn dns() -> ServiceKey {
    service_key("udp/192.0.2.80:53").unwrap()
}

fn real(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn weight(weight: u32) -> RealSettings {
    RealSettings {
        weight: Some(weight),
        ..Default::default()
    }
}

fn edited(text: &str, change: &Change) -> String {
    let saved = read::model(text, "lb1").unwrap();
    let wanted = change.apply(&saved).unwrap();
    edit(text, "lb1", &saved, &wanted, change).unwrap()
}

#[track_caller]
fn check(change: &Change, replaced: &[(&str, &str)]) {
    let mut expected = FILE.to_owned();
    for (old, new) in replaced {
        assert_eq!(expected.matches(old).count(), 1, "{old:?}");
        expected = expected.replace(old, new);
    }
    assert_eq!(edited(FILE, change), expected);
}

#[test]
fn an_edited_value_keeps_its_comment() {
    check(
        &Change::EditReal(web(), real("10.0.0.2:80"), weight(0)),
        &[("weight = 3   # strong", "weight = 0   # strong")],
    );
    let settings = ServiceSettings {
        scheduler: Some(Scheduler::Wrr),
        ..Default::default()
    };
    check(
        &Change::EditService(web(), settings),
        &[("\"rr\" # fair", "\"wrr\" # fair")],
    );
}

#[test]
fn a_new_value_stands_below_the_others_as_they_do() {
    check(
        &Change::EditReal(web(), real("10.0.0.3:80"), weight(2)),
        &[(
            "address = \"10.0.0.3:80\"\n",
            "address = \"10.0.0.3:80\"\n  weight = 2\n",
        )],
    );
    let settings = ServiceSettings {
        name: Some("dns".to_owned()),
        no_real: Some(NoReal::Drop),
        ..Default::default()
    };
    check(
        &Change::EditService(dns(), settings),
        &[(
            "protocol = \"udp\"\n",
            "protocol = \"udp\"\nname = \"dns\"\nno-real = \"drop\"\n",
        )],
    );
}

#[test]
fn a_new_real_stands_behind_its_siblings_as_they_do() {
    check(
        &Change::AddReal(web(), real("10.0.0.4:80"), weight(5)),
        &[(
            "address = \"10.0.0.3:80\"\n",
            "address = \"10.0.0.3:80\"\n\n  [[service.real]]\n  address = \"10.0.0.4:80\"\n  weight = 5\n",
        )],
    );
    check(
        &Change::AddReal(dns(), real("10.0.0.4:53"), RealSettings::default()),
        &[(
            "protocol = \"udp\"\n",
            "protocol = \"udp\"\n\n[[service.real]]\naddress = \"10.0.0.4:53\"\n",
        )],
    );
}

#[test]
fn a_new_service_stands_behind_the_last() {
    let settings = ServiceSettings {
        name: Some("v6".to_owned()),
        scheduler: Some(Scheduler::Rr),
        no_real: Some(NoReal::Reject),
        ..Default::default()
    };
    let key = service_key("udp/[2001:db8::80]:53").unwrap();
    check(
        &Change::AddService(key, settings),
        &[(
            "protocol = \"udp\"\n",
            "protocol = \"udp\"\n\n[[service]]\nname = \"v6\"\naddress = \"[2001:db8::80]:53\"\nprotocol = \"udp\"\n\
         scheduler = \"rr\"\nno-real = \"reject\"\n",
        )],
    );
}

#[test]
fn a_removed_real_takes_only_its_own_comment_with_it() {
    check(
        &Change::DelReal(web(), real("10.0.0.2:80")),
        &[(
            "\n  # the old machine\n  [[service.real]]\n  address = \"10.0.0.2:80\"\n  weight = 3   # strong\n",
            "",
        )],
    );
    check(
        &Change::DelReal(web(), real("10.0.0.3:80")),
        &[(
            "\n  # the new machine\n  [[service.real]]\n  address = \"10.0.0.3:80\"\n",
            "",
        )],
    );
}

#[test]
fn a_removed_service_leaves_the_comments_of_the_file() {
    let dns_block =
        "\n# All names.\n\n[[service]]\naddress = \"192.0.2.80:53\"\nprotocol = \"udp\"\n";
    check(
        &Change::DelService(dns()),
        &[(dns_block, "\n# All names.\n")],
    );

    let web_block =
        &FILE[FILE.find("\n# the shop itself").unwrap()..FILE.find("\n# All names.").unwrap()];
    check(&Change::DelService(web()), &[(web_block, "")]);
    check(
        &Change::Clear,
        &[(web_block, ""), (dns_block, "\n# All names.\n")],
    );
}

#[test]
fn the_first_service_can_be_added_to_any_file_and_the_last_removed() {
    let text = "dataplane.interfaces = [\"eth0\"]\n";
    let added = edited(text, &Change::AddService(web(), ServiceSettings::default()));
    assert_eq!(
        added,
        format!("{text}\n[[service]]\naddress = \"192.0.2.80:80\"\n")
    );
    let both = edited(
        &added,
        &Change::AddReal(web(), real("10.0.0.2:80"), RealSettings::default()),
    );
    assert_eq!(
        both,
        format!("{added}\n[[service.real]]\naddress = \"10.0.0.2:80\"\n")
    );
    assert_eq!(
        edited(&both, &Change::DelReal(web(), real("10.0.0.2:80"))),
        added
    );
    assert_eq!(edited(&both, &Change::DelService(web())), text);
}

#[test]
fn a_removed_last_service_leaves_the_comments_at_the_end() {
    let text = "dataplane.interfaces = [\"eth0\"]\n\n# keep\n\n# drop\n[[service]]\naddress = \"192.0.2.80:80\"\n";
    assert_eq!(
        edited(text, &Change::Clear),
        "dataplane.interfaces = [\"eth0\"]\n\n# keep\n"
    );
}

#[test]
fn lines_go_on_ending_as_they_did() {
    let windows = |text: &str| text.replace('\n', "\r\n");
    let changes = [
        Change::AddReal(web(), real("10.0.0.4:80"), weight(2)),
        Change::EditReal(web(), real("10.0.0.2:80"), weight(0)),
        Change::DelService(web()),
        Change::AddService(
            service_key("192.0.2.81:80").unwrap(),
            ServiceSettings::default(),
        ),
    ];
    for change in changes {
        assert_eq!(
            edited(&windows(FILE), &change),
            windows(&edited(FILE, &change)),
            "{change:?}"
        );
    }
}
