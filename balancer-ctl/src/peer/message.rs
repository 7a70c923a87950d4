//! What nodes say to each other, as JSON. Pure.
//!
//! A node ignores keys that it does not know, and answers messages and requests of a kind that it does not know with "not understood",
//! so that nodes of several versions work together.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::os::printable::printable;

/// Version of the messages: higher ones understand all that lower ones say.
pub const PROTOCOL: u32 = 1;
/// Most reasons in a report.
pub const MAX_REASONS: usize = 10;
/// Longest name of a node in bytes.
pub const MAX_NODE_NAME: usize = 255;
/// Longest text in characters that is shown to people, such as a reason or a version.
const MAX_SHOWN: usize = 500;
/// Most records of nodes in a message: far more than there are nodes, as those that were removed are among them.
pub const MAX_RECORDS: usize = 32;

/// A message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Message {
    /// The first message in each direction.
    Hello(Hello),
    /// The answer to a hello of a node that is not let in; then the connection ends.
    Refused(Refused),
    /// The node's state, at least once a second.
    Report(NodeReport),
    /// Which nodes there are.
    Nodes {
        /// Each node that the sender knows of, itself included, and those that were removed.
        nodes: Vec<NodeRecord>,
    },
    /// Something that the other node shall do or tell.
    Request {
        /// Chosen by the sender, for the reply.
        id: u64,
        /// What it shall do or tell.
        body: RequestBody,
    },
    /// What became of a request.
    Reply {
        /// The request's.
        id: u64,
        /// What was asked for, or a sentence that says why not.
        result: ReplyResult,
    },
    /// A message was of a kind that the sender does not know.
    NotUnderstood {
        /// That kind.
        what: String,
    },
}

/// The first message in each direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The node's name.
    pub name: String,
    /// The version of its daemon.
    pub version: String,
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Drawn when the daemon starts: tells a node that dials twice from two nodes of one name.
    pub instance: u64,
    /// Address and port at which it listens; an unspecified address stands for the one from which it comes.
    #[serde(default)]
    pub address: Option<SocketAddr>,
    /// Whether the node comes to join.
    #[serde(default)]
    pub joining: bool,
}

/// Why a node is not let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// A sentence.
    pub reason: String,
    /// Whether the node was taken out of the cluster, so that it shall forget the others.
    #[serde(default)]
    pub removed: bool,
}

/// A node's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// The version of its daemon.
    pub version: String,
    /// Its part in high availability.
    #[serde(default)]
    pub role: NodeRole,
    /// Whether it could serve.
    #[serde(default)]
    pub ready: bool,
    /// Whether an operator took it out of service.
    #[serde(default)]
    pub maintenance: bool,
    /// Whether all works there.
    #[serde(default)]
    pub overall: NodeOverall,
    /// Why not all works, at most [`MAX_REASONS`].
    #[serde(default)]
    pub reasons: Vec<String>,
    /// Its virtual services.
    #[serde(default)]
    pub services: Vec<ServiceSummary>,
    /// Its virtual routers.
    #[serde(default)]
    pub vrrp: Vec<RouterSummary>,
    /// What it tracks.
    #[serde(default)]
    pub tracked: Vec<TrackedSummary>,
    /// Digest of its services: equal where they are the same.
    #[serde(default)]
    pub services_digest: String,
    /// Digest of its virtual routers, without what may differ between nodes.
    #[serde(default)]
    pub vrrp_digest: String,
}

/// A node's part in high availability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeRole {
    /// It has the VIPs.
    Active,
    /// It takes them when the Active node fails.
    Backup,
    /// It cannot have them.
    Fault,
    /// It has no virtual router.
    Standalone,
    /// A role of a later version.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Whether all works on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeOverall {
    /// All works.
    Running,
    /// It serves, but something is wrong.
    Limited,
    /// A service cannot serve.
    Down,
    /// A state of a later version.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A virtual service in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSummary {
    /// Its name, or its address if it has none.
    pub name: String,
    /// Real servers that serve.
    pub reals_up: u32,
    /// All its real servers.
    pub reals_total: u32,
}

/// A virtual router in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterSummary {
    /// Its name.
    pub name: String,
    /// Its state, in the words of `status`.
    pub state: String,
    /// Its priority at present.
    pub priority: u8,
    /// Its VIPs.
    pub addresses: Vec<String>,
}

/// Something tracked in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedSummary {
    /// What it is.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
}

/// A node in the list of nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name.
    pub name: String,
    /// Address and port at which it listens. An unspecified address stands for the one from which the message came.
    pub address: SocketAddr,
    /// When it was added or removed, in milliseconds since 1970; of two records of one node, the later holds.
    pub stamp: u64,
    /// Whether it was removed.
    #[serde(default)]
    pub removed: bool,
}

/// What a node asks of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum RequestBody {
    /// Answer.
    Ping,
    /// Be ready and take the VIPs over.
    Succeed,
    /// Give the VIPs up.
    GiveUp,
    /// Tell your services, as the text of a configuration.
    Services,
    /// Replace your services by these, all or nothing.
    Push {
        /// The services, as the text of a configuration.
        text: String,
    },
    /// Make this node one of yours.
    Join {
        /// Its name.
        name: String,
        /// Where it listens; an unspecified address stands for the one from which it comes.
        address: SocketAddr,
        /// The stamp of the last record of itself that it knows of: its new one is later.
        #[serde(default)]
        stamp: u64,
    },
    /// Take this node out.
    Leave {
        /// Its name.
        name: String,
    },
}

