//! The channel to other nodes: its key, and services that are sent and taken.

use std::{path::PathBuf, sync::Arc};

use super::*;
use crate::model::vrrp::VirtualRouterState;
use crate::peer::{
    Answer, ClusterKey, PeerChange, PeerCounters, PeerRequest, PeerView, RefusalCounters,
    SessionState,
    message::{NodeRecord, NodeReport, NodeRole, ReplyBody, RequestBody},
};

fn key(byte: u8) -> ClusterKey {
    ClusterKey::from([byte; 32])
}

impl Scene {
    fn key_file(&self) -> PathBuf {
        self.folder.path().join("cluster.key")
    }

    /// The key of the channel at present.
    fn used_key(&self) -> Option<ClusterKey> {
        let state = self.peers.state();
        state.configured.as_ref().and_then(|set| set.key.clone())
    }

    fn reload(&mut self) {
        self.ask(Message::Reload).unwrap();
    }

    /// Sends a message whose answer comes later.
    fn begin<T>(
        &mut self,
        message: impl FnOnce(Reply<T>) -> Message,
    ) -> oneshot::Receiver<Result<T, ApiError>> {
        let (reply, answer) = oneshot::channel();
        self.daemon.answer(message(reply));
        answer
    }

    /// Has the daemon take the next that was done beside its loop.
    fn follow(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let said = runtime.unwrap().block_on(self.daemon.nodes.next());
        self.daemon.follow_peers(said);
    }

    /// What this node answers to another one.
    fn asked(&mut self, body: RequestBody) -> Answer {
        let is_push = matches!(body, RequestBody::Push { .. });
        let (reply, mut answer) = oneshot::channel();
        self.daemon.follow_peers(FromPeers::Asked(PeerRequest {
            from: "lb2".to_owned(),
            body,
            reply,
        }));
        if is_push {
            self.follow();
        }
        answer.try_recv().unwrap()
    }

