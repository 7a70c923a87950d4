//! Who is let in: connections through the handshake whose nodes have said hello.

use std::net::{IpAddr, SocketAddr};

use super::{Hub, jitter, now};
use crate::{
    os::log_rate_limit::MAX_BY_STRANGERS,
    peer::{
        PeerChange,
        connection::{Fault, Greeted},
        message::{Hello, Message, Refused, check_name},
        session::{NewConnection, Verdict},
        wire::WireError,
    },
};

impl Hub {
    /// A connection that another node dialled.
    pub(super) fn greeted_by(&mut self, source: SocketAddr, result: Result<Greeted, Fault>) {
        let greeted = match result {
            Ok(greeted) => greeted,
            Err(fault) => return self.count(&fault, source),
        };
        if greeted.hello.instance == self.instance {
            // The same list of nodes may be configured on all of them. This node has dialled itself, and sees it by its own hello.
            return greeted.end(Message::Hello(self.hello(false)));
        }
        let ip = source.ip().to_canonical();
        if let Err(sentence) = self.check_hello(&greeted.hello) {
            self.refusals.name += 1;
            self.refuse(greeted, source, sentence, false);
        } else if greeted.hello.joining {
            self.welcome_guest(source, greeted);
        } else if let Some(place) = self.place_of(&greeted.hello, ip) {
            self.meet(place, false, source, greeted);
        } else {
            self.refusals.unknown += 1;
            let name = &greeted.hello.name;
            let was_removed = self.membership.was_removed(name);
            let sentence = if was_removed {
                format!("node `{name}` was taken out: `balancer-ctl node join` there takes it in")
            } else {
                format!(
                    "node `{name}` at {ip} is not one of this cluster: `balancer-ctl node join` there takes it in"
                )
            };
            self.refuse(greeted, source, sentence, was_removed);
        }
    }

    /// What became of dialling a node.
    pub(super) fn dialled(
        &mut self,
        target: SocketAddr,
        dial: u64,
        result: Result<Greeted, Fault>,
    ) {
        let is_this = |id: Option<u64>| id == Some(dial);
        let place = self
            .nodes
            .iter()
            .position(|node| is_this(node.dial.as_ref().map(|(id, _)| *id)));
        let Some(place) = place else { return };
        self.nodes[place].dial = None;
        let greeted = match result {
            Ok(greeted) => greeted,
            Err(fault) => {
                self.dial_failed(place, fault.to_string());
                if matches!(&fault, Fault::Refused(refused) if refused.removed)
                    && self.nodes[place].is_member
                {
                    self.taken_out();
                }
                return;
            }
        };
        if greeted.hello.instance == self.instance {
            if self.nodes[place].is_member {
                return self.dial_failed(place, "this node itself has that address".to_owned());
            }
            self.own_addresses.push(target);
            return self.sync_nodes();
        }
        let checked = self
            .check_hello(&greeted.hello)
            .and_then(|()| self.check_dialled(place, &greeted.hello));
        if let Err(sentence) = checked {
            self.refusals.name += 1;
            self.dial_failed(place, sentence.clone());
            return self.refuse(greeted, target, sentence, false);
        }
        self.nodes[place].name = Some(greeted.hello.name.clone());
        self.meet(place, true, target, greeted);
    }

    fn dial_failed(&mut self, place: usize, reason: String) {
        let node = &mut self.nodes[place];
        node.session.dial_failed(now(), jitter());
        if node.connection.is_none() {
            node.trouble = Some(reason);
        }
    }

    /// Checks a hello by itself.
    fn check_hello(&self, hello: &Hello) -> Result<(), String> {
        check_name(&hello.name)?;
        if hello.name == self.settings.name {
            return Err(format!(
                "two nodes are called `{}`: give one of them another `[node] name`",
                hello.name
            ));
        }
        Ok(())
    }

    /// Checks that a dialled node is the one that was expected.
    fn check_dialled(&self, place: usize, hello: &Hello) -> Result<(), String> {
        let (node, name) = (&self.nodes[place], &hello.name);
        if node.is_member && node.name.as_ref() != Some(name) {
            return Err(format!(
                "the node at {} calls itself `{name}`, and `{}` is expected there: take that one out with `balancer-ctl node remove {}`, and join the other",
                node.address,
                node.label(),
                node.label()
            ));
        }
        let other = self
            .nodes
            .iter()
            .enumerate()
            .find(|(other, known)| *other != place && known.name.as_ref() == Some(name));
        match other {
            Some((_, other)) => Err(format!(
                "the node at {} calls itself `{name}`, as the one at {} does: give one of them another `[node] name`, or configure one of the two addresses",
                node.address, other.address
            )),
            None => Ok(()),
        }
    }