/// What a node answers to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum ReplyBody {
    /// It is there.
    Pong,
    /// It did what was asked.
    Done,
    /// Its services.
    Services {
        /// As the text of a configuration.
        text: String,
    },
    /// The node is one of the cluster now.
    Joined {
        /// All nodes, the one that joined and the one that answers included.
        nodes: Vec<NodeRecord>,
    },
}

/// A reply: what was asked for, or a sentence that says why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplyResult {
    /// It was done.
    Ok(ReplyBody),
    /// It was not done.
    Error(String),
}

impl From<Result<ReplyBody, String>> for ReplyResult {
    fn from(result: Result<ReplyBody, String>) -> Self {
        match result {
            Ok(body) => Self::Ok(body),
            Err(sentence) => Self::Error(sentence),
        }
    }
}

impl From<ReplyResult> for Result<ReplyBody, String> {
    fn from(result: ReplyResult) -> Self {
        match result {
            ReplyResult::Ok(body) => Ok(body),
            ReplyResult::Error(sentence) => Err(sentence),
        }
    }
}

/// A message as it was received.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// One of this version.
    Known(Box<Message>),
    /// A request of a kind that this version does not know.
    UnknownRequest {
        /// For the reply.
        id: u64,
        /// The kind of the request.
        what: String,
    },
    /// A reply that this version does not understand.
    UnknownReply {
        /// The request's.
        id: u64,
    },
    /// A message of a kind that this version does not know.
    Unknown {
        /// The kind.
        what: String,
    },
}

/// The part of a message that all versions share.
#[derive(Deserialize)]
struct Envelope {
    kind: String,
    #[serde(default)]
    id: u64,
}

/// The kinds that this version knows.
const KINDS: [&str; 7] = [
    "hello",
    "refused",
    "report",
    "nodes",
    "request",
    "reply",
    "not-understood",
];
/// The requests that this version knows.
const REQUESTS: [&str; 7] = [
    "ping", "succeed", "give-up", "services", "push", "join", "leave",
];

impl Message {
    /// The message's JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Cannot fail: all keys are strings.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a message. What of it is shown to people is made printable and cut to a length.
    ///
    /// # Errors
    /// It is not a message of any version.
    pub fn decode(bytes: &[u8]) -> Result<Received, String> {
        let wrong = |error: serde_json::Error| printable(&error.to_string());
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(wrong)?;
        if !KINDS.contains(&envelope.kind.as_str()) {
            return Ok(Received::Unknown {
                what: shown(&envelope.kind),
            });
        }
        match serde_json::from_slice::<Self>(bytes) {
            Ok(message) => Ok(Received::Known(Box::new(message.cleaned()))),
            Err(error) => unknown_part(bytes, &envelope).ok_or_else(|| wrong(error)),
        }
    }

    fn cleaned(self) -> Self {
        match self {
            Self::Hello(hello) => Self::Hello(Hello {
                version: shown(&hello.version),
                ..hello
            }),
            Self::Refused(refused) => Self::Refused(Refused {
                reason: shown(&refused.reason),
                ..refused
            }),
            Self::Report(report) => Self::Report(report.cleaned()),
            Self::Nodes { mut nodes } => {
                nodes.truncate(MAX_RECORDS);
                Self::Nodes { nodes }
            }
            Self::Reply {
                id,
                result: ReplyResult::Error(sentence),
            } => Self::Reply {
                id,
                result: ReplyResult::Error(shown(&sentence)),
            },
            Self::NotUnderstood { what } => Self::NotUnderstood { what: shown(&what) },
            other => other,
        }
    }
}

/// A request or a reply of which only the body is of a later version.
fn unknown_part(bytes: &[u8], envelope: &Envelope) -> Option<Received> {
    #[derive(Deserialize)]
    struct Outer {
        body: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        request: String,
    }
    let id = envelope.id;
    match envelope.kind.as_str() {
        "reply" => Some(Received::UnknownReply { id }),
        "request" => {
            let outer: Outer = serde_json::from_slice(bytes).ok()?;
            let request = outer.body.request;
            (!REQUESTS.contains(&request.as_str())).then(|| Received::UnknownRequest {
                id,
                what: shown(&request),
            })
        }
        _ => None,
    }
}

impl NodeReport {
    /// The report with printable texts of bounded length.
    fn cleaned(mut self) -> Self {
        self.reasons.truncate(MAX_REASONS);
        let routers = self.vrrp.iter_mut();
        let of_routers = routers.flat_map(|router| {
            [&mut router.name, &mut router.state]
                .into_iter()
                .chain(&mut router.addresses)
        });
        let texts = [
            &mut self.name,
            &mut self.version,
            &mut self.services_digest,
            &mut self.vrrp_digest,
        ];
        let texts = texts.into_iter().chain(&mut self.reasons);
        let texts = texts.chain(self.services.iter_mut().map(|service| &mut service.name));
        let texts = texts.chain(self.tracked.iter_mut().map(|tracked| &mut tracked.name));
        for text in texts.chain(of_routers) {
            *text = shown(text);
        }
        self
    }
}

/// A text from elsewhere, as people may be shown it.
fn shown(text: &str) -> String {
    let end = text.char_indices().nth(MAX_SHOWN).map(|(at, _)| at);
    printable(&text[..end.unwrap_or(text.len())])
}

/// Checks a node's name, as another node says it.
///
/// # Errors
/// A sentence: it is no name.
pub fn check_name(name: &str) -> Result<(), String> {
    let wrong =
        |c: char| c.is_whitespace() || printable(c.encode_utf8(&mut [0; 4])).len() > c.len_utf8();
    if name.is_empty() || name.len() > MAX_NODE_NAME || name.chars().any(wrong) {
        return Err(format!(
            "node name `{}` is empty, longer than {MAX_NODE_NAME} bytes or holds spaces",
            shown(name)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
