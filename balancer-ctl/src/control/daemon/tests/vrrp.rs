//! Virtual routers of the file, when it is loaded again and when services change.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::*;
use crate::{
    health::{AgentReply, CheckState, CheckUpdate, UNKNOWN_TIME},
    model::vrrp::{Probes, VirtualRouterState},
    os::state_file::StateFile,
    vrrp::{
        engine::Tracked,
        report::{Change, Report, RouterReport},
    },
};

pub(super) const VRRP: &str = r#"
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

pub(super) fn report(state: VirtualRouterState, reason: &str) -> Report {
    let active = Ipv4Addr::new(192, 0, 2, 2).into();
    Report {
        routers: vec![RouterReport {
            name: "outside".to_owned(),
            group: None,
            interface: "eth0".to_owned(),
            router_id: 51,
            state,
            reason: reason.to_owned(),
            since: clock::now(),
            priority: 100,
            configured_priority: 100,
            addresses: vec!["192.0.2.80/24".parse().unwrap()],
            probes: Probes::EveryNode,
            active_node: (state == VirtualRouterState::Backup).then_some((active, 150)),
            sent: 3,
            received: 4,
            refused: BTreeMap::from([("checksum", 2)]),
        }],
        problems: vec!["something else".to_owned()],
    }
}

#[test]
fn connections_of_another_node_are_expected_until_some_time_after_it_has_lost_the_vips() {
    let mut scene = Scene::with_file(&format!("{FILE}{VRRP}"));
    let mut vips = |state, ago: u64| {
        let mut report = report(state, "");
        // The routers' clock counts the time that the host was suspended.
        let since = clock::now_with_suspend();
        report.routers[0].since = since.checked_sub(Duration::from_secs(ago)).unwrap();
        scene.vrrp.state().report = Some(report);
        scene.daemon.follow_vrrp(Update::Changed(Change {
            group: "outside".to_owned(),
            state,
            reason: String::new(),
        }));
        let vips = scene.dataplane.state().failover_vips.clone();
        vips.into_iter()
            .map(|(vip, left)| (vip.to_string(), left.map(|left| left.as_secs_f64().ceil())))
            .collect::<Vec<_>>()
    };
    let vip = "192.0.2.80".to_owned();
    let whenever = [(vip.clone(), None)];
    let left = |seconds| [(vip.clone(), Some(seconds))];
    assert_eq!(vips(VirtualRouterState::Backup, 100), whenever);
    assert_eq!(vips(VirtualRouterState::Fault, 100), whenever);
    assert_eq!(vips(VirtualRouterState::Active, 0), left(30.0));
    assert_eq!(vips(VirtualRouterState::Active, 20), left(10.0));
    assert_eq!(vips(VirtualRouterState::Active, 31), []);
    // Nothing is known of a thread that does not answer, so that nothing changes.
    vips(VirtualRouterState::Active, 0);
    scene.vrrp.state().is_silent = true;
    scene.daemon.follow_vrrp(Update::Changed(Change {
        group: "outside".to_owned(),
        state: VirtualRouterState::Backup,
        reason: String::new(),
    }));
    assert_eq!(scene.dataplane.state().failover_vips.len(), 1);
    let refusal = scene.ask(Message::GiveUpAll).unwrap_err();
    assert_eq!(
        refusal.sentence,
        "the thread of the virtual routers does not answer: restart balancerd"
    );
}

#[test]
fn virtual_routers_run_and_are_told_what_is_down() {
    let mut scene = Scene::with_file(&format!("{FILE}{VRRP}"));
    let configured = scene.vrrp.state().configured.clone();
    assert_eq!(configured, scene.daemon.model.vrrp);
    let penalty = |scene: &Scene, penalty| {
        let tracked = Tracked {
            fault: None,
            penalty,
            noticed_within: scene.vrrp.state().tracked["outside"].noticed_within,
        };
        let expected = BTreeMap::from([("outside".to_owned(), tracked)]);
        assert_eq!(scene.vrrp.state().tracked, expected);
    };
    penalty(&scene, 0);
    // A service without real servers cannot answer.
    let real = |scene: &mut Scene, request| scene.change(request, Scope::Runtime).unwrap();
    let address = RealRef {
        address: "10.0.0.2".parse().unwrap(),
        port: Some(80),
    };
    let settings = |weight| RealSettings {
        weight: Some(weight),
        ..RealSettings::default()
    };
    real(
        &mut scene,
        Request::EditReal(named("web"), address, settings(0)),
    );
    penalty(&scene, 50);
    let reasons = scene.ask(Message::Status).unwrap().reasons;
    let sentence =
        "outside has a priority lower by 50: no real server of service web takes new connections";
    assert!(reasons.contains(&sentence.to_owned()), "{reasons:?}");
    real(
        &mut scene,
        Request::EditReal(named("web"), address, settings(1)),
    );
    penalty(&scene, 0);
}

