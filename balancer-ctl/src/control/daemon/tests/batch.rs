//! Several changes together: all of them, with one write of the file, or none.

use std::os::unix::fs::MetadataExt as _;

use super::*;

fn named_service(name: &str) -> ServiceSettings {
    ServiceSettings {
        name: Some(name.to_owned()),
        ..Default::default()
    }
}

/// Changes of every kind; the later ones build on the earlier ones.
fn every_kind() -> Vec<Request> {
    let mail = service_key("192.0.2.80:25").unwrap();
    vec![
        Request::AddService(mail, named_service("mail")),
        Request::AddReal(named("mail"), real("10.0.0.4"), weight(2)),
        Request::AddReal(named("web"), real("10.0.0.3"), weight(5)),
        Request::EditReal(named("web"), real("10.0.0.3"), weight(6)),
        Request::DelReal(named("web"), real("10.0.0.2"), ConnectionPolicy::Purge),
        Request::AddService(dns(), ServiceSettings::default()),
        Request::EditService(named("udp/192.0.2.80:53"), named_service("dns")),
        Request::AddReal(named("dns"), real("10.0.0.5"), RealSettings::default()),
        Request::EditService(named("mail"), named_service("smtp")),
    ]
}

/// All that a refused batch must leave as it was: the models, what the data plane runs, the file's bytes, what lies beside it.
fn everything(scene: &mut Scene) -> impl PartialEq + std::fmt::Debug + use<> {
    let listed = scene.state();
    let services = scene.dataplane.state().services.clone();
    let file = scene.daemon.file.as_ref();
    (
        listed,
        services,
        scene.daemon.model.clone(),
        file.map(|file| file.model().clone()),
        fs::read(scene.path()).ok(),
        fs::read_dir(scene.folder.path()).unwrap().count(),
    )
}

#[test]
fn changes_of_every_kind_are_applied_once_and_written_once() {
    let mut scene = Scene::new();
    let before = fs::metadata(scene.path()).unwrap().ino();
    let notes = scene.change_all(every_kind(), Scope::File).unwrap();
    assert_eq!(notes, ["0 connections of real 10.0.0.2:80 deleted"]);
    let state = [
        "tcp/192.0.2.80:80 10.0.0.3:80=6",
        "tcp/192.0.2.80:25 10.0.0.4:25=2",
        "udp/192.0.2.80:53 10.0.0.5:53=1",
    ];
    assert_eq!(scene.state(), state);
    assert_eq!(scene.dataplane.state().reconciled, 2, "the start, and this");
    let text = r#"# ours
[dataplane]
interfaces = ["eth0"]

[[service]]
name = "web"
address = "192.0.2.80:80"

[[service.real]]
address = "10.0.0.3:80"
weight = 6

[[service]]
name = "smtp"
address = "192.0.2.80:25"

[[service.real]]
address = "10.0.0.4:25"
weight = 2

[[service]]
address = "192.0.2.80:53"
protocol = "udp"
name = "dns"

[[service.real]]
address = "10.0.0.5:53"
"#;
    assert_eq!(scene.text(), text);
    assert_ne!(fs::metadata(scene.path()).unwrap().ino(), before);
    let before = fs::read_to_string(scene.folder.path().join("balancer.toml~"));
    assert_eq!(before.unwrap(), FILE);
    assert_eq!(fs::read_dir(scene.folder.path()).unwrap().count(), 2);
    assert_eq!(
        scene.events(),
        [
            "real-removed 10.0.0.2:80",
            "real-added 10.0.0.3:80 weight 6, nat",
            "service-added scheduler wrr",
            "real-added 10.0.0.4:25 weight 2, nat",
            "service-added scheduler wrr",
            "real-added 10.0.0.5:53 weight 1, nat",
        ]
    );
    // The next change, and the next load, build on it.
    scene
        .change(Request::DelService(named("dns")), Scope::File)
        .unwrap();
    scene.ask(Message::Reload).unwrap();
    assert_eq!(scene.state(), state[..2]);
}

