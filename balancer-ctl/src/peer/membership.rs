//! Which nodes there are: a list that all nodes share, each with a copy in its state directory.
//!
//! Each record says when its node was added or removed, and of two records of one node the later holds. So whoever hears a list, in
//! whatever order, comes to the same one, and a node that was away learns what happened meanwhile. Pure but for its file.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use super::message::{MAX_RECORDS, NodeRecord, check_name};
use crate::{model::limits::MAX_NODES, os::state_file::StateFile};

/// Most removed nodes that are remembered; beyond that, those that were removed first are forgotten.
const MAX_REMOVED: usize = MAX_RECORDS - MAX_NODES;
/// Version of the file's format.
const VERSION: u32 = 1;

/// All nodes but this one, and when this one joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// When this node was last added, or taken out, in milliseconds since 1970; 0 = it was the first, or has joined nobody.
    own_stamp: u64,
    records: BTreeMap<String, NodeRecord>,
}

/// What a list that was heard has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Whether the file has to be written and the other nodes told.
    pub changed: bool,
    /// Names of the nodes that are new.
    pub added: Vec<String>,
    /// Names of the nodes that were removed.
    pub removed: Vec<String>,
    /// This node was removed by another; it has forgotten all of them.
    pub self_removed: bool,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    own_stamp: u64,
    nodes: Vec<NodeRecord>,
}

impl Membership {
    /// Reads the file; without one, there are no other nodes.
    ///
    /// # Errors
    /// A sentence: the file cannot be read.
    pub fn read(file: &StateFile) -> Result<Self, String> {
        let sentence = |error: String| {
            format!(
                "the list of nodes in {file} cannot be read, so this node knows no other: {error}; join them again"
            )
        };
        let text = file.read().map_err(|error| sentence(error.to_string()))?;
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let stored: Stored =
            serde_json::from_str(&text).map_err(|error| sentence(error.to_string()))?;
        if stored.version != VERSION {
            return Err(sentence("it has the format of another version".to_owned()));
        }
        let mut membership = Self {
            own_stamp: stored.own_stamp,
            records: BTreeMap::new(),
        };
        for record in stored.nodes {
            check_name(&record.name).map_err(sentence)?;
            membership.records.insert(record.name.clone(), record);
        }
        membership.limit();
        Ok(membership)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// A sentence: the disk refused it; the old file is still there.
    pub fn write(&self, file: &StateFile) -> Result<(), String> {
        let stored = Stored {
            version: VERSION,
            own_stamp: self.own_stamp,
            nodes: self.records.values().cloned().collect(),
        };
        file.replace_durably(|file| {
            serde_json::to_writer_pretty(&mut *file, &stored)?;
            writeln!(file)
        })
        .map_err(|error| format!("the list of nodes in {file} cannot be written: {error}"))
    }

    /// The other nodes, by name.
    pub fn others(&self) -> impl Iterator<Item = &NodeRecord> {
        self.records.values().filter(|record| !record.removed)
    }

    /// The record of another node that was not removed.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&NodeRecord> {
        self.records.get(name).filter(|record| !record.removed)
    }

    /// Whether a node was one of the cluster and is not any more.
    #[must_use]
    pub fn was_removed(&self, name: &str) -> bool {
        self.records.get(name).is_some_and(|record| record.removed)
    }

    /// Everything, as other nodes are told it: this node, which listens at `listen`, included.
    #[must_use]
    pub fn told(&self, own_name: &str, listen: SocketAddr) -> Vec<NodeRecord> {
        let own = NodeRecord {
            name: own_name.to_owned(),
            address: listen,
            stamp: self.own_stamp,
            removed: false,
        };
        let others = self
            .records
            .values()
            .filter(|record| record.name != own_name);
        others.cloned().chain([own]).collect()
    }

    /// The stamp of the last record of this node itself.
    #[must_use]
    pub const fn own_stamp(&self) -> u64 {
        self.own_stamp
    }

