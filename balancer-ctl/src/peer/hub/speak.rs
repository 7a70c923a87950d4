//! What this node says to others: dialling them, its hello, its report, its requests, its list of nodes.

use std::net::{Ipv6Addr, SocketAddr};

use tokio::sync::oneshot;

use super::{Hub, now};
use crate::{
    model::peers::DEFAULT_PORT,
    os::log_rate_limit::MAX_BY_STRANGERS,
    peer::{
        Answer,
        connection::{self, Encoded, Event},
        message::{Hello, Message, NodeReport, PROTOCOL, RequestBody},
        node::Node,
        wire::MAX_MESSAGE,
    },
};

impl Hub {
    pub(super) fn publish(&mut self, mut report: NodeReport) {
        report.name.clone_from(&self.settings.name);
        let is_new = self.report.as_ref().is_none_or(|(old, _)| *old != report);
        if !is_new {
            return;
        }
        let encoded = Message::Report(report.clone()).encode();
        if encoded.len() > MAX_MESSAGE {
            if self.trouble_log.allows(MAX_BY_STRANGERS, now()) {
                tracing::error!("this node's report is too long to be sent to other nodes");
            }
            return;
        }
        self.report = Some((report, encoded.into()));
        for node in &mut self.nodes {
            node.session.report_soon(now());
        }
    }

    pub(super) fn request(
        &mut self,
        name: &str,
        body: RequestBody,
        reply: oneshot::Sender<Answer>,
    ) {
        match self
            .nodes
            .iter_mut()
            .find(|node| node.name.as_deref() == Some(name))
        {
            Some(node) => node.request(body, reply, now()),
            None => {
                let _ = reply.send(Err(self.no_such_node(name)));
            }
        }
    }

    /// The sentence for a name that no node has.
    pub(super) fn no_such_node(&self, name: &str) -> String {
        let mut known: Vec<_> = self.nodes.iter().map(Node::label).collect();
        known.sort();
        match &known[..] {
            [] => format!("there is no node `{name}`: this one is alone"),
            known => format!(
                "there is no node `{name}`: the others are {}",
                known.join(", ")
            ),
        }
    }

    pub(super) fn dial(&mut self, place: usize) {
        self.is_changed = true;
        let Some(key) = self.settings.key.clone() else {
            return;
        };
        let dial = self.next_dial;
        self.next_dial += 1;
        let hello = self.hello(false);
        let (settings, events) = (self.settings.clone(), self.events.0.clone());
        let node = &mut self.nodes[place];
        let target = node.address;
        node.counters.dialled += 1;
        let task = tokio::spawn(async move {
            let result = connection::dial(&settings, &key, target, hello).await;
            let event = Event::Dialled {
                target,
                dial,
                result,
            };
            // The hub may have ended.
            let _ = events.send(event).await;
        });
        node.dial = Some((dial, task.abort_handle()));
    }

    pub(super) fn hello(&self, joining: bool) -> Hello {
        let version = self
            .report
            .as_ref()
            .map(|(report, _)| report.version.clone());
        Hello {
            name: self.settings.name.clone(),
            version: version.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
            protocol: PROTOCOL,
            instance: self.instance,
            address: Some(self.own_address()),
            joining,
        }
    }

    /// Where this node listens, as others are told; an unspecified address if it listens on all.
    pub(super) fn own_address(&self) -> SocketAddr {
        let bound = self.listener.as_ref().and_then(|l| l.local_addr().ok());
        let configured = bound.or(self.settings.listen);
        configured.unwrap_or_else(|| (Ipv6Addr::UNSPECIFIED, DEFAULT_PORT).into())
    }

    /// The list of nodes, as others are told it.
    pub(super) fn told(&self) -> Encoded {
        let nodes = self
            .membership
            .told(&self.settings.name, self.own_address());
        Message::Nodes { nodes }.encode().into()
    }
}
