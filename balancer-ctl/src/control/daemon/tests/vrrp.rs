//! Virtual routers of the file, when it is loaded again and when services change.

use super::*;

const VRRP: &str = r#"
# the VIP
[[vrrp]]
name = "outside"
interface = "eth0"
router-id = 51
addresses = ["192.0.2.80/24", "192.0.2.81/24"]
track-services = ["web"]
"#;

#[test]
fn virtual_routers_that_change_are_taken_over_by_a_reload() {
    let mut scene = Scene::new();
    let written = |scene: &mut Scene, text: &str| {
        fs::write(scene.path(), text).unwrap();
        scene.ask(Message::Reload).unwrap();
        assert!(!scene.ask(Message::Status).unwrap().runtime_changes);
        scene.events()
    };
    let text = format!("{FILE}{VRRP}");
    assert_eq!(
        written(&mut scene, &text),
        [
            "virtual-router-added outside: 192.0.2.80/24 192.0.2.81/24 on eth0, router id 51, priority 100",
            "reloaded"
        ]
    );
    assert_eq!(
        written(&mut scene, &format!("{text}priority = 150\n")),
        [
            "virtual-router-changed outside: priority 100 -> 150",
            "reloaded"
        ]
    );
    assert_eq!(
        written(&mut scene, FILE),
        ["virtual-router-removed outside", "reloaded"]
    );
    // A wrong one changes nothing.
    fs::write(scene.path(), text.replace("51", "0")).unwrap();
    scene.ask(Message::Reload).unwrap_err();
    assert_eq!(scene.daemon.model.vrrp, []);
}

#[test]
fn changes_of_services_leave_virtual_routers_as_they_are() {
    let text = format!("{FILE}{VRRP}");
    let mut scene = Scene::with_file(&text);
    for scope in [Scope::File, Scope::Runtime] {
        assert_eq!(
            scene.refusal(Request::DelService(named("web")), scope),
            "virtual router outside tracks service web, which is not there: add the service, or take its name out of track-services"
        );
    }
    let vip = service_key("192.0.2.81:80").unwrap();
    scene
        .change(
            Request::AddService(vip, ServiceSettings::default()),
            Scope::File,
        )
        .unwrap();
    let reasons = scene.ask(Message::Status).unwrap().reasons.join("; ");
    assert!(!reasons.contains("no interface carries"), "{reasons}");
    let added = "\n[[service]]\naddress = \"192.0.2.81:80\"\n";
    assert_eq!(scene.text(), format!("{FILE}{added}{VRRP}"));
    scene
        .change(Request::DelService(ServiceRef::Key(vip)), Scope::File)
        .unwrap();
    assert_eq!(scene.text(), text);
}
