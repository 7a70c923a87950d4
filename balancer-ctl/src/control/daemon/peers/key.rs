//! The cluster's key: read from its file, made, brought by joining another node.

use std::{
    future::pending,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::sync::oneshot;

use super::Finished;
use crate::{
    control::daemon::{Daemon, Reply},
    model::{PeerSettings, error::ApiError, view},
    peer::{key::ClusterKey, message::NodeRecord},
};

/// What goes on with the key. There is one thing at a time, since each changes the file.
pub(super) enum KeyWork {
    None,
    /// It is read or made.
    Making(Reply<view::NodeKey>),
    /// This node joins another one.
    Joining {
        key: ClusterKey,
        joined: oneshot::Receiver<Result<Vec<NodeRecord>, String>>,
        reply: Reply<Vec<NodeRecord>>,
    },
}

impl KeyWork {
    /// Waits until this node has joined another one, or has not; for ever if it does not join.
    pub async fn joined(&mut self) -> Finished {
        let Self::Joining { key, joined, .. } = self else {
            return pending().await;
        };
        let ended = || Err("the channel to other nodes has ended".to_owned());
        let result = joined.await.unwrap_or_else(|_| ended());
        Finished::Joined(key.clone(), result)
    }
}

/// Where the key is looked for.
pub struct KeySearch {
    own: PathBuf,
    changes: u64,
}

/// The key as its file had it.
pub struct FoundKey {
    key: Result<Option<ClusterKey>, String>,
    changes: u64,
}

impl KeySearch {
    /// Reads the key's file.
    pub fn read(self, settings: &PeerSettings) -> FoundKey {
        FoundKey {
            key: read(settings, &self.own),
            changes: self.changes,
        }
    }
}

fn read(settings: &PeerSettings, own: &Path) -> Result<Option<ClusterKey>, String> {
    let Some(path) = &settings.key_file else {
        return ClusterKey::read(own);
    };
    match ClusterKey::read(path)? {
        None => Err(format!("there is no key file {}", path.display())),
        key => Ok(key),
    }
}

impl Daemon {
    /// Where the key is looked for at present.
    pub(in crate::control::daemon) fn key_search(&self) -> KeySearch {
        KeySearch {
            own: self.nodes.key_file.clone(),
            changes: self.nodes.key_changes,
        }
    }

    /// Takes the key that was found over. One that cannot be read leaves the present one in force.
    pub(in crate::control::daemon) fn take_key(&mut self, found: FoundKey) {
        let nodes = &mut self.nodes;
        let is_old = found.changes != nodes.key_changes;
        if is_old || !matches!(nodes.key_work, KeyWork::None) {
            return;
        }
        match found.key {
            Ok(key) => (nodes.key, nodes.problem) = (key, None),
            Err(sentence) => {
                tracing::warn!("{sentence}");
                nodes.problem = Some(sentence);
            }
        }
    }

    /// Reads the key with which other nodes join, or makes one if there is none.
    pub(in crate::control::daemon) fn node_key(&mut self, reply: Reply<view::NodeKey>) {
        if let Err(refusal) = self.refuse_two_at_once() {
            return drop(reply.send(Err(refusal)));
        }
        let configured = self.model.peers.key_file.clone();
        let path = configured.unwrap_or_else(|| self.nodes.key_file.clone());
        let is_begun = self
            .nodes
            .work(move || Finished::Key(ClusterKey::read_or_create(&path)));
        if is_begun {
            self.nodes.key_work = KeyWork::Making(reply);
        }
    }

    pub(super) fn key_made(&mut self, key: Result<ClusterKey, String>) {
        let KeyWork::Making(reply) = self.end_key_work() else {
            return;
        };
        let shown = key.map_err(ApiError::failed).map(|key| {
            let shown = view::NodeKey {
                key: key.to_string(),
            };
            self.use_key(key);
            shown
        });
        // Whoever asked may have gone.
        drop(reply.send(shown));
    }

    /// Joins the nodes of another one.
    pub(in crate::control::daemon) fn node_join(
        &mut self,
        key: &str,
        address: SocketAddr,
        reply: Reply<Vec<NodeRecord>>,
    ) {
        match self.start_joining(key, address) {
            Ok((key, joined)) => {
                self.nodes.key_work = KeyWork::Joining { key, joined, reply };
            }
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    #[expect(clippy::type_complexity, reason = "it is taken apart at once")]
    fn start_joining(
        &mut self,
        key: &str,
        address: SocketAddr,
    ) -> Result<
        (
            ClusterKey,
            oneshot::Receiver<Result<Vec<NodeRecord>, String>>,
        ),
        ApiError,
    > {
        if let Some(path) = &self.model.peers.key_file {
            return Err(ApiError::invalid(format!(
                "[peers] key-file names {}: put the key there, name the node in `nodes`, and reload",
                path.display()
            )));
        }
        let key: ClusterKey = key
            .parse()
            .map_err(|sentence| ApiError::invalid(format!("this is no key: {sentence}")))?;
        self.refuse_two_at_once()?;
        let settings = self.channel_settings();
        let key_file = self.nodes.key_file.clone();
        let Some(running) = self.start_peers() else {
            return Err(ApiError::failed(
                "the channel to other nodes cannot be started: the log says why",
            ));
        };
        let (reply, joined) = oneshot::channel();
        running.configure(settings);
        running.join(key.clone(), key_file, address, reply);
        Ok((key, joined))
    }

    pub(super) fn joined(&mut self, key: ClusterKey, result: Result<Vec<NodeRecord>, String>) {
        let KeyWork::Joining { reply, .. } = self.end_key_work() else {
            return;
        };
        if result.is_ok() {
            self.use_key(key);
        }
        // Whoever asked may have gone.
        drop(reply.send(result.map_err(ApiError::failed)));
    }

    /// What is read of the key's file before this is of no use any more.
    fn end_key_work(&mut self) -> KeyWork {
        self.nodes.key_changes += 1;
        std::mem::replace(&mut self.nodes.key_work, KeyWork::None)
    }

    fn use_key(&mut self, key: ClusterKey) {
        (self.nodes.key, self.nodes.problem) = (Some(key), None);
        self.configure_peers();
    }

    fn refuse_two_at_once(&self) -> Result<(), ApiError> {
        match self.nodes.key_work {
            KeyWork::None => Ok(()),
            KeyWork::Making(_) | KeyWork::Joining { .. } => Err(ApiError::conflict(
                "this node makes its key or joins another node at present: try again when that has ended",
            )),
        }
    }
}
