//! What other nodes say and ask.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout};

use super::{Hub, jitter, now, time_of_day};
use crate::peer::{
    Answer, PeerChange, PeerRequest,
    connection::{Connection, Event, Greeted},
    message::{Message, NodeReport, Received, ReplyBody, RequestBody},
    node::time_for,
    session::ConnectionId,
    wire::MAX_MESSAGE,
};

/// Nodes that join at the same time.
const MAX_GUESTS: usize = 4;
/// Time within which a node that comes to join has to ask for it.
const GUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests of one node that wait for this one's answers.
const MAX_ANSWERING: usize = 8;

/// A node that has the key and comes to join.
pub(super) struct Guest {
    connection: Connection,
    name: String,
    source: IpAddr,
    pub(super) deadline: Instant,
}

impl Hub {
    pub(super) fn welcome_guest(&mut self, source: SocketAddr, greeted: Greeted) {
        let refused = if !self.settings.can_be_joined {
            Some(
                "the configuration there names the nodes and the file with their key: add this one to both",
            )
        } else if self.guests.len() >= MAX_GUESTS {
            Some("too many nodes join at the same time: try again in a few seconds")
        } else {
            None
        };
        if let Some(reason) = refused {
            self.refusals.unknown += 1;
            return self.refuse(greeted, source, reason.to_owned(), false);
        }
        let name = greeted.hello.name.clone();
        let hello = Message::Hello(self.hello(false)).encode();
        let (id, connection) = self.new_connection(greeted);
        connection.send(hello.into());
        let guest = Guest {
            connection,
            name,
            source: source.ip().to_canonical(),
            deadline: now() + GUEST_TIMEOUT,
        };
        self.guests.insert(id, guest);
    }

    /// What a guest says: its one request.
    fn received_of_guest(&mut self, guest: &Guest, received: Received) {
        let Received::Known(message) = received else {
            return;
        };
        let Message::Request {
            id,
            body:
                RequestBody::Join {
                    name,
                    mut address,
                    stamp,
                },
        } = *message
        else {
            return;
        };
        if address.ip().is_unspecified() {
            address.set_ip(guest.source);
        }
        let own_name = self.settings.name.clone();
        let result = if name != guest.name {
            Err("it said hello by another name".to_owned())
        } else if address.port() == 0 {
            Err("port 0 is no port at which it could be reached".to_owned())
        } else if self.is_joining {
            // Two nodes that join each other would change their keys.
            Err(format!(
                "node {own_name} itself joins another one at present: try again in a few seconds"
            ))
        } else {
            let now = time_of_day().max(stamp.saturating_add(1));
            self.membership.join(&own_name, &name, address, now)
        };
        let answer = result.map(|is_new| {
            if is_new {
                tracing::info!(node = name, %address, "a node has joined");
            }
            self.members_changed();
            let nodes = self.membership.told(&own_name, self.own_address());
            ReplyBody::Joined { nodes }
        });
        let reply = Message::Reply {
            id,
            result: answer.into(),
        };
        guest.connection.send(reply.encode().into());
    }

    /// A part of a long message came.
    pub(super) fn heard(&mut self, id: ConnectionId) {
        if let Some(place) = self.node_of(id) {
            let (node, now) = (&mut self.nodes[place], now());
            node.session.heard(now, id);
            node.last_heard = Some(now);
        }
    }

    /// A connection ended.
    pub(super) fn closed(&mut self, id: ConnectionId, reason: &str) {
        self.guests.remove(&id);
        if let Some(place) = self.node_of(id) {
            self.nodes[place].session.closed(now(), id, jitter());
            self.lost(place, reason);
        }
    }

    pub(super) fn received(&mut self, id: ConnectionId, received: Received) {
        if let Some(guest) = self.guests.remove(&id) {
            return self.received_of_guest(&guest, received);
        }
        self.heard(id);
        let Some(place) = self.node_of(id) else {
            return;
        };
        let node = &mut self.nodes[place];
        node.counters.received += 1;
        let label = node.label();
        match received {
            Received::Known(message) => self.understood(place, id, *message),
            Received::UnknownRequest { id, what } => {
                node.counters.not_understood += 1;
                let sentence = format!(
                    "node {} has another version and does not understand the request `{what}`",
                    self.settings.name
                );
                self.reply(place, id, Err(sentence));
            }
            Received::UnknownReply { id } => {
                node.counters.not_understood += 1;
                let sentence =
                    format!("node {label} has another version, and its answer is not understood");
                node.answered(id, Err(sentence));
            }
            Received::Unknown { what } => {
                node.counters.not_understood += 1;
                node.send(Message::NotUnderstood { what }.encode().into());
            }
        }
    }

