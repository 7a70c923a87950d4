//! What is refused, or fails half way, changes nothing.

use super::*;

#[test]
fn invalid_changes_are_refused() {
    let mut scene = Scene::new();
    let web = service_key("192.0.2.80:80").unwrap();
    for (request, sentence) in [
        (
            Request::AddService(web, ServiceSettings::default()),
            "service tcp/192.0.2.80:80 exists already: change it with `edit-service`",
        ),
        (
            Request::AddService(
                dns(),
                ServiceSettings {
                    name: Some("web".to_owned()),
                    ..Default::default()
                },
            ),
            "name `web` is taken by service tcp/192.0.2.80:80: choose another",
        ),
        (
            add_real("2001:db8::2"),
            "real [2001:db8::2]:80 is not of the family of service tcp/192.0.2.80:80: both must be IPv4 or both IPv6",
        ),
        (
            add_real("10.0.0.2:80"),
            "real 10.0.0.2:80 of service tcp/192.0.2.80:80 exists already: change it with `edit-real`",
        ),
        (
            Request::EditReal(ServiceRef::Only, real("10.0.0.2"), weight(65_536)),
            "weight 65536 of real 10.0.0.2:80 is out of range: 0..=65535",
        ),
        (
            Request::DelReal(ServiceRef::Only, real("10.0.0.9"), ConnectionPolicy::Keep),
            "service tcp/192.0.2.80:80 has no real 10.0.0.9:80: `list` shows all",
        ),
        (
            Request::DelService(named("mail")),
            "there is no service `mail`: `list` shows all",
        ),
    ] {
        for scope in [Scope::File, Scope::Runtime] {
            assert_eq!(scene.refusal(request.clone(), scope), sentence);
        }
    }
    assert_eq!(scene.events(), [] as [&str; 0]);
}

#[test]
fn the_only_service_need_not_be_named_and_one_of_several_must() {
    let mut scene = Scene::new();
    scene.change(add_real("10.0.0.3"), Scope::File).unwrap();
    scene
        .change(
            Request::AddService(dns(), ServiceSettings::default()),
            Scope::File,
        )
        .unwrap();
    assert_eq!(
        scene.refusal(add_real("10.0.0.4"), Scope::File),
        "say which service: `web` or `udp/192.0.2.80:53`"
    );
    scene.change(Request::Clear, Scope::File).unwrap();
    assert_eq!(
        scene.refusal(add_real("10.0.0.4"), Scope::File),
        "there is no service: add one with `add-service`"
    );
    assert_eq!(
        scene.text(),
        "# ours\n[dataplane]\ninterfaces = [\"eth0\"]\n"
    );
}

#[test]
fn a_file_that_changed_meanwhile_is_neither_written_nor_is_anything_applied() {
    let mut scene = Scene::new();
    fs::write(scene.path(), format!("{FILE}# theirs\n")).unwrap();
    let path = scene.path().display().to_string();
    assert_eq!(
        scene.refusal(add_real("10.0.0.3"), Scope::File),
        format!(
            "{path} has changed since it was loaded: `balancer-ctl reload` first, or use --runtime"
        )
    );
    scene.change(add_real("10.0.0.3"), Scope::Runtime).unwrap();
    scene.ask(Message::Reload).unwrap();
    scene.change(add_real("10.0.0.3"), Scope::File).unwrap();
    assert_eq!(
        scene.text(),
        format!("{FILE}\n[[service.real]]\naddress = \"10.0.0.3:80\"\n# theirs\n")
    );
}

#[test]
fn a_change_that_the_data_plane_refuses_is_not_written() {
    let mut scene = Scene::new();
    scene.dataplane.state().max_services = Some(1);
    assert_eq!(
        scene.refusal(
            Request::AddService(dns(), ServiceSettings::default()),
            Scope::File
        ),
        "there is room for 1 services"
    );
    assert_eq!(fs::read_dir(scene.folder.path()).unwrap().count(), 1);
}

#[test]
fn a_change_that_fails_half_way_is_taken_back() {
    let mut scene = Scene::new();
    scene.dataplane.state().reconcile_failures = 1;
    assert_eq!(
        scene.refusal(add_real("10.0.0.3"), Scope::File),
        "the kernel refused a call"
    );
    assert_eq!(
        scene.dataplane.state().reconciled,
        3,
        "the start, the change, and back"
    );
}

