//! The daemon and its control socket together: what `balancerd` runs once the data plane is open.

use std::{convert::Infallible, io, path::Path, time::Duration};

use anyhow::{Context as _, anyhow};
use tokio::{
    net::UnixListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    api::{accept, daemon_handle::DaemonHandle, listen::ControlSocket, server},
    config::file::ConfigFile,
    control::{
        availability::Availability,
        daemon::{self, Daemon, DaemonConfig, MAX_QUEUED_MESSAGES, Message, with_location},
        event_log::EventLog,
        failures::Failures,
        load::unusable,
    },
    dataplane::{self, Dataplane},
    health::{Checkers, Health},
    host::identity::HostInterfaces,
    model::Model,
    notify::Notifier,
    os::{clock, state_file::StateFile, systemd},
    peer::{
        Peers,
        task::{PeerInbox, PeerTask},
    },
    vrrp::{VirtualRouters, report::Update, task::Vrrp},
};

/// How long clients that follow events have to read the last one.
const EVENT_DRAIN_TIMEOUT: Duration = Duration::from_millis(100);
/// How long the daemon waits at its end for threads that look at files.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// Where the configuration comes from.
#[derive(Debug)]
pub enum Source {
    /// A configuration file; changes are written to it.
    File(ConfigFile),
    /// No file: changes are lost when the daemon stops.
    Runtime(Box<Model>),
}

impl Source {
    /// The model to begin with.
    #[must_use]
    pub fn model(&self) -> &Model {
        match self {
            Self::File(file) => file.model(),
            Self::Runtime(model) => model,
        }
    }
}

/// A daemon that answers on its socket.
#[derive(Debug)]
pub struct Serving {
    messages: mpsc::Sender<Message>,
    daemon: JoinHandle<()>,
    api: JoinHandle<Infallible>,
    /// Removes the socket's file when it is dropped.
    _control: ControlSocket,
}

impl Serving {
    /// Binds the socket, opens the data plane, configures it and starts to answer.
    ///
    /// # Errors
    /// The socket cannot be bound (the data plane was not touched then), or the data plane cannot be opened or configured.
    pub fn start(
        open: impl FnOnce(&Model, Vec<dataplane::Service>) -> anyhow::Result<Box<dyn Dataplane>>,
        checkers: Box<dyn Checkers>,
        notifier: Option<Notifier>,
        source: Source,
        socket: &Path,
        interfaces: fn() -> io::Result<HostInterfaces>,
        (vrrp, nodes): (daemon::Vrrp, daemon::Nodes),
    ) -> anyhow::Result<Self> {
        let (listener, control) = ControlSocket::bind(socket)?;
        let listener = UnixListener::from_std(listener).context("cannot listen")?;
        let model = source.model();
        // The packet program begins with what health allows, so that a restart neither brings a dead real server back
        // nor takes a living one away.
        let now = clock::now();
        let availability = Availability::at_start(model, checkers.as_ref(), now);
        let dataplane = open(model, availability.desired().to_vec()).map_err(|error| {
            let file = match &source {
                Source::File(file) => Some(file),
                Source::Runtime(_) => None,
            };
            anyhow!(with_location(file, &error))
        })?;
        let events = EventLog::default();
        let (messages, inbox) = mpsc::channel(MAX_QUEUED_MESSAGES);
        let model = source.model().clone();
        let file = match source {
            Source::File(file) => Some(file),
            Source::Runtime(_) => None,
        };
        let daemon = Daemon::start(DaemonConfig {
            dataplane,
            checkers,
            notifier,
            file,
            model,
            availability,
            events: events.clone(),
            interfaces,
            vrrp,
            nodes,
        })?;
        let router = server::router(DaemonHandle {
            messages: messages.clone(),
            events,
        });
        let api = tokio::spawn(accept::serve(listener, router));
        let daemon = tokio::spawn(daemon.run(inbox));
        Ok(Self {
            messages,
            daemon,
            api,
            _control: control,
        })
    }

    /// Sends messages to the daemon.
    #[must_use]
    pub fn messages(&self) -> mpsc::Sender<Message> {
        self.messages.clone()
    }

    /// Waits until the daemon has stopped.
    ///
    /// # Errors
    /// It panicked.
    pub async fn finished(self) -> anyhow::Result<()> {
        self.daemon.await.context("the daemon failed")?;
        tokio::time::sleep(EVENT_DRAIN_TIMEOUT).await;
        self.api.abort();
        Ok(())
    }
}

/// Opens the data plane and runs until SIGTERM or SIGINT; SIGHUP loads the file again.
///
/// # Errors
/// As [`Serving::start`].
pub fn serve(
    open: impl FnOnce(&Model, Vec<dataplane::Service>) -> anyhow::Result<Box<dyn Dataplane>>,
    state: &Path,
    source: Source,
    socket: &Path,
    interfaces: fn() -> io::Result<HostInterfaces>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the daemon's threads")?;
    let result = runtime.block_on(async {
        // Signals first: a reload asked for while the daemon starts is not its end.
        let signals = Signals::catch().context("cannot catch signals")?;
        let (health, mut updates) =
            Health::start(Some(state.join("health.json"))).context("cannot start the checkers")?;
        let notifier = Notifier::start(state).context("cannot start the notifier")?;
        let checkers = Box::new(health);
        let kept = StateFile::at(&state.join("node"));
        let folder = state.to_owned();
        let start_peers = move || -> io::Result<(Box<dyn Peers>, PeerInbox)> {
            let (peers, inbox) = PeerTask::start(&folder)?;
            Ok((Box::new(peers), inbox))
        };
        let nodes = daemon::Nodes::new(Box::new(start_peers), state.join("cluster.key"));
        let failures = Failures::read(Some(StateFile::at(&state.join("vrrp.json"))));
        let vrrp = daemon::Vrrp::new(Box::new(start_vrrp), unusable, Some(kept), failures);
        let serving = Serving::start(
            open,
            checkers,
            Some(notifier),
            source,
            socket,
            interfaces,
            (vrrp, nodes),
        )?;
        let messages = serving.messages();
        tokio::spawn(async move {
            // What is found while the daemon is busy waits with the checkers, the latest of each.
            while messages
                .send(Message::Found(updates.next().await))
                .await
                .is_ok()
            {}
        });
        tokio::spawn(signals.pass_on(serving.messages()));
        tracing::info!(socket = %socket.display(), "ready");
        systemd::ready();
        serving.finished().await
    });
    // What looks at files that do not answer is not waited for.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    result
}

/// Starts the thread of the virtual routers.
fn start_vrrp() -> io::Result<(Box<dyn VirtualRouters>, mpsc::Receiver<Update>)> {
    let (vrrp, changes) = Vrrp::start()?;
    Ok((Box::new(vrrp), changes))
}

struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Turns signals into messages until the daemon has stopped.
    async fn pass_on(mut self, messages: mpsc::Sender<Message>) {
        loop {
            let message = tokio::select! {
                // The result goes to the log and to the event stream; nothing waits for the reply.
                _ = self.reload.recv() => Message::Reload(oneshot::channel().0),
                _ = self.terminate.recv() => Message::Stop,
                _ = self.interrupt.recv() => Message::Stop,
            };
            if messages.send(message).await.is_err() {
                return;
            }
        }
    }
}
