//! The thread of the channel, and the daemon's handle of it. Dropping the handle ends all connections.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    Answer, ClusterKey, NodeRecord, NodeReport, PeerChange, PeerRequest, PeerSettings, PeerView,
    Peers, RefusalCounters, Removal, RequestBody,
    hub::{Command, Hub, Shared},
};
use crate::os::state_file::StateFile;

/// Requests of other nodes that wait for the daemon.
const MAX_QUEUED_REQUESTS: usize = 16;
/// Changes that wait for the daemon; those beyond are dropped.
const MAX_QUEUED_CHANGES: usize = 256;
/// How long the end waits for the thread.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Name of the file in the state directory that lists the nodes.
pub const NODES_FILE: &str = "nodes.json";

/// What other nodes ask, and what changed.
#[derive(Debug)]
pub struct PeerInbox {
    /// What other nodes ask of this one.
    pub requests: mpsc::Receiver<PeerRequest>,
    /// What changed.
    pub changes: mpsc::Receiver<PeerChange>,
}

/// Handle of the thread.
#[derive(Debug)]
pub struct PeerTask {
    /// Unbounded: only the daemon sends, a few times a second at most, and it must not wait. `None` = stopping.
    commands: Option<mpsc::UnboundedSender<Command>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Closed when the thread ends.
    thread_ended: Receiver<()>,
}

impl PeerTask {
    /// Starts the thread, which does nothing until it is configured. The list of nodes lies in the directory `state`.
    ///
    /// # Errors
    /// The thread or its runtime cannot be started.
    pub fn start(state: &Path) -> io::Result<(Self, PeerInbox)> {
        let file = StateFile::at(&state.join(NODES_FILE));
        let (commands, inbox) = mpsc::unbounded_channel();
        let (requests, request_inbox) = mpsc::channel(MAX_QUEUED_REQUESTS);
        let (changes, change_inbox) = mpsc::channel(MAX_QUEUED_CHANGES);
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let hub = Hub::new(file, shared.clone(), requests, changes);
        let (ends, thread_ended) = channel();
        let thread = thread::Builder::new()
            .name("peers".to_owned())
            .spawn(move || {
                let _ends: Sender<()> = ends;
                runtime.block_on(hub.run(inbox));
            })?;
        let task = Self {
            commands: Some(commands),
            shared,
            thread: Some(thread),
            thread_ended,
        };
        let inbox = PeerInbox {
            requests: request_inbox,
            changes: change_inbox,
        };
        Ok((task, inbox))
    }

    /// The address on which the node listens at present; `None` = it does not.
    #[must_use]
    pub fn listening(&self) -> Option<SocketAddr> {
        self.shared.lock().listening
    }

    fn command(&self, command: Command) {
        // If the thread has panicked, the panic was logged; replies are dropped with the command.
        let _ = self
            .commands
            .as_ref()
            .map(|commands| commands.send(command));
    }
}

impl Peers for PeerTask {
    fn configure(&mut self, settings: PeerSettings) {
        self.command(Command::Configure(Box::new(settings)));
    }

    fn publish(&mut self, report: NodeReport) {
        self.command(Command::Publish(Box::new(report)));
    }

    fn peers(&self) -> Vec<PeerView> {
        self.shared.lock().peers.clone()
    }

    fn refusals(&self) -> RefusalCounters {
        self.shared.lock().refusals
    }

    fn obstacles(&self) -> Vec<String> {
        self.shared.lock().obstacles.clone()
    }

    fn request(&mut self, name: &str, body: RequestBody, reply: oneshot::Sender<Answer>) {
        self.command(Command::Request {
            name: name.to_owned(),
            body,
            reply,
        });
    }

    fn join(
        &mut self,
        key: ClusterKey,
        key_file: PathBuf,
        address: SocketAddr,
        reply: oneshot::Sender<Result<Vec<NodeRecord>, String>>,
    ) {
        self.command(Command::Join {
            key,
            key_file,
            address,
            reply,
        });
    }

    fn remove(&mut self, name: &str, reply: oneshot::Sender<Result<Removal, String>>) {
        self.command(Command::Remove {
            name: name.to_owned(),
            reply,
        });
    }
}

impl Drop for PeerTask {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            if self.thread_ended.recv_timeout(STOP_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("the channel to other nodes does not stop and is not waited for");
                return;
            }
            // A panic has been logged already.
            let _ = thread.join();
        }
    }
}
