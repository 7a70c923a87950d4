//! Files before and after a change, to the letter.

mod batches;
mod filters;
mod persistence;
mod vrrp;

use std::time::Duration;

use super::*;
use crate::{
    config::read,
    model::{Backups, NoReal, OnDown, Scheduler, address::service_key},
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

fn content(text: &str) -> Content {
    let (model, parts) = read::validated(text, "lb1", |_| Vec::new()).unwrap();
    Content {
        text: text.to_owned(),
        parts,
        model,
    }
}

/// The text after changes, which is the same whether all of it is read again or only the parts that change.
fn edited_all(text: &str, changes: &[Change]) -> String {
    let before = content(text);
    let mut wanted = before.model.clone();
    for change in changes {
        change.apply(&mut wanted.services).unwrap();
    }
    let after = before.edited("lb1", changes, wanted.clone()).unwrap();
    assert_eq!(after, content(&after.text));
    let needs_all = |change: &Change| matches!(change, Change::DelService(_) | Change::Clear);
    assert_eq!(
        before.edited_in_parts("lb1", changes).is_some(),
        !text.contains('\r') && before.parts.len() > 0 && !changes.iter().any(needs_all)
    );
    let whole = before.edited_as_a_whole("lb1", changes, &wanted).unwrap();
    assert_eq!((&after.text, &after.parts), (&whole.0, &whole.1));
    after.text
}

fn edited(text: &str, change: &Change) -> String {
    edited_all(text, std::slice::from_ref(change))
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
fn keys_of_notify_entries_stay() {
    let notify = "\n[[notify]]\non = [\"real-down\"]\nrun = [\"/usr/local/bin/alert\"]\nstdin = \"mon\"   # old script\n";
    let change = Change::EditReal(web(), real("10.0.0.2:80"), weight(0));
    assert_eq!(
        edited(&format!("{FILE}{notify}"), &change),
        edited(FILE, &change) + notify
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

fn state(state: AdminState) -> RealSettings {
    RealSettings {
        state: Some(state),
        ..Default::default()
    }
}

#[test]
fn a_real_that_is_ready_again_is_written_as_it_was_before() {
    let drained = edited(
        FILE,
        &Change::EditReal(web(), real("10.0.0.2:80"), state(AdminState::Drain)),
    );
    assert_eq!(
        drained,
        FILE.replace(
            "weight = 3   # strong\n",
            "weight = 3   # strong\n  state = \"drain\"\n"
        )
    );
    let ready = Change::EditReal(web(), real("10.0.0.2:80"), state(AdminState::Ready));
    assert_eq!(edited(&drained, &ready), FILE);
    // A remark is not thrown away.
    for remark in [
        "state = \"drain\" # until noon",
        "# the fan is loud\n  state = \"maintenance\"",
    ] {
        let remarked = drained.replace("state = \"drain\"", remark);
        let expected = remarked
            .replace("\"drain\"", "\"ready\"")
            .replace("\"maintenance\"", "\"ready\"");
        assert_eq!(edited(&remarked, &ready), expected);
    }
}

#[test]
fn a_backup_is_written_and_so_is_that_it_is_none_any_more() {
    let backup = |backup| RealSettings {
        backup: Some(backup),
        ..Default::default()
    };
    let change = |set| Change::EditReal(web(), real("10.0.0.3:80"), backup(set));
    let with = FILE.replace(
        "address = \"10.0.0.3:80\"\n",
        "address = \"10.0.0.3:80\"\n  backup = true\n",
    );
    assert_eq!(edited(FILE, &change(true)), with);
    assert_eq!(
        edited(&with, &change(false)),
        with.replace("backup = true", "backup = false")
    );
}

#[test]
fn settings_of_health_stand_below_the_services_others() {
    let settings = ServiceSettings {
        on_down: Some(OnDown::ResetAfter(Duration::from_secs(90))),
        slow_start: Some(Duration::from_secs(30)),
        quorum: Some(2),
        hysteresis: Some(1),
        backups: Some(Backups::All),
        ..Default::default()
    };
    check(
        &Change::EditService(web(), settings),
        &[(
            "\"rr\" # fair\n",
            "\"rr\" # fair\non-down = \"reset-after 1m30s\"\nslow-start = \"30s\"\nquorum = 2\nhysteresis = 1\n\
             backups = \"all\"\n",
        )],
    );
}

#[test]
fn a_hash_key_goes_with_the_scheduler_that_hashes_it() {
    let scheduler = |scheduler| {
        let settings = ServiceSettings {
            scheduler: Some(scheduler),
            ..Default::default()
        };
        Change::EditService(web(), settings)
    };
    let hashing = FILE.replace("\"rr\" # fair\n", "\"mh\" # fair\nhash = \"client-port\"\n");
    assert_eq!(edited(&hashing, &scheduler(Scheduler::Rr)), FILE);
    let other = hashing.replace("\"mh\"", "\"sh\"");
    assert_eq!(edited(&hashing, &scheduler(Scheduler::Sh)), other);
}

fn set_checks(checks: &str) -> Change {
    let checks = if checks.is_empty() { "[]" } else { checks };
    let checks = read::checks(checks.parse().unwrap()).unwrap();
    Change::EditService(
        web(),
        ServiceSettings {
            checks: Some(checks),
            ..Default::default()
        },
    )
}

/// The file with something in front of its first real server.
fn with_checks(checks: &str) -> String {
    FILE.replace(
        "\n  # the old machine\n",
        &format!("{checks}\n  # the old machine\n"),
    )
}

#[test]
fn a_first_check_stands_in_front_of_the_reals_as_they_do_and_goes_without_a_trace() {
    let one = edited(FILE, &set_checks("{ type = \"http\", interval = \"1s\" }"));
    assert_eq!(
        one,
        with_checks("\n  [service.check]\n  type = \"http\"\n  interval = \"1s\"\n")
    );
    assert_eq!(edited(&one, &set_checks("")), FILE);
    let two = edited(
        FILE,
        &set_checks("[{ type = \"tcp\" }, { type = \"ping\" }]"),
    );
    assert_eq!(
        two,
        with_checks(
            "\n  [[service.check]]\n  type = \"tcp\"\n\n  [[service.check]]\n  type = \"ping\"\n"
        )
    );
    assert_eq!(edited(&two, &set_checks("")), FILE);
}

#[test]
fn a_new_service_has_its_check_below_it() {
    let Change::EditService(_, settings) =
        set_checks("{ type = \"http\", headers = { Accept = \"text/html\" } }")
    else {
        unreachable!()
    };
    let text = "dataplane.interfaces = [\"eth0\"]\n";
    let added = edited(text, &Change::AddService(web(), settings));
    assert_eq!(
        added,
        format!(
            "{text}\n[[service]]\naddress = \"192.0.2.80:80\"\n\n[service.check]\ntype = \"http\"\n\
             headers = {{ Accept = \"text/html\" }}\n"
        )
    );
    let both = edited(
        &added,
        &Change::AddReal(web(), real("10.0.0.2:80"), RealSettings::default()),
    );
    assert_eq!(
        both,
        format!("{added}\n[[service.real]]\naddress = \"10.0.0.2:80\"\n")
    );
}

#[test]
fn a_changed_check_keeps_its_spelling_and_the_comments_on_what_stays() {
    for (before, checks, after) in [
        // A block: what stays stays, also where it says what is usual.
        (
            "\n  # asks the shop\n  [service.check] # every minute\n  type = \"http\"   # plain\n  \
             interval = \"1m\"    # calm\n  rise = 2\n  path = \"/old\"\n",
            "{ type = \"http\", interval = \"1m\", status = \"200\" }",
            "\n  # asks the shop\n  [service.check] # every minute\n  type = \"http\"   # plain\n  \
             interval = \"1m\"    # calm\n  rise = 2\n  status = \"200\"\n",
        ),
        // Inline.
        (
            "check = { type = \"http\", path = \"/old\" } # one line\n",
            "{ type = \"http\", path = \"/new\" }",
            "check = { type = \"http\", path = \"/new\" } # one line\n",
        ),
        // The timeout that follows from the interval.
        (
            "check = { type = \"http\", interval = \"5s\", timeout = \"2s\" }\n",
            "{ type = \"http\", interval = \"1s\" }",
            "check = { type = \"http\", interval = \"1s\" }\n",
        ),
        // Another type altogether.
        (
            "\n  [service.check]\n  type = \"http\"\n  path = \"/old\"\n  rise = 1 # soon\n",
            "{ type = \"tcp\", rise = 1 }",
            "\n  [service.check]\n  type = \"tcp\"\n  rise = 1 # soon\n",
        ),
        // One becomes two.
        (
            "\n  [service.check]   # first\n  type = \"http\"\n",
            "[{ type = \"http\" }, { type = \"ping\", rise = 1 }]",
            "\n  [[service.check]]   # first\n  type = \"http\"\n\n  [[service.check]]\n  type = \"ping\"\n  rise = 1\n",
        ),
        (
            "check = { type = \"http\" } # first\n",
            "[{ type = \"http\" }, { type = \"ping\" }]",
            "check = [{ type = \"http\" }, { type = \"ping\" }] # first\n",
        ),
        // Two become one, with a comment of the file between them.
        (
            "\n  [[service.check]]\n  type = \"http\"\n\n  # about the machines\n\n  [[service.check]]\n  type = \"ping\"\n",
            "{ type = \"http\" }",
            "\n  [[service.check]]\n  type = \"http\"\n\n  # about the machines\n",
        ),
        (
            "check = [\n  { type = \"http\" },\n  { type = \"ping\" },\n]\n",
            "[{ type = \"http\" }, { type = \"tcp\" }, { type = \"ping\" }]",
            "check = [\n  { type = \"http\" },\n  { type = \"tcp\" },\n  { type = \"ping\" },\n]\n",
        ),
        // Header fields in a block of their own.
        (
            "\n  [service.check]\n  type = \"http\"\n  [service.check.headers]\n  Accept = \"a\"\n",
            "{ type = \"http\", headers = { Accept = \"b\" } }",
            "\n  [service.check]\n  type = \"http\"\n  headers = { Accept = \"b\" }\n",
        ),
        // Dotted.
        (
            "check.type = \"http\"\ncheck.path = \"/old\"\n",
            "{ type = \"http\", path = \"/new\" }",
            "check.type = \"http\"\ncheck.path = \"/new\"\n",
        ),
    ] {
        let file = with_checks(before);
        assert_eq!(edited(&file, &set_checks(checks)), with_checks(after));
        assert_eq!(
            edited(&file, &set_checks("")),
            if before.contains("about") {
                with_checks("\n  # about the machines\n")
            } else {
                FILE.to_owned()
            }
        );
    }
}
