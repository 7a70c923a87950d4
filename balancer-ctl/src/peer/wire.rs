//! Messages on a connection, encrypted: `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s`, with the cluster's key as pre-shared key.
//!
//! ```text
//!   record:   length (2 bytes, big endian)  Noise message of this length
//!   message:  length (4 bytes, big endian)  JSON of this length; begins a record, and goes on in as many as it needs
//! ```
//!
//! Both sides draw new keys for each connection, so that what was recorded on another one is refused, and records are numbered, so that
//! none is left out, repeated or moved. Before the other side has shown the key, only a handshake of fixed length is read, and before
//! its hello came, only a short message.

use std::{io, sync::Arc};

use snow::{Builder, HandshakeState, StatelessTransportState};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    task::yield_now,
};

use super::key::ClusterKey;

/// Longest message in bytes.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Longest hello in bytes.
pub const MAX_HELLO: usize = 4096;
/// The Noise protocol.
const PROTOCOL: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// What both sides must agree on: this channel's name and the version of its records.
const PROLOGUE: &[u8] = b"balancer peers 1";
/// Length in bytes of what authenticates a record.
const TAG: usize = 16;
/// Length in bytes of both messages of the handshake: a key and a tag.
const HANDSHAKE: usize = 32 + TAG;
/// Longest Noise message in bytes.
const MAX_RECORD: usize = 65_535;
/// Length in bytes of a message's length.
const PREFIX: usize = 4;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection failed or was closed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other side does not have the key.
    #[error("it has another key")]
    WrongKey,
    /// A record was not made with the keys of this connection: it was changed, or recorded on another one.
    #[error("what came was changed on the way, or recorded on another connection")]
    Forged,
    /// A record or message of an impossible length.
    #[error("what came has an impossible length, as no balancer sends it")]
    Length,
    /// A message is longer than allowed.
    #[error("a message is longer than {0} bytes")]
    TooLong(usize),
}

impl From<snow::Error> for WireError {
    fn from(_: snow::Error) -> Self {
        Self::WrongKey
    }
}

/// The keys of a connection after the handshake.
pub struct Keys(Arc<StatelessTransportState>);

impl Keys {
    /// The two ends of a connection.
    pub fn attach<R, W>(self, reader: R, writer: W) -> (MessageReader<R>, MessageWriter<W>) {
        let reader = MessageReader {
            io: reader,
            keys: self.0.clone(),
            next: 0,
            limit: MAX_HELLO,
            record: Vec::new(),
            plain: Vec::new(),
        };
        let writer = MessageWriter {
            io: writer,
            keys: self.0,
            next: 0,
            record: Vec::new(),
        };
        (reader, writer)
    }
}

/// Shakes hands on a connection that this node dialled.
///
/// # Errors
/// The other side does not have the key, or the connection failed.
pub async fn initiate<S>(stream: &mut S, key: &ClusterKey) -> Result<Keys, WireError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut state = builder(key)?.build_initiator()?;
    write_handshake(stream, &mut state).await?;
    read_handshake(stream, &mut state).await?;
    Ok(Keys(Arc::new(state.into_stateless_transport_mode()?)))
}

/// Shakes hands on a connection that another node dialled.
///
/// # Errors
/// The other side does not have the key, or the connection failed.
pub async fn respond<S>(stream: &mut S, key: &ClusterKey) -> Result<Keys, WireError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut state = builder(key)?.build_responder()?;
    read_handshake(stream, &mut state).await?;
    write_handshake(stream, &mut state).await?;
    Ok(Keys(Arc::new(state.into_stateless_transport_mode()?)))
}

fn builder(key: &ClusterKey) -> Result<Builder<'_>, WireError> {
    let parameters = PROTOCOL.parse()?;
    Ok(Builder::new(parameters)
        .psk(0, key.bytes())?
        .prologue(PROLOGUE)?)
}

async fn write_handshake<S>(stream: &mut S, state: &mut HandshakeState) -> Result<(), WireError>
where
    S: AsyncWrite + Unpin,
{
    let mut record = [0; 2 + HANDSHAKE];
    let length = state.write_message(&[], &mut record[2..])?;
    record[..2].copy_from_slice(&length_of(length).to_be_bytes());
    stream.write_all(&record[..2 + length]).await?;
    stream.flush().await?;
    Ok(())
}

