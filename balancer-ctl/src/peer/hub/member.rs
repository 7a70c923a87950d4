//! Nodes that join and leave, and what follows from the list of nodes.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tokio::{
    task::{JoinError, spawn_blocking},
    time::timeout,
};

use super::{Hub, now, time_of_day};
use crate::peer::{
    PeerChange, PeerSettings, Removal,
    connection::{self, Event, JoinReply, JoinResult},
    key::ClusterKey,
    membership::Merged,
    message::{Hello, Message, NodeRecord, Received, ReplyBody, ReplyResult, RequestBody},
    node::Node,
};

/// Time within which the other node must have taken this one in.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

impl Hub {
    /// Makes the nodes those of the list and of the configuration.
    pub(super) fn sync_nodes(&mut self) {
        self.is_changed = true;
        if self.settings.key.is_none() {
            return self.disconnect_all("there is no key any more");
        }
        let mut old = std::mem::take(&mut self.nodes);
        let mut nodes: Vec<Node> = Vec::new();
        let mut taken = |is_it: &dyn Fn(&Node) -> bool, address| {
            let place = old.iter().position(is_it);
            place.map_or_else(|| Node::new(address, now()), |place| old.swap_remove(place))
        };
        for record in self.membership.others() {
            let has_name = |node: &Node| match &node.name {
                Some(name) => *name == record.name,
                None => node.address == record.address,
            };
            let mut node = taken(&has_name, record.address);
            node.name = Some(record.name.clone());
            node.address = record.address;
            node.is_member = true;
            node.is_configured = self.settings.peers.contains(&record.address);
            nodes.push(node);
        }
        for address in &self.settings.peers {
            let is_own = self.own_addresses.contains(address)
                || self.settings.listen.is_some_and(|own| own == *address);
            if is_own || nodes.iter().any(|node| node.address == *address) {
                continue;
            }
            let mut node = taken(&|node| node.address == *address, *address);
            (node.is_member, node.is_configured) = (false, true);
            nodes.push(node);
        }
        self.nodes = nodes;
        for node in old {
            self.went(&node, "it was taken out");
        }
    }

    /// The list of nodes has changed: stores it, and tells the others.
    pub(super) fn members_changed(&mut self) {
        self.file_obstacle = self.membership.write(&self.file).err();
        if let Some(sentence) = &self.file_obstacle {
            tracing::error!("{sentence}");
        }
        self.sync_nodes();
        let told = self.told();
        for node in &mut self.nodes {
            node.send(told.clone());
        }
        self.change(PeerChange::Members);
    }

    /// Takes over what another node says of all.
    pub(super) fn heard_of(&mut self, place: usize, records: Vec<NodeRecord>) {
        let node = &self.nodes[place];
        let Some(sender) = node.name.clone().filter(|_| node.is_member) else {
            // Of a configured node, the configuration says what there is to know.
            return;
        };
        let source = node.address.ip();
        let merged = self
            .membership
            .merge(&self.settings.name, &sender, source, records);
        let Merged {
            changed,
            added,
            removed,
            self_removed,
        } = merged;
        if self_removed {
            return self.taken_out();
        }
        for name in added {
            tracing::info!(node = name, from = sender, "a node has joined");
        }
        for name in removed {
            tracing::info!(node = name, from = sender, "a node was taken out");
        }
        if changed {
            self.members_changed();
        }
    }

    /// Another node has taken this one out.
    pub(super) fn taken_out(&mut self) {
        tracing::warn!("this node was taken out of its cluster, and has forgotten the others");
        self.membership.clear();
        self.members_changed();
        self.change(PeerChange::TakenOut);
    }

    /// Asks the node at an address to take this one in.
    pub(super) fn join(
        &mut self,
        key: ClusterKey,
        key_file: PathBuf,
        address: SocketAddr,
        reply: JoinReply,
    ) {
        if self.is_joining {
            let sentence = "this node joins another one at present: wait until that has ended";
            let _ = reply.send(Err(sentence.to_owned()));
            return;
        }
        let stranger = self
            .membership
            .others()
            .find(|other| other.address != address);
        if let Some(stranger) = stranger {
            let sentence = format!(
                "this node is in a cluster already, with `{}`: let the other one join this one, or take this one out first with `balancer-ctl node remove {}`",
                stranger.name, self.settings.name
            );
            let _ = reply.send(Err(sentence));
            return;
        }
        let (settings, hello, events) = (
            self.settings.clone(),
            self.hello(true),
            self.events.0.clone(),
        );
        let request = RequestBody::Join {
            name: self.settings.name.clone(),
            address: self.own_address(),
            stamp: self.membership.own_stamp(),
        };
        self.is_joining = true;
        tokio::spawn(async move {
            let asked = async {
                let asked = ask_to_join(&settings, &key, address, hello, request);
                let late = format!(
                    "{address} did not answer within {} s",
                    JOIN_TIMEOUT.as_secs()
                );
                timeout(JOIN_TIMEOUT, asked).await.unwrap_or(Err(late))
            };
            let result = with_stored(key.clone(), key_file, asked).await;
            let joined = JoinResult {
                key,
                target: address,
                result,
                reply,
            };
            // The hub may have ended.
            let _ = events.send(Event::Joined(joined)).await;
        });
    }

