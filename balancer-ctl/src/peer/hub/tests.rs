//! Nodes on loopback addresses, each with a thread of its own, and strangers who speak to them.

mod attack;
mod join;
mod speak;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::oneshot,
};

use crate::peer::{
    Answer, ClusterKey, NodeReport, PeerChange, PeerSettings, PeerTask, PeerView, Peers,
    RefusalCounters, RequestBody, SessionState,
    message::{Hello, Message, NodeRole, PROTOCOL, Received},
    task::PeerInbox,
    wire::{self, MessageReader, MessageWriter},
};

/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

fn key(byte: u8) -> ClusterKey {
    ClusterKey::from([byte; 32])
}

/// A free port of this loopback address.
fn free(host: u8) -> SocketAddr {
    let listener = std::net::TcpListener::bind((format!("127.0.0.{host}"), 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Waits until something holds.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn report(version: &str, ready: bool) -> NodeReport {
    NodeReport {
        version: version.to_owned(),
        role: NodeRole::Backup,
        ready,
        ..NodeReport::default()
    }
}

/// A node of a test.
struct TestNode {
    task: PeerTask,
    inbox: PeerInbox,
    settings: PeerSettings,
    address: SocketAddr,
    folder: PathBuf,
}

impl TestNode {
    fn start(folder: &Path, settings: PeerSettings) -> Self {
        let (mut task, inbox) = PeerTask::start(folder).unwrap();
        task.configure(settings.clone());
        task.publish(report("0.1.0", true));
        let address = settings.listen.unwrap();
        if settings.key.is_some() {
            wait_for("listening", || task.listening() == Some(address));
        }
        Self {
            task,
            inbox,
            settings,
            address,
            folder: folder.to_owned(),
        }
    }

    fn peer(&self, name: &str) -> Option<PeerView> {
        let mut peers = self.task.peers().into_iter();
        peers.find(|peer| peer.name.as_deref() == Some(name))
    }

    fn hears(&self, name: &str) -> bool {
        self.peer(name)
            .is_some_and(|peer| peer.state == SessionState::Up && peer.report.is_some())
    }

    fn names(&self) -> Vec<String> {
        let peers = self.task.peers().into_iter();
        peers.filter_map(|peer| peer.name).collect()
    }

    fn changes(&mut self) -> Vec<PeerChange> {
        std::iter::from_fn(|| self.inbox.changes.try_recv().ok()).collect()
    }

    fn ask(&mut self, name: &str, body: RequestBody) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.task.request(name, body, reply);
        answer.blocking_recv().unwrap()
    }
}

fn settings(name: &str, listen: SocketAddr, peers: &[SocketAddr]) -> PeerSettings {
    PeerSettings {
        name: name.to_owned(),
        listen: Some(listen),
        interface: None,
        key: Some(key(1)),
        peers: peers.to_vec(),
        can_be_joined: true,
    }
}

/// Nodes `lb1` to `lbN`, each with the addresses of all others, which hear each other.
fn cluster(folder: &TempDir, first_host: u8, count: u8) -> Vec<TestNode> {
    let addresses: Vec<_> = (0..count).map(|n| free(first_host + n)).collect();
    let nodes: Vec<_> = (1..)
        .zip(&addresses)
        .map(|(number, address)| {
            // The node's own address is among them, as where all nodes have the same configuration.
            let name = format!("lb{number}");
            TestNode::start(
                &folder.path().join(&name),
                settings(&name, *address, &addresses),
            )
        })
        .collect();
    for node in &nodes {
        for other in &nodes {
            let name = &other.settings.name;
            if *name != node.settings.name {
                wait_for("hearing each other", || node.hears(name));
            }
        }
    }
    nodes
}

/// A node that is only its end of a connection.
struct RawNode {
    runtime: tokio::runtime::Runtime,
    reader: MessageReader<OwnedReadHalf>,
    writer: MessageWriter<OwnedWriteHalf>,
}

impl RawNode {
    /// Dials a node from a loopback address, and says hello.
    fn dial(from: &str, target: SocketAddr, hello: &Hello) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (reader, writer) = runtime.block_on(async {
            let mut stream = dial(from, target).await;
            let keys = wire::initiate(&mut stream, &key(1)).await.unwrap();
            let (reader, writer) = stream.into_split();
            let (mut reader, mut writer) = keys.attach(reader, writer);
            reader.allow_long_messages();
            let hello = Message::Hello(hello.clone()).encode();
            writer.write(&hello).await.unwrap();
            (reader, writer)
        });
        Self {
            runtime,
            reader,
            writer,
        }
    }

    fn say(&mut self, text: &str) {
        self.runtime
            .block_on(self.writer.write(text.as_bytes()))
            .unwrap();
    }

    /// The next message; `None` = the connection ended.
    fn next(&mut self) -> Option<Message> {
        let read = self.runtime.block_on(self.reader.read(|| ()));
        match Message::decode(&read.ok()?).unwrap() {
            Received::Known(message) => Some(*message),
            other => panic!("{other:?}"),
        }
    }

    /// The next message that is neither a report nor a list of nodes.
    fn next_answer(&mut self) -> Option<Message> {
        loop {
            match self.next()? {
                Message::Report(_) | Message::Nodes { .. } => {}
                other => return Some(other),
            }
        }
    }
}

async fn dial(from: &str, target: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(target).await.unwrap()
}

fn hello(name: &str, instance: u64) -> Hello {
    Hello {
        name: name.to_owned(),
        version: "9.9.9".to_owned(),
        protocol: PROTOCOL + 1,
        instance,
        address: None,
        joining: false,
    }
}
