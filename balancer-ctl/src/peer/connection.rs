//! A connection to another node: how it begins, and the two tasks that read and write it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Answer, PeerSettings,
    admission::HandshakeId,
    key::ClusterKey,
    message::{Hello, Message, NodeRecord, Received, Refused},
    session::{ConnectionId, HANDSHAKE_TIMEOUT},
    socket,
    wire::{self, MessageReader, MessageWriter, WireError},
};

/// Messages that wait to be written.
const MAX_QUEUED: usize = 64;
/// Time within which a message must be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of a connection waits for what was written to arrive.
const LINGER: Duration = Duration::from_secs(1);

/// A message as it is sent.
pub(super) type Encoded = Arc<[u8]>;

/// What the tasks tell the hub.
pub(super) enum Event {
    /// A connection that was accepted is through the handshake, or is not.
    Accepted {
        handshake: HandshakeId,
        source: SocketAddr,
        result: Result<Greeted, Fault>,
    },
    /// The same of a connection that was dialled.
    Dialled {
        target: SocketAddr,
        dial: u64,
        result: Result<Greeted, Fault>,
    },
    /// A part of a long message came.
    Heard(ConnectionId),
    /// A message came.
    Received(ConnectionId, Received),
    /// A connection ended.
    Closed {
        id: ConnectionId,
        reason: String,
        is_garbage: bool,
    },
    /// The daemon answered a request that came on this connection.
    Answered {
        id: ConnectionId,
        request: u64,
        answer: Answer,
    },
    /// A cluster let this node join, or did not.
    Joined(JoinResult),
}

/// Where the answer to joining goes.
pub(super) type JoinReply = oneshot::Sender<Result<Vec<NodeRecord>, String>>;

/// What became of joining.
pub(super) struct JoinResult {
    pub key: ClusterKey,
    pub target: SocketAddr,
    /// The name of the node that took this one in, and all nodes.
    pub result: Result<(String, Vec<NodeRecord>), String>,
    pub reply: JoinReply,
}

/// A connection on which the other side has shown the key and said hello.
pub(super) struct Greeted {
    pub hello: Hello,
    reader: MessageReader<OwnedReadHalf>,
    writer: MessageWriter<OwnedWriteHalf>,
}

/// Why a connection did not come so far.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("it did not answer within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    #[error("it said something else than hello")]
    Garbage,
    #[error("{}", .0.reason)]
    Refused(Refused),
}

/// Shakes hands on an accepted connection, and waits for the hello. The answer to it is the hub's.
pub(super) async fn accept(stream: TcpStream, key: ClusterKey) -> Result<Greeted, Fault> {
    let accepted = async {
        let (mut stream, key) = (stream, key);
        socket::tune(&stream);
        let keys = wire::respond(&mut stream, &key).await?;
        let (reader, writer) = stream.into_split();
        let (mut reader, writer) = keys.attach(reader, writer);
        let hello = read_hello(&mut reader).await?;
        Ok(Greeted {
            hello,
            reader,
            writer,
        })
    };
    timeout(HANDSHAKE_TIMEOUT, accepted)
        .await
        .unwrap_or(Err(Fault::Timeout))
}

/// Connects to a node, shakes hands, says hello and waits for its hello.
pub(super) async fn dial(
    settings: &PeerSettings,
    key: &ClusterKey,
    target: SocketAddr,
    hello: Hello,
) -> Result<Greeted, Fault> {
    let connected = timeout(HANDSHAKE_TIMEOUT, socket::connect(settings, target)).await;
    let mut stream = connected
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(WireError::Io)?;
    let dialled = async {
        socket::tune(&stream);
        let keys = wire::initiate(&mut stream, key)
            .await
            .map_err(|error| match error {
                // Whoever has another key ends the connection without a word.
                WireError::Io(_) => WireError::WrongKey,
                error => error,
            })?;
        let (reader, writer) = stream.into_split();
        let (mut reader, mut writer) = keys.attach(reader, writer);
        writer.write(&Message::Hello(hello).encode()).await?;
        let hello = read_hello(&mut reader).await?;
        Ok(Greeted {
            hello,
            reader,
            writer,
        })
    };
    timeout(HANDSHAKE_TIMEOUT, dialled)
        .await
        .unwrap_or(Err(Fault::Timeout))
}

