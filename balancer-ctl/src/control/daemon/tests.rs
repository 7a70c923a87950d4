//! The daemon on a data plane in memory and a file on disk.

mod batch;
mod connections;
mod distrust;
mod file_watch;
mod health;
mod host;
mod peers;
mod persistence;
mod refusals;
mod reload;
mod replace;
mod scale;
mod vrrp;

use std::{collections::HashSet, fs, path::Path};

use tempfile::TempDir;
use tokio::sync::{broadcast, oneshot};

use super::*;
use crate::{
    control::{failures::Failures, load::load},
    dataplane::{Connection, ConnectionFilter, fake::FakeDataplane},
    health::fake::FakeCheckers,
    model::{
        Check, NoReal, Scheduler, ServiceKey,
        address::{RealRef, service_key},
        real::RealSettings,
        service::ServiceSettings,
    },
    peer::fake::FakePeers,
    vrrp::{fake::FakeVirtualRouters, report::Update},
};

const FILE: &str = r#"# ours
[dataplane]
interfaces = ["eth0"]

[[service]]
name = "web"
address = "192.0.2.80:80"

[[service.real]]
address = "10.0.0.2:80"   # old
"#;

struct Scene {
    daemon: Daemon,
    dataplane: FakeDataplane,
    checkers: FakeCheckers,
    vrrp: FakeVirtualRouters,
    peers: FakePeers,
    events: broadcast::Receiver<view::EventRecord>,
    folder: TempDir,
}

/// No channel to other nodes.
fn no_nodes(folder: &Path) -> Nodes {
    let start = || Err(io::ErrorKind::Unsupported.into());
    Nodes::new(Box::new(start), folder.join("cluster.key"))
}

/// No virtual routers.
fn no_vrrp() -> Vrrp {
    Vrrp::new(
        Box::new(|| Err(io::ErrorKind::Unsupported.into())),
        |_, _| Vec::new(),
        None,
        Failures::default(),
    )
}

/// A receiver of changes that never come.
fn changed() -> mpsc::Receiver<Update> {
    mpsc::channel(1).1
}

fn interfaces() -> io::Result<HostInterfaces> {
    Ok(HostInterfaces {
        addresses: HashSet::from(["192.0.2.80".parse().unwrap()]),
        with_link: HashSet::from(["eth0".to_owned()]),
    })
}

impl Scene {
    fn new() -> Self {
        Self::with_file(FILE)
    }

    fn with_file(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("balancer.toml");
        fs::write(&path, text).unwrap();
        let file = load(&path, "lb1").unwrap();
        let model = file.model().clone();
        Self::start(folder, Some(file), model)
    }