    fn services(&mut self) -> String {
        match self.asked(RequestBody::Services) {
            Ok(ReplyBody::Services { text }) => text,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_key_that_changes_in_its_place_is_used_from_the_next_reload_on() {
    let mut scene = Scene::new();
    let file = scene.key_file();
    scene.reload();
    assert_eq!(scene.peers.state().configured, None);
    for byte in [1, 2] {
        key(byte).write(&file).unwrap();
        scene.reload();
        assert_eq!(scene.used_key(), Some(key(byte)));
    }
    // One that cannot be read is said, and the present one stays.
    fs::write(&file, "secret").unwrap();
    scene.reload();
    assert_eq!(scene.used_key(), Some(key(2)));
    let said = |scene: &mut Scene| scene.ask(Message::Status).unwrap().reasons.join("; ");
    assert!(said(&mut scene).contains("holds no key"));
    fs::remove_file(&file).unwrap();
    scene.reload();
    assert_eq!(scene.used_key(), None);
    assert!(!said(&mut scene).contains("key file"));
    // A file that the configuration names must be there.
    let own = scene.folder.path().join("own.key");
    let named = format!("{FILE}[peers]\nkey-file = \"{}\"\n", own.display());
    fs::write(scene.path(), named).unwrap();
    scene.reload();
    assert!(said(&mut scene).contains(&format!("there is no key file {}", own.display())));
    key(3).write(&own).unwrap();
    scene.reload();
    assert_eq!(scene.used_key(), Some(key(3)));
    let state = scene.peers.state();
    assert!(!state.configured.as_ref().unwrap().can_be_joined);
}

#[test]
fn a_key_is_made_beside_the_loop_and_used() {
    let mut scene = Scene::new();
    let mut made = scene.begin(Message::NodeKey);
    let mut again = scene.begin(Message::NodeKey);
    assert_eq!(
        again.try_recv().unwrap().unwrap_err().sentence,
        "this node makes its key or joins another node at present: try again when that has ended"
    );
    scene.follow();
    let shown = made.try_recv().unwrap().unwrap().key;
    assert_eq!(scene.used_key(), Some(shown.parse().unwrap()));
    assert_eq!(ClusterKey::read(&scene.key_file()), Ok(scene.used_key()));
}

#[test]
fn a_node_uses_the_key_that_it_joins_with_once_it_has_joined() {
    let mut scene = Scene::new();
    let address = "192.0.2.2:4446".parse().unwrap();
    let join = |scene: &mut Scene, byte| {
        scene.begin(|reply| Message::NodeJoin(key(byte).to_string(), address, reply))
    };
    let mut joined = join(&mut scene, 5);
    let mut again = join(&mut scene, 6);
    assert!(again.try_recv().unwrap().is_err());
    let asked = scene.peers.state().joining.take().unwrap();
    assert_eq!((&asked.0, asked.2), (&key(5), address));
    assert_eq!(asked.1, scene.key_file());
    asked.3.send(Err("it has another key".to_owned())).unwrap();
    scene.follow();
    let refusal = joined.try_recv().unwrap().unwrap_err();
    assert_eq!(refusal.sentence, "it has another key");
    assert_eq!(scene.used_key(), None);

    let mut joined = join(&mut scene, 5);
    let asked = scene.peers.state().joining.take().unwrap();
    // A reload meanwhile may read a key of which it is not known yet whether it stays.
    key(5).write(&scene.key_file()).unwrap();
    scene.reload();
    assert_eq!(scene.used_key(), None);
    let nodes = vec![NodeRecord {
        name: "lb2".to_owned(),
        address,
        stamp: 1,
        removed: false,
    }];
    asked.3.send(Ok(nodes.clone())).unwrap();
    scene.follow();
    assert_eq!(joined.try_recv().unwrap().unwrap(), nodes);
    assert_eq!(scene.used_key(), Some(key(5)));
}

#[test]
fn what_was_changed_with_runtime_is_neither_sent_nor_compared() {
    let mut scene = Scene::new();
    key(1).write(&scene.key_file()).unwrap();
    scene.reload();
    let digests = |scene: &mut Scene| {
        scene.daemon.tell_peers();
        let report = scene.peers.state().published.clone().unwrap();
        report.services_digest
    };
    let (text, digest) = (scene.services(), digests(&mut scene));
    let other = service_key("192.0.2.81:80").unwrap();
    let add = || Request::AddService(other, ServiceSettings::default());
    scene.change(add(), Scope::Runtime).unwrap();
    let drain = Request::EditReal(
        named("web"),
        RealRef {
            address: "10.0.0.2".parse().unwrap(),
            port: Some(80),
        },
        RealSettings {
            weight: Some(0),
            ..RealSettings::default()
        },
    );
    scene.change(drain, Scope::Runtime).unwrap();
    assert_eq!(
        (scene.services(), digests(&mut scene)),
        (text.clone(), digest.clone())
    );
    assert_eq!(scene.daemon.differences(&text).unwrap(), [""; 0]);
    scene.change(add(), Scope::File).unwrap();
    assert!(scene.services().contains("192.0.2.81:80"));
    assert_ne!(digests(&mut scene), digest);
}

#[test]
fn what_is_taken_over_is_in_the_file_and_runs_beside_what_is_only_there() {
    let mut scene = Scene::new();
    let add = |scene: &mut Scene, address: &str| {
        let key = service_key(address).unwrap();
        let request = Request::AddService(key, ServiceSettings::default());
        scene.change(request, Scope::Runtime).unwrap();
    };
    // One that the other node has as well, one that it has otherwise, and one that it has not.
    for address in ["192.0.2.81:80", "192.0.2.82:80", "192.0.2.83:80"] {
        add(&mut scene, address);
    }
    let text = format!(
        "{FILE}[[service]]\naddress = \"192.0.2.81:80\"\n[[service]]\naddress = \"192.0.2.82:80\"\nscheduler = \"rr\"\n"
    );
    let push = || RequestBody::Push { text: text.clone() };
    assert_eq!(scene.asked(push()), Ok(ReplyBody::Done));
    assert_eq!(
        scene.state(),
        [
            "tcp/192.0.2.80:80 10.0.0.2:80=1",
            "tcp/192.0.2.81:80",
            "tcp/192.0.2.83:80*",
            "tcp/192.0.2.82:80",
        ]
    );
    let file = scene.text();
    assert!(file.starts_with(FILE), "{file}");
    assert!(
        file.contains("192.0.2.81:80") && file.contains("\"rr\""),
        "{file}"
    );
    assert!(!file.contains("192.0.2.83"), "{file}");
    // Once more, nothing is left to do.
    assert_eq!(scene.asked(push()), Ok(ReplyBody::Done));
    assert_eq!(scene.text(), file);
    // All or nothing: the last of these names a program that is not there.
    let bad = format!(
        "{text}[[service]]\naddress = \"192.0.2.84:80\"\ncheck = {{ type = \"exec\", run = [\"/none/such\"] }}\n"
    );
    let before = scene.state();
    let refusal = scene.asked(RequestBody::Push { text: bad }).unwrap_err();
    assert!(refusal.contains("/none/such"), "{refusal}");
    assert_eq!((scene.state(), scene.text()), (before, file));
}

#[test]
fn what_the_active_node_would_overwrite_is_not_written_to_a_backup_nodes_file() {
    let text = format!("{FILE}{}[peers]\nsync = \"active-pushes\"\n", vrrp::VRRP);
    let mut scene = Scene::with_file(&text);
    key(1).write(&scene.key_file()).unwrap();
    scene.reload();
    let own = |scene: &mut Scene, state| {
        scene.vrrp.state().report = Some(vrrp::report(state, ""));
    };
    let other = |scene: &mut Scene, state, role| {
        scene.daemon.tell_peers();
        let report = scene.peers.state().published.clone().unwrap();
        scene.peers.state().peers = vec![PeerView {
            name: Some("lb2".to_owned()),
            address: "192.0.2.2:4446".parse().unwrap(),
            is_member: true,
            state,
            version: None,
            last_heard: None,
            report: Some(Arc::new(NodeReport { role, ..report })),
            trouble: None,
            counters: PeerCounters::default(),
        }];
    };
    let add = |address: &str| {
        let key = service_key(address).unwrap();
        Request::AddService(key, ServiceSettings::default())
    };
    own(&mut scene, VirtualRouterState::Backup);
    other(&mut scene, SessionState::Up, NodeRole::Active);
    let sentence = "lb2 is Active and sends its services to this node: make the change there, or with --runtime";
    assert_eq!(scene.refusal(add("192.0.2.81:80"), Scope::File), sentence);
    assert_eq!(scene.refusal(Request::Clear, Scope::File), sentence);
    assert_eq!(
        scene.change(add("192.0.2.81:80"), Scope::Runtime),
        Ok(vec![])
    );
    // A file that was changed by hand is loaded, with a warning if it brings other services than the Active node has.
    assert_eq!(scene.ask(Message::Reload), Ok(vec![]));
    fs::write(
        scene.path(),
        format!("{text}[[service]]\naddress = \"192.0.2.82:80\"\n"),
    )
    .unwrap();
    assert_eq!(
        scene.ask(Message::Reload),
        Ok(vec![
            "lb2 is Active and sends its services to this node, where they soon replace those of the file: change them there"
                .to_owned()
        ])
    );
    // Nobody sends: the other node does not answer, stands by, or this one is Active as well.
    for (index, state, session, role) in [
        (
            3,
            VirtualRouterState::Backup,
            SessionState::Lost,
            NodeRole::Active,
        ),
        (
            4,
            VirtualRouterState::Backup,
            SessionState::Up,
            NodeRole::Backup,
        ),
        (
            5,
            VirtualRouterState::Active,
            SessionState::Up,
            NodeRole::Active,
        ),
    ] {
        own(&mut scene, state);
        other(&mut scene, session, role);
        let added = scene.change(add(&format!("192.0.2.8{index}:80")), Scope::File);
        assert_eq!(added, Ok(vec![]), "{state:?} {session:?} {role:?}");
    }
    // Or that is the operator's part.
    let manual = scene.text().replace("active-pushes", "manual");
    fs::write(scene.path(), manual).unwrap();
    own(&mut scene, VirtualRouterState::Backup);
    other(&mut scene, SessionState::Up, NodeRole::Active);
    assert_eq!(scene.ask(Message::Reload), Ok(vec![]));
    assert_eq!(scene.change(add("192.0.2.86:80"), Scope::File), Ok(vec![]));
}

#[test]
fn events_of_another_node_name_it() {
    let mut scene = Scene::new();
    key(1).write(&scene.key_file()).unwrap();
    scene.reload();
    scene.events();
    let changed = |scene: &mut Scene, change| {
        scene.daemon.follow_peers(FromPeers::Changed(change));
        scene.events()
    };
    let name = || "lb2".to_owned();
    assert_eq!(
        changed(&mut scene, PeerChange::Came { name: name() }),
        ["node-up lb2"]
    );
    let went = PeerChange::Went {
        name: name(),
        reason: "it said nothing for 3 s".to_owned(),
    };
    scene.daemon.follow_peers(FromPeers::Changed(went));
    let record = scene.events.try_recv().unwrap();
    assert_eq!(
        (record.event, record.peer, record.message.as_str()),
        (
            EventKind::NodeDown,
            Some(name()),
            "lb2: it said nothing for 3 s"
        )
    );
}

#[test]
fn the_status_shows_who_was_not_let_in_and_what_each_node_tracks() {
    let router = "[[vrrp]]\nname = \"outside\"\ninterface = \"eth0\"\nrouter-id = 51\naddresses = [\"192.0.2.80/24\"]\n\
                  track-interfaces = [\"eth1\"]\ntrack-services = [\"web\"]\n";
    let mut scene = Scene::with_file(&format!("{FILE}{router}"));
    assert!(scene.ask(Message::Status).unwrap().peer_refusals.is_empty());
    key(1).write(&scene.key_file()).unwrap();
    scene.reload();
    let tracked = |name: &str, up| view::Tracked {
        name: name.to_owned(),
        up,
    };
    let own = [
        tracked("interface eth0", true),
        tracked("interface eth1", false),
        tracked("service web", true),
    ];
    scene.daemon.tell_peers();
    let report = scene.peers.state().published.clone().unwrap();
    assert_eq!(report.tracked.len(), own.len());
    {
        let mut state = scene.peers.state();
        state.refusals = RefusalCounters {
            wrong_key: 2,
            forged: 1,
            ..RefusalCounters::default()
        };
        state.peers = vec![PeerView {
            name: Some("lb2".to_owned()),
            address: "192.0.2.2:4446".parse().unwrap(),
            is_member: true,
            state: SessionState::Up,
            version: None,
            last_heard: None,
            report: Some(Arc::new(report)),
            trouble: None,
            counters: PeerCounters::default(),
        }];
    }
    let status = scene.ask(Message::Status).unwrap();
    assert_eq!(status.tracked, own);
    assert_eq!(status.peers[0].tracked, own);
    let counted = status.peer_refusals.iter().filter(|(_, count)| **count > 0);
    let counted: Vec<_> = counted
        .map(|(name, count)| (name.as_str(), *count))
        .collect();
    assert_eq!(counted, [("forged", 1), ("wrong-key", 2)]);
    assert_eq!(status.peer_refusals.len(), 8);
}