#[test]
fn what_virtual_routers_ping_is_checked_with_the_rest() {
    let ping = "track-ping = { targets = [\"192.0.2.1\"], weight = 60 }\n";
    let mut scene = Scene::with_file(&format!("{FILE}{VRRP}{ping}"));
    let wanted = scene.checkers.state().wanted.clone();
    let [start] = &wanted[..] else {
        panic!("{wanted:?}");
    };
    assert_eq!(start.target.target.to_string(), "192.0.2.1:0");
    let update = |up| CheckUpdate {
        target: start.target.as_ref().clone(),
        check_state: CheckState {
            up,
            decided: true,
            reason: String::new(),
            agent_reply: AgentReply::default(),
            since: UNKNOWN_TIME,
        },
    };
    for (up, penalty) in [(false, 60), (true, 0)] {
        scene.daemon.answer(Message::Found(vec![update(up)]));
        assert_eq!(scene.vrrp.state().tracked["outside"].penalty, penalty);
    }
}

#[test]
fn the_status_shows_virtual_routers_and_the_nodes_part() {
    let mut scene = Scene::with_file(&format!("{FILE}{VRRP}"));
    let mut status = |report: Report| {
        scene.vrrp.state().report = Some(report);
        scene.ask(Message::Status).unwrap()
    };
    let active = status(report(
        VirtualRouterState::Active,
        "no other node is Active",
    ));
    assert_eq!(
        (active.role, active.high_availability),
        (view::Role::Active, false)
    );
    assert_eq!(active.reasons, ["something else"]);
    let mut shown = active.vrrp;
    shown[0].since = String::new();
    let expected = view::VirtualRouter {
        name: "outside".to_owned(),
        state: VirtualRouterState::Active,
        reason: "no other node is Active".to_owned(),
        priority: 100,
        addresses: vec!["192.0.2.80/24".to_owned()],
        since: String::new(),
        interface: "eth0".to_owned(),
        router_id: 51,
        group: None,
        probes: Probes::EveryNode,
        active_node: None,
        sent: 3,
        received: 4,
        refused: BTreeMap::from([("checksum".to_owned(), 2)]),
    };
    assert_eq!(shown, [expected]);
    let backup = status(report(
        VirtualRouterState::Backup,
        "192.0.2.2 is Active with priority 150",
    ));
    assert_eq!(
        (backup.role, backup.high_availability),
        (view::Role::Backup, true)
    );
    let fault = status(report(
        VirtualRouterState::Fault,
        "interface eth0 has no link",
    ));
    assert_eq!(
        (fault.role, fault.high_availability),
        (view::Role::Fault, false)
    );
    assert_eq!(
        fault.reasons,
        [
            "no node is Active for outside: nobody answers for the VIPs",
            "virtual router outside is in fault: interface eth0 has no link",
            "something else"
        ]
    );
}

#[test]
fn maintenance_of_the_node_is_told_and_shown() {
    let mut scene = Scene::with_file(&format!("{FILE}{VRRP}"));
    scene.vrrp.state().report = Some(Report {
        problems: Vec::new(),
        ..report(VirtualRouterState::Backup, "this node is in maintenance")
    });
    scene
        .ask(|reply| Message::NodeMaintenance(true, reply))
        .unwrap();
    assert!(scene.vrrp.state().in_maintenance);
    let status = scene.ask(Message::Status).unwrap();
    assert!(!status.high_availability);
    assert_eq!(
        status.reasons,
        ["this node is in maintenance and will not be Active: `balancer-ctl node ready` ends that"]
    );
    scene
        .ask(|reply| Message::NodeMaintenance(false, reply))
        .unwrap();
    assert!(!scene.vrrp.state().in_maintenance);
    assert_eq!(scene.ask(Message::Status).unwrap().reasons, [""; 0]);
}

#[test]
fn a_backup_node_probes_once_it_is_active_where_that_is_configured() {
    let file = FILE.replace(
        "[[service.real]]",
        "check = { type = \"tcp\" }\n[[service.real]]",
    );
    let vrrp = VRRP.replace("track-services = [\"web\"]", "probes = \"active-only\"");
    let mut scene = Scene::with_file(&format!("{file}{vrrp}"));
    let paused = |scene: &Scene| {
        let wanted = scene.checkers.state().wanted.clone();
        wanted.iter().map(|start| start.paused).collect::<Vec<_>>()
    };
    assert_eq!(paused(&scene), [true]);
    for (state, is_paused) in [
        (VirtualRouterState::Active, false),
        (VirtualRouterState::Fault, true),
        (VirtualRouterState::Active, false),
        (VirtualRouterState::Backup, true),
    ] {
        scene.vrrp.state().report = Some(report(state, ""));
        scene.daemon.follow_vrrp(Update::Changed(Change {
            group: "outside".to_owned(),
            state,
            reason: String::new(),
        }));
        assert_eq!(paused(&scene), [is_paused], "{state:?}");
    }
}