async fn read_handshake<S>(stream: &mut S, state: &mut HandshakeState) -> Result<(), WireError>
where
    S: AsyncRead + Unpin,
{
    if usize::from(stream.read_u16().await?) != HANDSHAKE {
        return Err(WireError::Length);
    }
    let mut record = [0; HANDSHAKE];
    stream.read_exact(&mut record).await?;
    state.read_message(&record, &mut [])?;
    Ok(())
}

/// The length of a record as it is sent; no record is longer than [`MAX_RECORD`].
fn length_of(record: usize) -> u16 {
    u16::try_from(record).unwrap_or(u16::MAX)
}

/// Sends messages.
pub struct MessageWriter<W> {
    io: W,
    keys: Arc<StatelessTransportState>,
    /// Number of the next record.
    next: u64,
    record: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> MessageWriter<W> {
    /// Sends a message of at most [`MAX_MESSAGE`] bytes.
    ///
    /// # Errors
    /// The connection failed, or the message is too long.
    pub async fn write(&mut self, message: &[u8]) -> Result<(), WireError> {
        if message.len() > MAX_MESSAGE {
            return Err(WireError::TooLong(MAX_MESSAGE));
        }
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let room = MAX_RECORD - TAG;
        let (first, rest) = message.split_at(message.len().min(room - PREFIX));
        self.write_record(&[&length.to_be_bytes()[..], first].concat())
            .await?;
        for part in rest.chunks(room) {
            self.write_record(part).await?;
        }
        self.io.flush().await?;
        Ok(())
    }

    async fn write_record(&mut self, plain: &[u8]) -> Result<(), WireError> {
        self.record.resize(2 + plain.len() + TAG, 0);
        let length = self
            .keys
            .write_message(self.next, plain, &mut self.record[2..])
            .map_err(|_| WireError::Length)?;
        self.next += 1;
        self.record[..2].copy_from_slice(&length_of(length).to_be_bytes());
        self.io.write_all(&self.record).await?;
        // A long message keeps nobody else waiting while it is encrypted.
        yield_now().await;
        Ok(())
    }

    /// Ends the connection in order.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn close(&mut self) -> Result<(), WireError> {
        Ok(self.io.shutdown().await?)
    }
}

/// Receives messages.
pub struct MessageReader<R> {
    io: R,
    keys: Arc<StatelessTransportState>,
    /// Number of the next record.
    next: u64,
    limit: usize,
    record: Vec<u8>,
    plain: Vec<u8>,
}

impl<R: AsyncRead + Unpin> MessageReader<R> {
    /// Lets messages of up to [`MAX_MESSAGE`] bytes come; before, they have at most [`MAX_HELLO`].
    pub const fn allow_long_messages(&mut self) {
        self.limit = MAX_MESSAGE;
    }

    /// Receives a message; `progress` is called after each of its records. What was read is lost if the caller stops waiting.
    ///
    /// # Errors
    /// The connection failed, or what came is no message.
    pub async fn read(&mut self, mut progress: impl FnMut()) -> Result<Vec<u8>, WireError> {
        self.read_record(PREFIX + self.limit).await?;
        progress();
        let Some((length, first)) = self.plain.split_first_chunk::<PREFIX>() else {
            return Err(WireError::Length);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > self.limit {
            return Err(WireError::TooLong(self.limit));
        }
        // Grows with what comes, not with what is announced.
        let mut message = first.to_vec();
        while message.len() < length {
            self.read_record(length - message.len()).await?;
            progress();
            message.extend_from_slice(&self.plain);
        }
        if message.len() > length {
            return Err(WireError::Length);
        }
        Ok(message)
    }

    /// Reads and forgets everything until the other side ends the connection.
    pub async fn discard(&mut self) {
        self.record.resize(MAX_HELLO, 0);
        while self
            .io
            .read(&mut self.record)
            .await
            .is_ok_and(|read| read > 0)
        {}
    }

    /// Receives a record of at most `limit` bytes of text into `plain`.
    async fn read_record(&mut self, limit: usize) -> Result<(), WireError> {
        let length = usize::from(self.io.read_u16().await?);
        if length <= TAG || length > limit.saturating_add(TAG) {
            return Err(WireError::Length);
        }
        self.record.resize(length, 0);
        self.plain.resize(length - TAG, 0);
        self.io.read_exact(&mut self.record).await?;
        let read = self
            .keys
            .read_message(self.next, &self.record, &mut self.plain)
            .map_err(|_| WireError::Forged)?;
        self.next += 1;
        self.plain.truncate(read);
        yield_now().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