async fn read_hello(reader: &mut MessageReader<OwnedReadHalf>) -> Result<Hello, Fault> {
    let message = reader.read(|| ()).await?;
    match Message::decode(&message) {
        Ok(Received::Known(message)) => match *message {
            Message::Hello(hello) => Ok(hello),
            Message::Refused(refused) => Err(Fault::Refused(refused)),
            _ => Err(Fault::Garbage),
        },
        _ => Err(Fault::Garbage),
    }
}

impl Greeted {
    /// Sends a message and waits for the next one; for a node that joins.
    pub async fn ask(&mut self, message: &Message) -> Result<Received, Fault> {
        self.reader.allow_long_messages();
        self.writer.write(&message.encode()).await?;
        let answer = self.reader.read(|| ()).await?;
        Message::decode(&answer).map_err(|_| Fault::Garbage)
    }

    /// Says a last message, and ends the connection.
    pub fn end(mut self, message: Message) {
        tokio::spawn(async move {
            let farewell = async {
                self.writer.write(&message.encode()).await?;
                self.writer.close().await?;
                self.reader.discard().await;
                Ok::<_, WireError>(())
            };
            // It may be gone already.
            let _ = timeout(LINGER, farewell).await;
        });
    }

    /// Begins to read and write.
    pub fn start(self, id: ConnectionId, events: &mpsc::Sender<Event>) -> Connection {
        let (queue, queued) = mpsc::channel(MAX_QUEUED);
        let (open, closing) = oneshot::channel();
        tokio::spawn(read(id, self.reader, events.clone(), closing));
        tokio::spawn(write(id, self.writer, events.clone(), queued));
        Connection { queue, _open: open }
    }
}

/// The hub's end of a connection. Dropping it ends the connection after what was queued was sent.
#[derive(Debug)]
pub(super) struct Connection {
    queue: mpsc::Sender<Encoded>,
    _open: oneshot::Sender<()>,
}

impl Connection {
    /// Queues a message; `false` = the other side does not read, or the connection ended.
    pub fn send(&self, message: Encoded) -> bool {
        self.queue.try_send(message).is_ok()
    }
}

/// Reads messages until the connection ends or the hub drops its end.
async fn read(
    id: ConnectionId,
    mut reader: MessageReader<OwnedReadHalf>,
    events: mpsc::Sender<Event>,
    closing: oneshot::Receiver<()>,
) {
    reader.allow_long_messages();
    let messages = async {
        loop {
            let mut is_first = true;
            let read = reader.read(|| {
                if !std::mem::take(&mut is_first) {
                    // The hub is busy otherwise, and the next record is soon here.
                    let _ = events.try_send(Event::Heard(id));
                }
            });
            let received = match read.await {
                Ok(message) => Message::decode(&message),
                Err(error) => break closed(id, &error),
            };
            let event = match received {
                Ok(received) => Event::Received(id, received),
                Err(error) => {
                    break Event::Closed {
                        id,
                        reason: format!("it sent what is no message: {error}"),
                        is_garbage: true,
                    };
                }
            };
            // Without the hub, its end of this connection is dropped too.
            let _ = events.send(event).await;
        }
    };
    tokio::select! {
        _ = closing => {
            // Until the other side has read the last words: with unread bytes here, they might never reach it.
            let _ = timeout(2 * LINGER, reader.discard()).await;
        }
        end = messages => {
            let _ = events.send(end).await;
        }
    }
}

/// Writes what is queued until the connection ends or the hub drops its end.
async fn write(
    id: ConnectionId,
    mut writer: MessageWriter<OwnedWriteHalf>,
    events: mpsc::Sender<Event>,
    mut queued: mpsc::Receiver<Encoded>,
) {
    while let Some(message) = queued.recv().await {
        let event = match timeout(WRITE_TIMEOUT, writer.write(&message)).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => closed(id, &error),
            Err(_) => Event::Closed {
                id,
                reason: "it does not read".to_owned(),
                is_garbage: false,
            },
        };
        let _ = events.send(event).await;
        return;
    }
    let _ = timeout(LINGER, writer.close()).await;
}

fn closed(id: ConnectionId, error: &WireError) -> Event {
    let reason = match error {
        WireError::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "it ended the connection".to_owned()
        }
        error => error.to_string(),
    };
    Event::Closed {
        id,
        reason,
        is_garbage: !matches!(error, WireError::Io(_)),
    }
}