#[test]
fn failures_of_virtual_routers_are_kept_for_the_next_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let file = StateFile::at(&folder.path().join("vrrp.json"));
    let mut scene = Scene::with_file(&format!("{FILE}{VRRP}"));
    let known = |scene: &Scene| scene.vrrp.state().failures.get("outside").map(Vec::len);
    assert_eq!(known(&scene), None);
    let restart = |scene: &mut Scene| {
        scene.daemon.vrrp.failures = Failures::read(Some(file.clone()));
        scene.daemon.vrrp.running = None;
        scene.daemon.configure_vrrp();
    };
    restart(&mut scene);
    assert_eq!(known(&scene), None);
    scene.daemon.follow_vrrp(Update::Failed {
        group: "outside".to_owned(),
        failures: vec![clock::now_with_suspend()],
    });
    // It is killed, twice.
    for failures in [2, 3] {
        restart(&mut scene);
        assert_eq!(known(&scene), Some(failures));
    }
    // It is stopped.
    scene.daemon.vrrp.stop();
    restart(&mut scene);
    assert_eq!(known(&scene), Some(3));
}

#[test]
fn a_node_that_cannot_take_over_is_named_with_the_reason() {
    let succeed = |scene: &mut Scene| scene.daemon.succeed();
    assert_eq!(
        succeed(&mut Scene::new()).unwrap_err(),
        "node lb1 has no virtual router, so it cannot take over"
    );
    let mut scene = Scene::with_file(&format!("{FILE}{VRRP}"));
    scene.vrrp.state().report = Some(report(VirtualRouterState::Active, ""));
    assert_eq!(
        succeed(&mut scene).unwrap_err(),
        "node lb1 is Active already (outside): --to names a node that stands by"
    );
    let reason = "interface eth0 has no link";
    scene.vrrp.state().report = Some(report(VirtualRouterState::Fault, reason));
    assert_eq!(
        succeed(&mut scene).unwrap_err(),
        "node lb1 cannot take over, since its virtual router outside is in fault: interface eth0 has no link"
    );
    scene
        .ask(|reply| Message::NodeMaintenance(true, reply))
        .unwrap();
    assert_eq!(
        succeed(&mut scene).unwrap_err(),
        "node lb1 is in maintenance, so it cannot take over: `balancer-ctl node ready` there ends that"
    );
    scene
        .ask(|reply| Message::NodeMaintenance(false, reply))
        .unwrap();
    scene.vrrp.state().report = Some(report(VirtualRouterState::Backup, ""));
    assert_eq!(succeed(&mut scene), Ok(()));
}

#[test]
fn only_an_active_node_gives_up() {
    let mut scene = Scene::new();
    let refusal = |scene: &mut Scene| scene.ask(Message::GiveUp).unwrap_err().sentence;
    assert_eq!(
        refusal(&mut scene),
        "there is no virtual router: add a [[vrrp]] block to the configuration file"
    );
    let mut scene = Scene::with_file(&format!("{FILE}{VRRP}"));
    scene.vrrp.state().report = Some(report(VirtualRouterState::Backup, ""));
    assert_eq!(
        refusal(&mut scene),
        "this node is not Active, so it has no VIP to give up: 192.0.2.2 is Active, so use `failover` there"
    );
    scene.vrrp.state().report = Some(report(VirtualRouterState::Fault, ""));
    assert_eq!(
        refusal(&mut scene),
        "this node is not Active, so it has no VIP to give up, and it hears no node that is"
    );
    scene.vrrp.state().report = Some(report(VirtualRouterState::Active, ""));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let outside = || vec!["outside: 192.0.2.2 took over".to_owned()];
    for outcome in [Ok(outside()), Err(outside())] {
        scene.vrrp.state().outcome = Some(outcome.clone());
        let leaving = scene.ask(Message::GiveUp).unwrap();
        let finished = runtime.block_on(leaving.finished());
        match outcome {
            Ok(said) => assert_eq!(finished.unwrap(), said),
            Err(_) => assert_eq!(
                finished.unwrap_err().sentence,
                "no other node took over, so this node keeps the VIPs (outside: 192.0.2.2 took over): see that balancerd runs on \
                 the other node and that both hear each other"
            ),
        }
    }
}
