//! The daemon and its control socket together: what `balancerd` runs once the data plane is open.

use std::{collections::HashSet, io, net::IpAddr, path::Path, time::Duration};

use anyhow::Context as _;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::{broadcast, mpsc},
};

use crate::{
    api::{
        listen::ControlSocket,
        server::{self, Api},
    },
    config::file::ConfigFile,
    daemon::{Daemon, EVENTS, MESSAGES},
    dataplane::Dataplane,
    model::Model,
    systemd,
};

/// How long followers of the events have to read the last one.
const FAREWELL: Duration = Duration::from_millis(100);

/// What the daemon is to run: the file's model, or one without a file.
#[derive(Debug)]
pub enum Source {
    /// A configuration file; changes are written to it.
    File(ConfigFile),
    /// No file; every change is forgotten when the daemon stops.
    Runtime(Model),
}

impl Source {
    /// The model to begin with.
    #[must_use]
    pub const fn model(&self) -> &Model {
        match self {
            Self::File(file) => file.model(),
            Self::Runtime(model) => model,
        }
    }
}

/// Runs until SIGTERM or SIGINT; SIGHUP loads the file again.
///
/// # Errors
/// The data plane refused what it should begin with, or the socket cannot be bound.
pub fn serve(
    dataplane: Box<dyn Dataplane>,
    source: Source,
    socket: &Path,
    addresses: fn() -> io::Result<HashSet<IpAddr>>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the daemon's threads")?;
    runtime.block_on(async {
        // Signals first: a reload asked for while the daemon starts is not its end.
        let reload = signal(SignalKind::hangup())?;
        let stop = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
        let (events, _) = broadcast::channel(EVENTS);
        let (messages, inbox) = mpsc::channel(MESSAGES);
        let model = source.model().clone();
        let file = match source {
            Source::File(file) => Some(file),
            Source::Runtime(_) => None,
        };
        let daemon = Daemon::start(dataplane, file, model, events.clone(), addresses)?;
        let mut control = ControlSocket::bind(socket)?;
        let listener = UnixListener::from_std(control.take_listener()?)?;
        let api = tokio::spawn(server::serve(listener, Api { messages, events }));
        tracing::info!(socket = %socket.display(), "ready");
        systemd::ready();
        tokio::spawn(daemon.run(inbox, reload, stop)).await.context("the daemon failed")?;
        tokio::time::sleep(FAREWELL).await;
        api.abort();
        drop(control);
        Ok(())
    })
}