#[test]
fn a_batch_at_runtime_leaves_the_file() {
    let mut scene = Scene::new();
    scene.change_all(every_kind(), Scope::Runtime).unwrap();
    assert_eq!(
        scene.state(),
        [
            "tcp/192.0.2.80:80* 10.0.0.3:80=6*",
            "tcp/192.0.2.80:25* 10.0.0.4:25=2*",
            "udp/192.0.2.80:53* 10.0.0.5:53=1*",
        ]
    );
    assert_eq!(scene.text(), FILE);
    // Said again for good, what runs already is written as it runs.
    let again = vec![
        Request::AddService(
            service_key("192.0.2.80:25").unwrap(),
            ServiceSettings::default(),
        ),
        Request::AddReal(named("smtp"), real("10.0.0.4"), weight(3)),
    ];
    scene.change_all(again, Scope::File).unwrap();
    assert_eq!(
        scene.state(),
        [
            "tcp/192.0.2.80:80* 10.0.0.3:80=6*",
            "tcp/192.0.2.80:25 10.0.0.4:25=3",
            "udp/192.0.2.80:53* 10.0.0.5:53=1*",
        ]
    );
    assert_eq!(
        scene.text(),
        format!(
            "{FILE}\n[[service]]\nname = \"smtp\"\naddress = \"192.0.2.80:25\"\n\n[[service.real]]\n\
             address = \"10.0.0.4:25\"\nweight = 3\n"
        )
    );
}

#[test]
fn only_the_result_of_a_batch_has_to_be_valid() {
    let other = "\n[[service]]\nname = \"mail\"\naddress = \"192.0.2.80:25\"\n";
    let mut scene = Scene::with_file(&format!("{FILE}{other}"));
    let requests = vec![
        // Two services exchange their names, and a real server takes the place of a service at its address.
        Request::EditService(named("tcp/192.0.2.80:25"), named_service("web")),
        Request::EditService(named("tcp/192.0.2.80:80"), named_service("mail")),
        Request::AddService(
            service_key("10.0.0.9:80").unwrap(),
            ServiceSettings::default(),
        ),
        Request::AddReal(named("mail"), real("10.0.0.9"), weight(1)),
        Request::DelService(named("tcp/10.0.0.9:80")),
    ];
    assert_eq!(scene.change_all(requests, Scope::File), Ok(vec![]));
    assert_eq!(
        scene.state(),
        [
            "tcp/192.0.2.80:80 10.0.0.2:80=1 10.0.0.9:80=1",
            "tcp/192.0.2.80:25"
        ]
    );
    let text = FILE.replace("\"web\"", "\"mail\"")
        + "\n[[service.real]]\naddress = \"10.0.0.9:80\"\nweight = 1\n"
        + &other.replace("\"mail\"", "\"web\"");
    assert_eq!(scene.text(), text);
}

#[test]
fn a_batch_with_one_change_that_is_refused_changes_nothing() {
    let mut scene = Scene::new();
    let network = "10.0.0.1".parse().unwrap();
    let route = crate::netlink::local::LocalRoute {
        prefix: crate::model::prefix::Prefix::of(network, 32),
        kind: crate::netlink::local::Kind::Local,
    };
    scene.dataplane.state().local = [route].into_iter().collect();
    let before = everything(&mut scene);
    for (third, sentence) in [
        (
            Request::AddReal(named("mail"), real("10.0.0.4"), weight(1)),
            "change 3 of 4: real 10.0.0.4:25 of service tcp/192.0.2.80:25 exists already: change it with `edit-real`",
        ),
        (
            Request::DelService(named("shop")),
            "change 3 of 4: there is no service `shop`: `list` shows all",
        ),
        (
            add_real("10.0.0.3"),
            "change 3 of 4: say which service: `web` or `mail`",
        ),
        (
            Request::AddReal(named("web"), real("10.0.0.1"), weight(1)),
            "change 3 of 4: address 10.0.0.1 of a real is an address of this host itself: it must be another host's address",
        ),
        // What is wrong with the result is said as of any configuration.
        (
            Request::EditReal(named("web"), real("10.0.0.2"), weight(65_536)),
            "weight 65536 of real 10.0.0.2:80 is out of range: 0..=65535",
        ),
    ] {
        for scope in [Scope::File, Scope::Runtime] {
            let mut requests = every_kind();
            requests.truncate(3);
            requests.insert(2, third.clone());
            let refusal = scene.change_all(requests, scope).unwrap_err();
            assert_eq!(refusal.sentence, sentence);
            assert_eq!(everything(&mut scene), before, "{sentence}");
        }
    }
    assert_eq!(scene.dataplane.state().reconciled, 1, "only the start");
    assert_eq!(scene.events(), [] as [&str; 0]);
}