    /// Adds a node that asks to join, or one that does so again: its record is new in any case, so that it is later than one by which it
    /// was taken out elsewhere. Returns whether it was not in before.
    ///
    /// # Errors
    /// A sentence: the name is this node's or another's, or there are four nodes.
    pub fn join(
        &mut self,
        own_name: &str,
        name: &str,
        address: SocketAddr,
        now: u64,
    ) -> Result<bool, String> {
        check_name(name)?;
        if name == own_name {
            return Err(format!(
                "the name `{name}` is this node's own: give one of the two another `[node] name`"
            ));
        }
        let known = self.get(name);
        let is_new = known.is_none();
        if let Some(known) = known
            && known.address != address
        {
            return Err(format!(
                "there is a node `{name}` already, at {}: give the new one another `[node] name`, or take that one out with `balancer-ctl node remove {name}`",
                known.address
            ));
        }
        let is_taken = |other: &&NodeRecord| other.name != name && other.address == address;
        if let Some(other) = self.others().find(is_taken) {
            return Err(format!(
                "the node at {address} is `{}` already: take that one out first, with `balancer-ctl node remove {}`",
                other.name, other.name
            ));
        }
        if is_new && self.others().count() + 1 >= MAX_NODES {
            return Err(format!(
                "there are {MAX_NODES} nodes already, which is the most: take one out with `balancer-ctl node remove NAME`"
            ));
        }
        let record = NodeRecord {
            name: name.to_owned(),
            address,
            stamp: self.stamp_of(name, now),
            removed: false,
        };
        self.records.insert(name.to_owned(), record);
        Ok(is_new)
    }

    /// Takes another node out. Returns whether it was in.
    pub fn remove(&mut self, name: &str, now: u64) -> bool {
        let stamp = self.stamp_of(name, now);
        match self.records.get_mut(name) {
            Some(record) if !record.removed => {
                (record.removed, record.stamp) = (true, stamp);
                self.limit();
                true
            }
            _ => false,
        }
    }

    /// Forgets all other nodes: this one was taken out.
    pub fn clear(&mut self) {
        self.records.clear();
    }

    /// Takes this node out, so that it forgets the others. Returns everything, as they are told it.
    #[must_use]
    pub fn leave(&mut self, own_name: &str, listen: SocketAddr, now: u64) -> Vec<NodeRecord> {
        self.own_stamp = now.max(self.own_stamp.saturating_add(1));
        let mut told = self.told(own_name, listen);
        for own in told.iter_mut().filter(|record| record.name == own_name) {
            own.removed = true;
        }
        self.clear();
        told
    }

    /// Takes over what another node, `sender`, says; its messages come from `source`.
    pub fn merge(
        &mut self,
        own_name: &str,
        sender: &str,
        source: IpAddr,
        records: Vec<NodeRecord>,
    ) -> Merged {
        let mut merged = Merged::default();
        let before: Vec<_> = self.others().map(|record| record.name.clone()).collect();
        let old = self.clone();
        for mut record in records.into_iter().take(MAX_RECORDS) {
            if check_name(&record.name).is_err() {
                continue;
            }
            if record.name == own_name {
                if record.stamp > self.own_stamp {
                    self.own_stamp = record.stamp;
                    merged.self_removed = record.removed;
                }
                continue;
            }
            let is_sender = record.name == sender;
            if is_sender && record.address.ip().is_unspecified() {
                record.address.set_ip(source.to_canonical());
            }
            let is_later = self.records.get(&record.name).is_none_or(|known| {
                (record.stamp, record.removed) > (known.stamp, known.removed)
                    // Where it listens, a node itself knows best.
                    || is_sender && record.stamp == known.stamp && !known.removed
            });
            if is_later && !record.address.ip().is_unspecified() {
                self.records.insert(record.name.clone(), record);
            }
        }
        if merged.self_removed {
            self.clear();
        }
        self.limit();
        let after: Vec<_> = self.others().map(|record| record.name.clone()).collect();
        let without = |all: &[String], those: &[String]| {
            let all = all.iter().filter(|name| !those.contains(name));
            all.cloned().collect::<Vec<_>>()
        };
        merged.added = without(&after, &before);
        merged.removed = without(&before, &after);
        merged.changed = *self != old;
        merged
    }

    /// The stamp of a record that replaces the present one.
    fn stamp_of(&self, name: &str, now: u64) -> u64 {
        let known = self.records.get(name);
        known.map_or(now, |known| now.max(known.stamp.saturating_add(1)))
    }

    /// Holds the numbers of nodes and of removed nodes: of too many, those that were added last count as removed, and those that were
    /// removed first are forgotten. All nodes come to the same.
    fn limit(&mut self) {
        let mut present: Vec<_> = self.others().map(|r| (r.stamp, r.name.clone())).collect();
        present.sort_unstable();
        for (_, name) in present.iter().skip(MAX_NODES - 1) {
            if let Some(record) = self.records.get_mut(name) {
                record.removed = true;
            }
        }
        let removed = self.records.values().filter(|record| record.removed);
        let mut removed: Vec<_> = removed.map(|r| (r.stamp, r.name.clone())).collect();
        removed.sort_unstable();
        let surplus = removed.len().saturating_sub(MAX_REMOVED);
        for (_, name) in removed.into_iter().take(surplus) {
            self.records.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests;