#[test]
fn a_change_that_cannot_be_written_is_not_applied() {
    // A file that can be read and has no name any more cannot be replaced, not even by root.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("balancer.toml");
    fs::write(&path, FILE).unwrap();
    let open = fs::File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
    let file = load(Path::new(&path), "lb1").unwrap();
    let model = file.model().clone();
    let mut scene = Scene::start(folder, Some(file), model);
    let refusal = scene.change(add_real("10.0.0.3"), Scope::File).unwrap_err();
    assert_eq!(
        refusal.sentence,
        format!(
            "{path} cannot be read any more (No such file or directory (os error 2)): put it back, or use --runtime"
        )
    );
    assert_eq!(scene.state(), ["tcp/192.0.2.80:80 10.0.0.2:80=1"]);
    assert_eq!(scene.dataplane.state().reconciled, 1, "only the start");
}

#[test]
fn a_change_whose_file_cannot_be_put_in_place_is_taken_back() {
    let mut scene = Scene::new();
    let path = scene.path();
    scene.dataplane.state().during_reconcile = Some(Box::new({
        let path = path.clone();
        move || {
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
        }
    }));
    let refusal = scene.change(add_real("10.0.0.3"), Scope::File).unwrap_err();
    assert_eq!(
        refusal.sentence,
        format!(
            "cannot replace {}: Is a directory (os error 21); nothing was changed",
            path.display()
        )
    );
    assert_eq!(scene.state(), ["tcp/192.0.2.80:80 10.0.0.2:80=1"]);
    assert_eq!(
        scene.dataplane.state().reconciled,
        3,
        "the start, the change, and back"
    );
    assert_eq!(scene.events(), [] as [&str; 0]);
}

#[test]
fn a_file_that_is_wrong_changes_nothing_when_it_is_loaded_again() {
    let mut scene = Scene::new();
    let before = scene.state();
    let path = scene.path().display().to_string();
    // As an editor that died in the middle leaves it.
    fs::write(scene.path(), &FILE[..FILE.find("eb\"").unwrap()]).unwrap();
    let refusal = scene.ask(Message::Reload).unwrap_err();
    assert_eq!(
        refusal.sentence,
        format!("{path}:6:10: invalid basic string, expected `\"`")
    );
    assert_eq!(scene.state(), before);
    assert_eq!(
        scene.events(),
        [format!(
            "reload-failed {path}:6:10: invalid basic string, expected `\"`"
        )]
    );
}

#[test]
fn wrong_health_settings_change_nothing_when_the_file_is_loaded_again() {
    let good = "{ type = \"tcp\", initial = \"up\" }";
    let checked = FILE.replace("80:80\"\n", &format!("80:80\"\ncheck = {good}\n"));
    let mut scene = Scene::with_file(&checked);
    let path = scene.path().display().to_string();
    let before = (scene.state(), scene.checkers.state().wanted.clone());
    assert_eq!(before.1.len(), 1);
    for (check, expected) in [
        (
            "{ type = \"https\", ca = \"/nonexistent/ca.pem\" }",
            "32: ca /nonexistent/ca.pem: No such file or directory (os error 2)",
        ),
        (
            "{ type = \"https\", ca = \"/etc\" }",
            "32: ca /etc: it is not a regular file",
        ),
        (
            "{ type = \"http\", body = \"a(b\" }",
            "35: body `a(b` is no regular expression: at character 2: unclosed group",
        ),
        (
            "{ type = \"htp\" }",
            "18: type `htp` is not known: expected `tcp`, `http`, `https`, `udp`, `dns`, `ping`, `grpc`, `exec` or `agent`",
        ),
        (
            "{ type = \"http\", interval = \"1s\", timeout = \"2s\" }",
            "53: timeout 2s is longer than interval 1s: a probe must be over when the next begins",
        ),
        (
            "{ type = \"exec\", run = [\"/nonexistent/run\"] }",
            "32: run /nonexistent/run: `/nonexistent` does not exist",
        ),
    ] {
        let wrong = checked.replace(good, check);
        fs::write(scene.path(), wrong).unwrap();
        let refusal = scene.ask(Message::Reload).unwrap_err();
        let expected = format!("{path}:8:{expected}");
        assert_eq!(refusal.sentence, expected, "{check}");
        assert_eq!(scene.events(), [format!("reload-failed {expected}")]);
        let after = (scene.state(), scene.checkers.state().wanted.clone());
        assert_eq!(after, before, "{check}");
    }
}

