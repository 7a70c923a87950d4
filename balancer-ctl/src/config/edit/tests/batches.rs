//! Several changes in one edit.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

#[test]
fn changes_of_several_services_are_made_in_one_edit() {
    let mail = service_key("192.0.2.80:25").unwrap();
    let named = ServiceSettings {
        name: Some("mail".to_owned()),
        ..Default::default()
    };
    let edited = edited_all(
        FILE,
        &[
            Change::AddReal(dns(), real("10.0.0.4:53"), RealSettings::default()),
            Change::AddService(mail, named),
            Change::DelReal(web(), real("10.0.0.3:80")),
            Change::AddReal(mail, real("10.0.0.5:25"), weight(2)),
            Change::EditReal(web(), real("10.0.0.2:80"), weight(4)),
            Change::EditReal(mail, real("10.0.0.5:25"), weight(3)),
        ],
    );
    let mut expected = FILE.replace("weight = 3 ", "weight = 4 ");
    let gone = "\n  # the new machine\n  [[service.real]]\n  address = \"10.0.0.3:80\"\n";
    expected = expected.replace(gone, "");
    expected = expected.replace(
        "protocol = \"udp\"\n",
        "protocol = \"udp\"\n\n[[service.real]]\naddress = \"10.0.0.4:53\"\n\n[[service]]\nname = \"mail\"\n\
         address = \"192.0.2.80:25\"\n\n[[service.real]]\naddress = \"10.0.0.5:25\"\nweight = 3\n",
    );
    assert_eq!(edited, expected);
}

#[test]
fn a_service_that_is_added_behind_a_new_check_does_not_take_the_real_servers_before_it() {
    let tcp = read::checks("{ type = \"tcp\" }".parse().unwrap()).unwrap();
    let checked = ServiceSettings {
        checks: Some(tcp),
        ..Default::default()
    };
    let changes = [
        Change::DelService(dns()),
        Change::EditService(web(), checked),
        Change::AddService(dns(), ServiceSettings::default()),
    ];
    let edited = edited_all(FILE, &changes);
    let (before, after) = edited.split_once("[service.check]").unwrap();
    assert!(before.starts_with("# Our balancer."), "{edited}");
    assert_eq!(after.matches("[[service.real]]").count(), 2, "{edited}");
    assert!(
        after.find("[[service]]") > after.rfind("[[service.real]]"),
        "{edited}"
    );
}

#[test]
fn services_that_are_added_where_there_are_none_keep_their_order() {
    let add = |key| Change::AddService(key, ServiceSettings::default());
    let changes = [
        Change::Clear,
        add(web()),
        Change::AddReal(web(), real("10.0.0.2:80"), RealSettings::default()),
        add(dns()),
    ];
    edited_all(FILE, &changes);
}

/// Changes that mostly fit: few services and real servers, each named again and again.
fn change() -> impl Strategy<Value = Change> {
    let keys = ["192.0.2.80:80", "udp/192.0.2.80:53", "192.0.2.80:25"];
    let key = select(keys.map(|key| service_key(key).unwrap()).to_vec());
    let address = select(vec![
        real("10.0.0.2:80"),
        real("10.0.0.3:80"),
        real("10.0.0.4:80"),
    ]);
    let settings = (0_u32..9, any::<bool>()).prop_map(|(weight, backup)| RealSettings {
        weight: Some(weight),
        backup: backup.then_some(true),
        ..Default::default()
    });
    let checks = [
        "[]",
        "{ type = \"tcp\" }",
        "[{ type = \"ping\" }, { type = \"tcp\", fall = 1 }]",
    ];
    let checks = checks.map(|checks| read::checks(checks.parse().unwrap()).unwrap());
    let persistence = [
        r#"{"timeout":"1m","netmask":24}"#,
        r#"{"timeout":"0s"}"#,
        r#"{"netmask":null,"group":"shop"}"#,
        r#"{"group":""}"#,
    ];
    let persistence = persistence.map(|json| serde_json::from_str(json).unwrap());
    let of_service = (
        1_u32..9,
        proptest::option::of(select(checks.to_vec())),
        proptest::option::of(select(persistence.to_vec())),
    );
    let of_service = of_service.prop_map(|(quorum, checks, persistence)| ServiceSettings {
        quorum: Some(quorum),
        checks,
        persistence,
        ..Default::default()
    });
    (0..12, key, address, settings, of_service).prop_map(
        |(kind, key, address, settings, of_service)| match kind {
            0..3 => Change::AddReal(key, address, settings),
            3..5 => Change::EditReal(key, address, settings),
            5..7 => Change::DelReal(key, address),
            7..9 => Change::AddService(key, of_service),
            9..11 => Change::EditService(key, of_service),
            _ => Change::DelService(key),
        },
    )
}

proptest! {
    /// `edited_all` holds the parts against the whole, and what is written against what is wanted.
    #[test]
    fn any_changes_are_written_alike_in_parts_and_as_a_whole(
        changes in vec(change(), 1..8),
        returns in any::<bool>(),
    ) {
        let text = if returns { FILE.replace('\n', "\r\n") } else { FILE.to_owned() };
        let mut services = content(&text).model.services;
        let fitting: Vec<_> = changes
            .into_iter()
            .filter(|change| change.apply(&mut services).is_ok())
            .collect();
        let edited = edited_all(&text, &fitting);
        for comment in ["# Our balancer.", "# outside and inside", "# All names.", "# the end"] {
            prop_assert!(edited.contains(comment), "{} is gone:\n{}", comment, edited);
        }
    }
}