    /// What became of joining.
    pub(super) fn joined(&mut self, joined: JoinResult) {
        self.is_joining = false;
        let (sender, records) = match joined.result {
            Ok(answer) => answer,
            Err(sentence) => {
                let _ = joined.reply.send(Err(sentence));
                return;
            }
        };
        if self.settings.key.as_ref() != Some(&joined.key) {
            self.disconnect_all("this node has joined another cluster");
            self.settings.key = Some(joined.key);
        }
        if self.listener.is_none() {
            self.listen_at = self.settings.listen.map(|_| now());
        }
        self.membership.clear();
        let source = joined.target.ip();
        let name = &self.settings.name;
        self.membership.merge(name, &sender, source, records);
        tracing::info!(node = sender, "this node has joined a cluster");
        self.members_changed();
        let nodes = self
            .membership
            .told(&self.settings.name, self.own_address());
        let nodes = nodes.into_iter().filter(|node| !node.removed).collect();
        let _ = joined.reply.send(Ok(nodes));
    }

    /// Takes a node out.
    pub(super) fn remove(&mut self, name: &str) -> Result<Removal, String> {
        if name == self.settings.name {
            return self.leave();
        }
        if self.membership.get(name).is_none() {
            let node = self
                .nodes
                .iter()
                .find(|node| node.name.as_deref() == Some(name));
            return Err(match node {
                Some(node) => format!(
                    "node `{name}` is configured as {}: take it out of the configuration",
                    node.address
                ),
                None => self.no_such_node(name),
            });
        }
        self.membership.remove(name, time_of_day());
        // Before its connection ends, which what is queued outlasts.
        let told = self.told();
        let node = self
            .nodes
            .iter_mut()
            .find(|node| node.name.as_deref() == Some(name));
        let is_told = node.is_some_and(|node| node.send(told));
        self.members_changed();
        Ok(if is_told {
            Removal::Told
        } else {
            Removal::Unreached
        })
    }

    /// Takes this node out.
    fn leave(&mut self) -> Result<Removal, String> {
        if self.membership.others().next().is_none() {
            return Err("this node is in no cluster that it has joined".to_owned());
        }
        let own_address = self.own_address();
        let nodes = self
            .membership
            .leave(&self.settings.name, own_address, time_of_day());
        let farewell: connection::Encoded = Message::Nodes { nodes }.encode().into();
        let mut is_told = false;
        for node in self.nodes.iter_mut().filter(|node| node.is_member) {
            is_told |= node.send(farewell.clone());
        }
        self.members_changed();
        Ok(if is_told {
            Removal::Told
        } else {
            Removal::LeftUnheard
        })
    }
}

/// Stores a key if what is done with it succeeds. Before that it is known that it can be stored.
async fn with_stored<T>(
    key: ClusterKey,
    key_file: PathBuf,
    done: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let ended = |error: JoinError| format!("the thread that stores the key has ended: {error}");
    let prepared = spawn_blocking(move || key.prepare(&key_file)).await;
    let prepared = prepared.map_err(ended)??;
    let done = done.await?;
    spawn_blocking(|| prepared.commit())
        .await
        .map_err(ended)
        .flatten()
        .map_err(|trouble| format!("this node has joined, but {trouble}: join again"))?;
    Ok(done)
}

/// Asks the node at an address to take this one in; returns its name and all nodes.
async fn ask_to_join(
    settings: &PeerSettings,
    key: &ClusterKey,
    target: SocketAddr,
    hello: Hello,
    request: RequestBody,
) -> Result<(String, Vec<NodeRecord>), String> {
    let instance = hello.instance;
    let refused =
        |reason: &dyn std::fmt::Display| format!("cannot join the node at {target}: {reason}");
    let greeted = connection::dial(settings, key, target, hello).await;
    let mut greeted = greeted.map_err(|fault| refused(&fault))?;
    if greeted.hello.instance == instance {
        return Err(refused(&"that is this node itself"));
    }
    let sender = greeted.hello.name.clone();
    let request = Message::Request {
        id: 0,
        body: request,
    };
    let answer = greeted.ask(&request).await;
    match answer.map_err(|fault| refused(&fault))? {
        Received::Known(message) => match *message {
            Message::Reply {
                result: ReplyResult::Ok(ReplyBody::Joined { nodes }),
                ..
            } => Ok((sender, nodes)),
            Message::Reply {
                result: ReplyResult::Error(sentence),
                ..
            } => Err(refused(&sentence)),
            _ => Err(refused(&"it answered something else")),
        },
        _ => Err(refused(
            &"it answered what this version does not understand",
        )),
    }
}
