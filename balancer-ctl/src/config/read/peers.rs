//! `[peers]`: how the nodes of a pair reach each other.

use std::{net::SocketAddr, path::PathBuf};

use toml_edit::TableLike;

use super::{Reader, keys::PEERS, start};
use crate::{
    config::validate::Place,
    model::{PeerSettings, peers::node_address},
};

impl Reader<'_> {
    pub(super) fn peers(&mut self, root: &dyn TableLike) -> PeerSettings {
        let mut settings = PeerSettings::default();
        let Some(table) = self.table(root, "peers", &PEERS) else {
            return settings;
        };
        let place = Place::Peers;
        if let Some(listen) = self.parse_string(table, "listen", place("listen"), node_address) {
            settings.listen = listen;
        }
        settings.interface = self
            .string(table, "interface", place("interface"))
            .map(str::to_owned);
        settings.key_file = self
            .string(table, "key-file", place("key-file"))
            .map(PathBuf::from);
        settings.nodes = self.nodes(table);
        if let Some(sync) = self.one_of(table, "sync", place("sync")) {
            settings.sync = sync;
        }
        settings
    }

    fn nodes(&mut self, table: &dyn TableLike) -> Vec<SocketAddr> {
        let Some(item) = table.get("nodes") else {
            return Vec::new();
        };
        let wrong = "nodes must be a list of addresses, as in [\"192.0.2.2\"]";
        let Some(array) = item.as_array() else {
            self.problem(start(item), wrong);
            return Vec::new();
        };
        let mut nodes = Vec::new();
        for value in array {
            let at = value.span().map_or(0, |span| span.start);
            let Some(text) = value.as_str() else {
                self.problem(at, wrong);
                continue;
            };
            match node_address(text) {
                Ok(address) => {
                    self.places.insert(Place::PeerNode(nodes.len()), at);
                    nodes.push(address);
                }
                Err(sentence) => self.problem(at, format!("node `{text}` {sentence}")),
            }
        }
        nodes
    }
}