    fn understood(&mut self, place: usize, connection: ConnectionId, message: Message) {
        match message {
            Message::Report(report) => self.reported(place, report),
            Message::Nodes { nodes } => self.heard_of(place, nodes),
            Message::Request { id, body } => self.requested(place, connection, id, body),
            Message::Reply { id, result } => self.nodes[place].answered(id, result.into()),
            Message::Refused(refused) => {
                let is_member = self.nodes[place].is_member;
                self.closed(connection, &refused.reason);
                if refused.removed && is_member {
                    self.taken_out();
                }
            }
            Message::Hello(_) | Message::NotUnderstood { .. } => {
                self.nodes[place].counters.not_understood += 1;
            }
        }
    }

    fn reported(&mut self, place: usize, mut report: NodeReport) {
        let node = &mut self.nodes[place];
        let name = node.label();
        report.name.clone_from(&name);
        node.version = Some(report.version.clone());
        if node.report.as_deref() != Some(&report) {
            node.report = Some(Arc::new(report));
            self.change(PeerChange::Reported { name });
        }
    }

    /// A node asks something: what concerns the channel is answered here, the rest by the daemon.
    fn requested(&mut self, place: usize, connection: ConnectionId, id: u64, body: RequestBody) {
        let answer = match body {
            RequestBody::Ping => Ok(ReplyBody::Pong),
            RequestBody::Join { .. } => {
                Err("only a node that says so in its hello can join".to_owned())
            }
            RequestBody::Leave { name } => {
                // The answer goes out before a connection that ends by it.
                self.reply(place, id, Ok(ReplyBody::Done));
                // It may be out already.
                let _ = self.remove(&name);
                return;
            }
            body => match self.pass_on(place, connection, id, body) {
                Ok(()) => return,
                Err(sentence) => Err(sentence),
            },
        };
        self.reply(place, id, answer);
    }

    /// Passes a request on to the daemon.
    fn pass_on(
        &mut self,
        place: usize,
        connection: ConnectionId,
        id: u64,
        body: RequestBody,
    ) -> Result<(), String> {
        let own = &self.settings.name;
        let node = &mut self.nodes[place];
        let limit = time_for(&body);
        let (reply, answer) = oneshot::channel();
        let request = PeerRequest {
            from: node.label(),
            body,
            reply,
        };
        if node.answering >= MAX_ANSWERING || self.requests.try_send(request).is_err() {
            return Err(format!("node {own} is busy: try again in a few seconds"));
        }
        node.answering += 1;
        let events = self.events.0.clone();
        let own = own.clone();
        tokio::spawn(async move {
            let answer = match timeout(limit, answer).await {
                Ok(Ok(answer)) => answer,
                _ => Err(format!("the daemon of node {own} did not carry it out")),
            };
            let event = Event::Answered {
                id: connection,
                request: id,
                answer,
            };
            // The hub may have ended.
            let _ = events.send(event).await;
        });
        Ok(())
    }

    /// The daemon answered a request.
    pub(super) fn answer(&mut self, connection: ConnectionId, request: u64, answer: Answer) {
        if let Some(place) = self.node_of(connection) {
            let node = &mut self.nodes[place];
            node.answering = node.answering.saturating_sub(1);
            self.reply(place, request, answer);
        }
    }

    fn reply(&mut self, place: usize, id: u64, answer: Answer) {
        let mut reply = Message::Reply {
            id,
            result: answer.into(),
        }
        .encode();
        if reply.len() > MAX_MESSAGE {
            let sentence = "the answer is too long for one message to another node".to_owned();
            let result = Err(sentence).into();
            reply = Message::Reply { id, result }.encode();
        }
        self.nodes[place].send(reply.into());
    }
}
