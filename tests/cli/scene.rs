//! A daemon with a data plane in memory, on a socket of its own, and the programs under test.

use std::{
    fs, io,
    path::PathBuf,
    process::{Command, Output},
};

use balancer_ctl::{
    control::{
        daemon::{Message, Nodes, Vrrp},
        failures::Failures,
        load::load,
    },
    dataplane::fake::FakeDataplane,
    health::{AgentReply, CheckState, CheckUpdate, UNKNOWN_TIME, fake::FakeCheckers},
    host::identity::HostInterfaces,
    peer::{Peers, task::PeerInbox},
    startup::{Serving, Source},
    vrrp::{VirtualRouters, fake::FakeVirtualRouters},
};
use balancer_tests::daemon::binary;
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::mpsc};

/// The configuration file that a scene begins with.
pub const FILE: &str = "\
# ours
[node]
name = \"lb1\"

[dataplane]
interfaces = [\"eth0\", \"eth1\"]
";

/// A daemon that runs as long as this lives.
pub struct Scene {
    pub dataplane: FakeDataplane,
    checkers: FakeCheckers,
    /// The virtual routers in memory.
    pub vrrp: FakeVirtualRouters,
    serving: Option<Serving>,
    runtime: Runtime,
    folder: TempDir,
}

fn interfaces() -> io::Result<HostInterfaces> {
    Ok(HostInterfaces {
        addresses: ["192.168.1.35", "2001:db8::35"]
            .map(|address| address.parse().expect("an address"))
            .into(),
        with_link: ["eth0".to_owned()].into(),
    })
}

/// No channel to other nodes.
fn no_nodes() -> io::Result<(Box<dyn Peers>, PeerInbox)> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Scene {
    /// A daemon without services.
    pub fn new() -> Self {
        Self::with_file(FILE)
    }

    /// The tutorial's service, and one for DNS over IPv6.
    pub fn tutorial() -> Self {
        let scene = Self::new();
        for arguments in [
            "add-service 192.168.1.35:80 -s rr --name web",
            "add-real 192.168.0.2:80",
            "add-real 192.168.0.3:80 -w 3",
            "add-service udp/[2001:db8::35]:53 --no-real drop",
            "add-real 2001:db8:1::2 --service udp/[2001:db8::35]:53",
        ] {
            scene.done(arguments);
        }
        scene
    }

    pub fn with_file(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("balancer.toml");
        fs::write(&path, text).expect("write the file");
        let file = load(&path, "host").expect("a good file");
        let dataplane = FakeDataplane::default();
        let checkers = FakeCheckers::default();
        let vrrp = FakeVirtualRouters::default();
        let (opened, watching) = (dataplane.clone(), checkers.clone());
        let starting = vrrp.clone();
        let start = move || -> io::Result<(Box<dyn VirtualRouters>, _)> {
            Ok((Box::new(starting.clone()), mpsc::channel(1).1))
        };
        let runtime = Runtime::new().expect("a runtime");
        let serving = runtime.block_on(async {
            let socket = folder.path().join("control.sock");
            Serving::start(
                |_, _| Ok(Box::new(opened)),
                Box::new(watching),
                None,
                Source::File(file),
                &socket,
                interfaces,
                (
                    Vrrp::new(
                        Box::new(start),
                        |_, _| Vec::new(),
                        None,
                        Failures::default(),
                    ),
                    Nodes::new(Box::new(no_nodes), folder.path().join("cluster.key")),
                ),
            )
        });
        Self {
            dataplane,
            checkers,
            vrrp,
            serving: Some(serving.expect("it starts")),
            runtime,
            folder,
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("balancer.toml")
    }

    pub fn text(&self) -> String {
        fs::read_to_string(self.file()).expect("read the file")
    }

    /// A command line of `balancer-ctl`, as a command.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = program("balancer-ctl");
        command
            .arg("--socket")
            .arg(self.socket())
            .args(arguments.split_whitespace());
        command
    }

    /// Runs a command line.
    pub fn run(&self, arguments: &str) -> Ran {
        ran(&mut self.command(arguments))
    }

    /// Runs a command line that must succeed and say nothing on standard error; returns what it prints.
    #[track_caller]
    pub fn done(&self, arguments: &str) -> String {
        let Ran {
            status,
            stdout,
            stderr,
        } = self.run(arguments);
        assert_eq!(
            (status, stderr.as_str()),
            (0, ""),
            "balancer-ctl {arguments}"
        );
        stdout
    }

    /// Runs a command line that must be refused with exactly these words and change nothing.
    #[track_caller]
    pub fn refused(&self, arguments: &str, status: i32, stderr: &str) {
        let before = (self.text(), self.dataplane.state().services.clone());
        let expected = Ran {
            status,
            stdout: String::new(),
            stderr: stderr.to_owned(),
        };
        assert_eq!(self.run(arguments), expected, "balancer-ctl {arguments}");
        assert_eq!(
            (self.text(), self.dataplane.state().services.clone()),
            before,
            "nothing may change"
        );
    }

    /// Has all checkers find this.
    pub fn find(&self, up: bool, reason: &str) {
        let wanted = self.checkers.state().wanted.clone();
        let updates = wanted.into_iter().map(|begin| CheckUpdate {
            target: begin.target.as_ref().clone(),
            check_state: CheckState {
                up,
                decided: true,
                reason: reason.to_owned(),
                agent_reply: AgentReply::default(),
                since: UNKNOWN_TIME,
            },
        });
        let serving = self.serving.as_ref().expect("it runs");
        let found = Message::Found(updates.collect());
        serving
            .messages()
            .blocking_send(found)
            .expect("it is taken");
    }

    /// Stops the daemon as SIGTERM does.
    pub fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            let _ = serving.messages().blocking_send(Message::Stop);
            self.runtime.block_on(serving.finished()).expect("it stops");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How a program ended and what it printed.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end.
pub fn ran(command: &mut Command) -> Ran {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran {
        status: status.code().expect("it exits"),
        stdout: text(stdout),
        stderr: text(stderr),
    }
}

/// One of the product's programs, built as it is now, in an empty environment but for the path.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(binary(name));
    command.env_clear();
    command
}