    /// The node that says hello from this address.
    fn place_of(&mut self, hello: &Hello, source: IpAddr) -> Option<usize> {
        let is_it = |name: &Option<String>| name.as_ref() == Some(&hello.name);
        if let Some(place) = self.nodes.iter().position(|node| is_it(&node.name)) {
            return Some(place);
        }
        let address = hello.address.map(|mut address| {
            if address.ip().is_unspecified() {
                address.set_ip(source);
            }
            address
        });
        let can_be = |node: &super::Node| !node.is_member && node.connection.is_none();
        let by_address = self
            .nodes
            .iter()
            .position(|node| can_be(node) && Some(node.address) == address);
        let place = by_address.or_else(|| {
            // It may listen on another address than it dials from, or behind a translated port.
            let mut places = (0..self.nodes.len()).filter(|place| {
                let node = &self.nodes[*place];
                can_be(node) && node.name.is_none() && node.address.ip() == source
            });
            places.next().filter(|_| places.next().is_none())
        })?;
        self.nodes[place].name = Some(hello.name.clone());
        Some(place)
    }

    /// A connection to a node whose name is known.
    fn meet(&mut self, place: usize, was_dialled: bool, source: SocketAddr, greeted: Greeted) {
        let now = now();
        let hello = greeted.hello.clone();
        let new = NewConnection {
            id: self.next_connection,
            was_dialled,
            instance: hello.instance,
            is_smaller: self.settings.name < hello.name,
        };
        let replaced = match self.nodes[place].session.established(now, new) {
            Verdict::Keep { replaced } => replaced,
            Verdict::Surplus => return,
            Verdict::NameTaken => {
                self.refusals.name += 1;
                let sentence = format!(
                    "two nodes are called `{}`, one at {} and one at {}: give one of them another `[node] name`",
                    hello.name,
                    self.nodes[place].address,
                    source.ip().to_canonical()
                );
                return self.refuse(greeted, source, sentence, false);
            }
        };
        let (_, connection) = self.new_connection(greeted);
        let own_hello = Message::Hello(self.hello(false)).encode();
        let told = self.told();
        let node = &mut self.nodes[place];
        if replaced.is_some() {
            node.disconnect("another connection took its place");
        }
        node.connection = Some(connection);
        node.version = Some(hello.version);
        node.last_heard = Some(now);
        node.trouble = None;
        if !was_dialled {
            node.dials_from = Some(source.ip().to_canonical());
            node.send(own_hello.into());
        }
        node.send(told);
        if replaced.is_none() {
            tracing::info!(node = hello.name, address = %node.address, "another node is there");
            self.change(PeerChange::Came { name: hello.name });
        }
    }

    /// Says why a node is not let in.
    pub(super) fn refuse(
        &mut self,
        greeted: Greeted,
        source: SocketAddr,
        reason: String,
        removed: bool,
    ) {
        if self.refusal_log.allows(MAX_BY_STRANGERS, now()) {
            tracing::warn!(%source, "a node is not let in: {reason}");
        }
        greeted.end(Message::Refused(Refused { reason, removed }));
    }

    /// Counts a connection that did not come through the handshake.
    fn count(&mut self, fault: &Fault, source: SocketAddr) {
        let counters = &mut self.refusals;
        let counter = match fault {
            Fault::Wire(WireError::WrongKey) => &mut counters.wrong_key,
            Fault::Wire(WireError::Forged) => &mut counters.forged,
            Fault::Wire(WireError::Length | WireError::TooLong(_)) | Fault::Garbage => {
                &mut counters.garbage
            }
            Fault::Wire(WireError::Io(_)) | Fault::Refused(_) => &mut counters.abandoned,
            Fault::Timeout => &mut counters.silent,
        };
        *counter += 1;
        if self.refusal_log.allows(MAX_BY_STRANGERS, now()) {
            tracing::warn!(%source, "a connection to the port of other nodes is not let in: {fault}");
        }
    }
}