/// A file with another interface and one more service.
fn write_another(scene: &Scene) {
    let text = FILE.replace("eth0", "eth1");
    fs::write(
        scene.path(),
        format!("{text}\n[[service]]\naddress = \"192.0.2.80:81\"\n"),
    )
    .unwrap();
}

#[test]
fn settings_and_services_of_a_loaded_file_are_applied_or_neither_is() {
    let mut scene = Scene::new();
    write_another(&scene);
    scene.dataplane.state().max_services = Some(1);
    let refusal = scene.ask(Message::Reload).unwrap_err();
    assert_eq!(refusal.sentence, "there is room for 1 services");
    let interfaces = |scene: &Scene| scene.dataplane.state().settings.clone().unwrap().interfaces;
    assert_eq!(interfaces(&scene), ["eth0"]);
    assert_eq!(scene.state(), ["tcp/192.0.2.80:80 10.0.0.2:80=1"]);

    scene.dataplane.state().max_services = None;
    scene.ask(Message::Reload).unwrap();
    assert_eq!(interfaces(&scene), ["eth1"]);
    assert_eq!(
        scene.state(),
        ["tcp/192.0.2.80:80 10.0.0.2:80=1", "tcp/192.0.2.80:81"]
    );
}

#[test]
fn a_loaded_file_that_fails_half_way_is_taken_back() {
    let mut scene = Scene::new();
    write_another(&scene);
    scene.dataplane.state().reconcile_failures = 1;
    let refusal = scene.ask(Message::Reload).unwrap_err();
    assert_eq!(refusal.sentence, "the kernel refused a call");
    let settings = scene.dataplane.state().settings.clone();
    assert_eq!(settings.as_ref(), Some(&scene.daemon.model.dataplane));
    assert_eq!(scene.state(), ["tcp/192.0.2.80:80 10.0.0.2:80=1"]);
    assert_eq!(scene.events(), ["reload-failed the kernel refused a call"]);
}

#[test]
fn a_refused_interface_is_reported_with_its_position_in_the_file() {
    let mut scene = Scene::new();
    let text = FILE.replace("[\"eth0\"]", "[\"eth0\", \"eth7\"]");
    fs::write(scene.path(), &text).unwrap();
    scene.dataplane.state().missing_interface = Some("eth7".to_owned());
    let path = scene.path().display().to_string();
    assert_eq!(
        scene.ask(Message::Reload).unwrap_err().sentence,
        format!("{path}:3:23: the interface eth7 does not exist")
    );
}

#[test]
fn settings_that_fail_half_way_are_rolled_back_and_that_is_tried_again() {
    let interfaces = |scene: &Scene| scene.dataplane.state().settings.clone().unwrap().interfaces;
    let mut scene = Scene::new();
    fs::write(scene.path(), FILE.replace("eth0", "eth1")).unwrap();
    scene.dataplane.state().configure_failures = 1;
    let refusal = scene.ask(Message::Reload).unwrap_err();
    assert_eq!(refusal.sentence, "the interface is gone");
    assert_eq!(interfaces(&scene), ["eth0"]);
    assert_eq!(scene.events(), ["reload-failed the interface is gone"]);

    scene.dataplane.state().configure_failures = 3;
    let said = "the interface is gone; and what ran before could not be restored, which is tried again each second: \
                the interface is gone";
    let refusal = scene.ask(Message::Reload).unwrap_err();
    assert_eq!(refusal.sentence, said);
    // What runs can be changed meanwhile; the settings are still to come.
    scene.change(add_real("10.0.0.3"), Scope::Runtime).unwrap();
    scene.daemon.tick();
    scene.dataplane.state().settings = None;
    assert_eq!(scene.events().len(), 3);
    scene.daemon.tick();
    assert_eq!(interfaces(&scene), ["eth0"]);
    assert_eq!(scene.events(), ["dataplane-in-sync"]);
}

#[test]
fn a_failed_roll_back_is_reported_and_tried_again() {
    let mut scene = Scene::new();
    scene.dataplane.state().reconcile_failures = 2;
    let refusal = scene.change(add_real("10.0.0.3"), Scope::File).unwrap_err();
    assert_eq!(
        refusal.sentence,
        "the kernel refused a call; and what ran before could not be restored, which is tried again each second: \
         the kernel refused a call"
    );
    scene.daemon.tick();
    assert_eq!(scene.state(), ["tcp/192.0.2.80:80 10.0.0.2:80=1"]);
}