    /// With a check of the service, whose files `read_files` reads; and the file's text.
    fn with_check(read_files: fn(&Check) -> Option<(&'static str, String)>) -> (Self, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("balancer.toml");
        let check = "check = { type = \"ping\" }\n";
        let text = FILE.replace("[[service.real]]", &format!("{check}[[service.real]]"));
        fs::write(&path, &text).unwrap();
        let file = ConfigFile::load(&path, "lb1", read_files).unwrap();
        let model = file.model().clone();
        (Self::start(folder, Some(file), model), text)
    }

    fn without_file() -> Self {
        let model = crate::model::change::tests::model("");
        Self::start(tempfile::tempdir().unwrap(), None, model)
    }

    fn start(folder: TempDir, file: Option<ConfigFile>, model: Model) -> Self {
        let dataplane = FakeDataplane::default();
        let sender = EventLog::default();
        let events = sender.follow();
        let checkers = FakeCheckers::default();
        let vrrp = FakeVirtualRouters::default();
        let starting = vrrp.clone();
        let peers = FakePeers::default();
        let channel = peers.clone();
        let daemon = Daemon::start(DaemonConfig {
            dataplane: Box::new(dataplane.clone()),
            checkers: Box::new(checkers.clone()),
            notifier: None,
            file,
            availability: at_start(&model, &checkers),
            model,
            events: sender,
            interfaces,
            vrrp: Vrrp::new(
                Box::new(move || Ok((Box::new(starting.clone()), changed()))),
                |_, _| Vec::new(),
                None,
                Failures::default(),
            ),
            nodes: Nodes::new(
                Box::new(move || Ok((Box::new(channel.clone()), FakePeers::inbox()))),
                folder.path().join("cluster.key"),
            ),
        })
        .unwrap();
        Self {
            daemon,
            dataplane,
            checkers,
            vrrp,
            peers,
            events,
            folder,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("balancer.toml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    fn ask<T>(&mut self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, ApiError> {
        let (reply, mut answer) = oneshot::channel();
        let mut reloads = Reloads::default();
        reloads.take(&mut self.daemon, message(reply));
        if reloads.is_running() {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let loaded = runtime.unwrap().block_on(reloads.next());
            reloads.finish(&mut self.daemon, loaded);
        }
        answer.try_recv().unwrap()
    }

    fn change(&mut self, request: Request, scope: Scope) -> Result<Vec<String>, ApiError> {
        self.change_all(vec![request], scope)
    }

    fn change_all(
        &mut self,
        requests: Vec<Request>,
        scope: Scope,
    ) -> Result<Vec<String>, ApiError> {
        self.ask(|reply| Message::Change(requests, scope, reply))
            .map(|result| result.notes)
    }

    fn refusal(&mut self, request: Request, scope: Scope) -> String {
        let before = (self.state(), self.text());
        let refusal = self.change(request, scope).unwrap_err();
        assert_eq!(
            (self.state(), self.text()),
            before,
            "a refused change changes nothing"
        );
        refusal.sentence
    }

    /// What the data plane runs and what is listed, which must be the same.
    fn state(&mut self) -> Vec<String> {
        let services = self.ask(|reply| Message::Services(None, reply)).unwrap();
        let listed: Vec<_> = services
            .services
            .iter()
            .map(|service| {
                let mark = |runtime: bool| if runtime { "*" } else { "" };
                let reals: Vec<_> = service
                    .reals
                    .iter()
                    .map(|real| format!("{}={}{}", real.address, real.weight, mark(real.runtime)))
                    .collect();
                let key = ServiceKey {
                    protocol: service.protocol,
                    address: service.address,
                };
                format!("{key}{} {}", mark(service.runtime), reals.join(" "))
                    .trim_end()
                    .to_owned()
            })
            .collect();
        let applied: Vec<_> = self
            .dataplane
            .state()
            .services
            .iter()
            .map(|service| {
                let reals: Vec<_> = service
                    .reals
                    .iter()
                    .map(|real| format!("{}={}", real.address, real.weight))
                    .collect();
                format!("{} {}", service.key, reals.join(" "))
                    .trim_end()
                    .to_owned()
            })
            .collect();
        assert_eq!(
            listed
                .iter()
                .map(|line| line.replace('*', ""))
                .collect::<Vec<_>>(),
            applied
        );
        listed
    }

    fn events(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.events.try_recv().ok())
            .map(|event| {
                let real = event
                    .real
                    .map(|real| format!(" {real}"))
                    .unwrap_or_default();
                format!("{}{real} {}", event.event.name(), event.message)
                    .trim_end()
                    .to_owned()
            })
            .collect()
    }
}

/// What health allows of the model before anything was probed.
fn at_start(model: &Model, checkers: &FakeCheckers) -> Availability {
    let now = clock::now();
    Availability::at_start(model, checkers, now)
}

fn named(text: &str) -> ServiceRef {
    text.parse().unwrap()
}

fn real(text: &str) -> RealRef {
    text.parse().unwrap()
}

fn weight(weight: u32) -> RealSettings {
    RealSettings {
        weight: Some(weight),
        ..Default::default()
    }
}

fn add_real(address: &str) -> Request {
    Request::AddReal(ServiceRef::Only, real(address), RealSettings::default())
}

fn dns() -> ServiceKey {
    service_key("udp/192.0.2.80:53").unwrap()
}

#[test]
fn it_starts_with_what_the_file_says() {
    let mut scene = Scene::new();
    assert_eq!(scene.state(), ["tcp/192.0.2.80:80 10.0.0.2:80=1"]);
    assert_eq!(
        scene.dataplane.state().settings.as_ref(),
        Some(&scene.daemon.model.dataplane)
    );
    assert_eq!(scene.events(), [] as [&str; 0]);
}

#[test]
fn a_change_runs_and_stands_in_the_file_when_the_answer_comes() {
    let mut scene = Scene::new();
    assert_eq!(scene.change(add_real("10.0.0.3"), Scope::File), Ok(vec![]));
    assert_eq!(
        scene.state(),
        ["tcp/192.0.2.80:80 10.0.0.2:80=1 10.0.0.3:80=1"]
    );
    assert_eq!(
        scene.text(),
        format!("{FILE}\n[[service.real]]\naddress = \"10.0.0.3:80\"\n")
    );
    assert_eq!(scene.events(), ["real-added 10.0.0.3:80 weight 1, nat"]);
    // The next change builds on the file as it is now.
    assert_eq!(
        scene.change(
            Request::EditReal(named("web"), real("10.0.0.3"), weight(0)),
            Scope::File
        ),
        Ok(vec![])
    );
    assert_eq!(
        scene.text(),
        format!("{FILE}\n[[service.real]]\naddress = \"10.0.0.3:80\"\nweight = 0\n")
    );
    assert_eq!(scene.events(), ["real-changed 10.0.0.3:80 weight 1 -> 0"]);
}

#[test]
fn a_runtime_change_is_marked_and_forgotten_at_the_next_load() {
    let mut scene = Scene::new();
    let settings = ServiceSettings {
        scheduler: Some(Scheduler::Rr),
        no_real: Some(NoReal::Drop),
        ..Default::default()
    };
    scene
        .change(Request::AddService(dns(), settings), Scope::Runtime)
        .unwrap();
    scene
        .change(
            Request::EditReal(named("web"), real("10.0.0.2"), weight(7)),
            Scope::Runtime,
        )
        .unwrap();
    assert_eq!(
        scene.state(),
        ["tcp/192.0.2.80:80 10.0.0.2:80=7*", "udp/192.0.2.80:53*"]
    );
    assert_eq!(scene.text(), FILE);
    assert!(scene.ask(Message::Status).unwrap().runtime_changes);
    scene.events();

    scene.ask(Message::Reload).unwrap();
    assert_eq!(scene.state(), ["tcp/192.0.2.80:80 10.0.0.2:80=1"]);
    assert!(!scene.ask(Message::Status).unwrap().runtime_changes);
    assert_eq!(
        scene.events(),
        [
            "service-removed",
            "real-changed 10.0.0.2:80 weight 7 -> 1",
            "reloaded changes made with --runtime were undone"
        ]
    );
    scene.ask(Message::Reload).unwrap();
    assert_eq!(scene.events(), ["reloaded"]);
    // What the file says meanwhile is not undone.
    scene
        .change(
            Request::EditReal(named("web"), real("10.0.0.2"), weight(7)),
            Scope::Runtime,
        )
        .unwrap();
    let text = FILE.replace("\"10.0.0.2:80\"", "\"10.0.0.2:80\"\nweight = 7");
    assert_ne!(text, FILE);
    fs::write(scene.path(), text).unwrap();
    scene.events();
    scene.ask(Message::Reload).unwrap();
    assert_eq!(scene.events(), ["reloaded"]);
}

#[test]
fn a_change_to_the_file_does_not_write_runtime_changes_into_it() {
    let mut scene = Scene::new();
    scene
        .change(
            Request::EditReal(named("web"), real("10.0.0.2"), weight(7)),
            Scope::Runtime,
        )
        .unwrap();
    scene
        .change(
            Request::AddReal(named("web"), real("10.0.0.3"), weight(2)),
            Scope::File,
        )
        .unwrap();
    assert_eq!(
        scene.state(),
        ["tcp/192.0.2.80:80 10.0.0.2:80=7* 10.0.0.3:80=2"]
    );
    assert_eq!(
        scene.text(),
        format!("{FILE}\n[[service.real]]\naddress = \"10.0.0.3:80\"\nweight = 2\n")
    );
}

#[test]
fn what_is_not_in_the_file_cannot_be_changed_there() {
    let mut scene = Scene::new();
    let path = scene.path().display().to_string();
    scene
        .change(
            Request::AddService(dns(), ServiceSettings::default()),
            Scope::Runtime,
        )
        .unwrap();
    assert_eq!(
        scene.refusal(Request::DelService(ServiceRef::Key(dns())), Scope::File),
        format!(
            "what runs differs from {path} (changes made with --runtime), where there is no service \
             udp/192.0.2.80:53: use --runtime, or `balancer-ctl reload` to go back to the file"
        )
    );
}

#[test]
fn a_runtime_change_is_made_to_last_by_saying_it_again() {
    let mut scene = Scene::new();
    let settings = ServiceSettings {
        scheduler: Some(Scheduler::Rr),
        ..Default::default()
    };
    let add_real = |real_weight| {
        let settings = RealSettings {
            weight: real_weight,
            ..Default::default()
        };
        Request::AddReal(named("web"), real("10.0.0.3"), settings)
    };
    let del_real = Request::DelReal(named("web"), real("10.0.0.2"), ConnectionPolicy::Keep);
    for request in [
        Request::AddService(dns(), settings),
        add_real(Some(7)),
        del_real.clone(),
    ] {
        scene.change(request, Scope::Runtime).unwrap();
    }
    scene.events();
    for request in [
        Request::AddService(dns(), ServiceSettings::default()),
        add_real(None),
        del_real,
    ] {
        scene.change(request.clone(), Scope::File).unwrap();
        // Once more, it is refused.
        let sentence = scene.refusal(request, Scope::File);
        assert!(
            sentence.contains("exists already") || sentence.contains("has no real"),
            "{sentence}"
        );
    }
    let expected = ["tcp/192.0.2.80:80 10.0.0.3:80=7", "udp/192.0.2.80:53"];
    assert_eq!(scene.state(), expected, "nothing is marked any more");
    assert_eq!(scene.events(), [] as [&str; 0], "what runs has not changed");
    scene.ask(Message::Reload).unwrap();
    assert_eq!(scene.state(), expected);
    assert_eq!(
        scene.daemon.model.services[1].scheduler,
        Scheduler::Rr,
        "as it ran"
    );
}

#[test]
fn without_a_file_every_change_is_a_runtime_change() {
    let mut scene = Scene::without_file();
    scene
        .change(
            Request::AddService(dns(), ServiceSettings::default()),
            Scope::File,
        )
        .unwrap();
    assert_eq!(scene.state(), ["udp/192.0.2.80:53*"]);
    assert_eq!(
        scene.ask(Message::Reload).unwrap_err().sentence,
        "there is no configuration file to load: start balancerd with --config FILE"
    );
}

#[test]
fn counters_of_one_or_all_are_set_to_zero() {
    let mut scene = Scene::new();
    scene
        .ask(|reply| Message::Zero(Some(named("web")), reply))
        .unwrap();
    scene.ask(|reply| Message::Zero(None, reply)).unwrap();
    let web = service_key("192.0.2.80:80").unwrap();
    assert_eq!(scene.dataplane.state().zeroed, [Some(web), None]);
    let refusal = scene
        .ask(|reply| Message::Zero(Some(named("mail")), reply))
        .unwrap_err();
    assert_eq!(
        refusal.sentence,
        "there is no service `mail`: `list` shows all"
    );
}

#[test]
fn a_vip_without_an_interface_limits() {
    let mut scene = Scene::new();
    assert_eq!(
        scene.ask(Message::Status).unwrap().overall,
        view::Overall::Running
    );
    let settings = ServiceSettings::default();
    let key = service_key("192.0.2.81:80").unwrap();
    scene
        .change(Request::AddService(key, settings), Scope::File)
        .unwrap();
    let address = RealRef {
        address: "10.0.0.2".parse().unwrap(),
        port: None,
    };
    scene
        .change(
            Request::AddReal(ServiceRef::Key(key), address, weight(1)),
            Scope::File,
        )
        .unwrap();
    let status = scene.ask(Message::Status).unwrap();
    assert_eq!(status.overall, view::Overall::Limited);
    assert_eq!(
        status.reasons,
        [
            "no interface carries VIP 192.0.2.81, so nobody answers for it: `ip address add 192.0.2.81/32 dev eth0`"
        ]
    );
}