#[test]
fn a_batch_that_does_not_fit_the_file_changes_nothing() {
    let mut scene = Scene::new();
    scene
        .change(
            Request::AddService(dns(), ServiceSettings::default()),
            Scope::Runtime,
        )
        .unwrap();
    scene.events();
    let before = everything(&mut scene);
    let requests = vec![
        Request::EditReal(named("web"), real("10.0.0.2"), weight(5)),
        Request::AddReal(named("udp/192.0.2.80:53"), real("10.0.0.3"), weight(1)),
    ];
    assert_eq!(
        scene
            .change_all(requests, Scope::File)
            .unwrap_err()
            .sentence,
        format!(
            "what runs differs from {} (changes made with --runtime), where there is no service udp/192.0.2.80:53: use \
             --runtime, or `balancer-ctl reload` to go back to the file",
            scene.path().display()
        )
    );
    assert_eq!(everything(&mut scene), before);
    assert_eq!(scene.events(), [] as [&str; 0]);
}

#[test]
fn a_batch_that_the_data_plane_refuses_or_fails_half_way_is_taken_back() {
    let mut scene = Scene::new();
    let before = everything(&mut scene);
    scene.dataplane.state().max_services = Some(2);
    let refusal = scene.change_all(every_kind(), Scope::File).unwrap_err();
    assert_eq!(refusal.sentence, "there is room for 2 services");
    assert_eq!(everything(&mut scene), before);

    scene.dataplane.state().max_services = None;
    scene.dataplane.state().reconcile_failures = 1;
    let refusal = scene.change_all(every_kind(), Scope::File).unwrap_err();
    assert_eq!(refusal.sentence, "the kernel refused a call");
    assert_eq!(everything(&mut scene), before);
    assert_eq!(scene.events(), [] as [&str; 0]);
}

#[test]
fn a_batch_whose_file_cannot_be_written_or_put_in_place_is_taken_back() {
    let mut scene = Scene::new();
    let path = scene.path();
    let before = everything(&mut scene);
    // The file has changed since it was loaded.
    fs::write(&path, "# theirs\n").unwrap();
    let refusal = scene.change_all(every_kind(), Scope::File).unwrap_err();
    assert_eq!(
        refusal.sentence,
        format!(
            "{} has changed since it was loaded: `balancer-ctl reload` first, or use --runtime",
            path.display()
        )
    );
    fs::write(&path, FILE).unwrap();
    assert_eq!(everything(&mut scene), before);
    assert_eq!(scene.dataplane.state().reconciled, 1, "only the start");

    // A folder takes the file's place while the data plane takes the changes over.
    scene.dataplane.state().during_reconcile = Some(Box::new({
        let path = path.clone();
        move || {
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
        }
    }));
    let refusal = scene.change_all(every_kind(), Scope::File).unwrap_err();
    assert_eq!(
        refusal.sentence,
        format!(
            "cannot replace {}: Is a directory (os error 21); nothing was changed",
            path.display()
        )
    );
    fs::remove_dir(&path).unwrap();
    fs::write(&path, FILE).unwrap();
    assert_eq!(everything(&mut scene), before);
    assert_eq!(
        scene.dataplane.state().reconciled,
        3,
        "the start, the changes, and back"
    );
    assert_eq!(scene.events(), [] as [&str; 0]);
}
