//! Searches the body of an answer while it arrives.
//!
//! A body is whole at its end as its framing says (RFC 9112, section 6.3); one without a length when the connection is
//! closed in order. What has arrived of a body that ends otherwise, by a reset or behind TLS without `close_notify`, is
//! searched first: as if it were whole if it has no length, else for matches that nothing behind them can undo. If the pattern
//! is not in it, the probe fails with what ended the connection.

use std::{io, ops::Range};

use futures_util::FutureExt as _;
use httparse::Status;
use hyper::body::Bytes;
use regex::bytes::Regex;
use regex_syntax::hir::Look;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::{Instant, timeout_at},
};

use super::{
    super::{ProbeFailure, text, tls},
    MAX_HEAD, closed_early, not_http,
};
use crate::model::check::{MAX_BODY, Pattern};

/// Bytes per read.
const READ_BYTES: usize = 8192;

/// A body that arrives piece by piece.
pub trait Body {
    /// The next piece; `None` once the body is whole. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Option<Result<Bytes, ProbeFailure>>> + Send;

    /// What shows that it is whole.
    fn end(&self) -> BodyEnd;
}

/// What shows that a body is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// The length in the head.
    Length,
    /// The last chunk or frame.
    Mark,
    /// That the connection is closed in order.
    Close,
}

/// The pattern that a body must match.
#[derive(Debug)]
pub struct BodyPattern {
    regex: Regex,
    /// Whether a match may depend on what follows it, as with `$`.
    looks_ahead: bool,
}

impl BodyPattern {
    pub fn new(pattern: &Pattern) -> Self {
        let mut parser = regex_syntax::ParserBuilder::new().utf8(false).build();
        let looks_ahead = parser.parse(pattern.as_str()).map_or(true, |parsed| {
            let mut looks = parsed.properties().look_set().iter();
            looks.any(|look| !matches!(look, Look::Start | Look::StartLF))
        });
        Self {
            regex: pattern.compiled(),
            looks_ahead,
        }
    }

    /// Whether it matches the beginning of a body, and whatever follows cannot change that.
    fn matches_beginning(&self, body: &[u8]) -> bool {
        match self.looks_ahead {
            false => self.regex.is_match(body),
            true => matches!(self.regex.find(body), Some(found) if found.end() < body.len()),
        }
    }

    /// Whether it matches what has come of a body, as if nothing followed where that `may_be_all`.
    fn matches(&self, body: &[u8], may_be_all: bool) -> bool {
        match may_be_all {
            true => self.regex.is_match(body),
            false => self.matches_beginning(body),
        }
    }
}

/// Reads a body until the pattern matches, which is tried whenever no more data is available. A pattern that looks at what
/// follows its match is tried at the end of the body, or at `until` unless a length says that more is to follow.
///
/// # Errors
/// The pattern is not in the body, of which only the first [`MAX_BODY`] bytes are looked at, or the body does not end as it
/// should.
pub async fn search(
    body: &mut (impl Body + Send),
    pattern: &BodyPattern,
    until: Instant,
) -> Result<(), ProbeFailure> {
    let mut start = Vec::new();
    while start.len() < MAX_BODY {
        let piece = match body.next().now_or_never() {
            Some(piece) => piece,
            None if pattern.matches_beginning(&start) => return Ok(()),
            None => match timeout_at(until, body.next()).await {
                Ok(piece) => piece,
                Err(_) if pattern.matches(&start, body.end() != BodyEnd::Length) => return Ok(()),
                Err(_) => body.next().await,
            },
        };
        match piece {
            None => break,
            Some(Ok(piece)) => start.extend_from_slice(&piece),
            Some(Err(failure)) => {
                // Where something was to follow, it could undo the match.
                return match pattern.matches(&start, body.end() == BodyEnd::Close) {
                    true => Ok(()),
                    false => Err(failure),
                };
            }
        }
    }
    let is_cut = start.len() >= MAX_BODY;
    start.truncate(MAX_BODY);
    if pattern.regex.is_match(&start) {
        return Ok(());
    }
    let pattern = text::quoted(pattern.regex.as_str().as_bytes());
    let part = if is_cut { " (first 256 KiB)" } else { "" };
    Err(format!("body does not match /{pattern}/{part}").into())
}

/// The body of an HTTP/1.1 answer.
pub struct Http1Body<'a, S> {
    pub stream: &'a mut S,
    /// What was read and not yet returned, behind the first `used` bytes.
    pub input: Vec<u8>,
    pub used: usize,
    pub framing: Framing,
    /// Why the request could not be sent, if so.
    pub unsent: Option<io::Error>,
}

impl<S: AsyncRead + Unpin + Send> Body for Http1Body<'_, S> {
    async fn next(&mut self) -> Option<Result<Bytes, ProbeFailure>> {
        loop {
            match self.framing.piece(&self.input[self.used..]) {
                Ok(Piece::End) => return None,
                Ok(Piece::Data(data)) => {
                    let data = self.used + data.start..self.used + data.end;
                    self.used = data.end;
                    return Some(Ok(Bytes::copy_from_slice(&self.input[data])));
                }
                Ok(Piece::Missing) => {}
                Err(failure) => return Some(Err(failure)),
            }
            self.input.drain(..self.used);
            self.used = 0;
            self.input.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return self.closed().map(Err),
                Ok(_) => {}
                Err(error) => return Some(Err(tls::failure(&error))),
            }
        }
    }

    fn end(&self) -> BodyEnd {
        match self.framing {
            Framing::Length(_) => BodyEnd::Length,
            Framing::ChunkSize { .. } | Framing::Chunk(_) => BodyEnd::Mark,
            Framing::UntilClose => BodyEnd::Close,
        }
    }
}

impl<S> Http1Body<'_, S> {
    /// What is wrong with a body behind which the connection is closed.
    fn closed(&mut self) -> Option<ProbeFailure> {
        match (self.unsent.take(), self.framing) {
            (Some(error), _) => Some(tls::failure(&error)),
            (None, Framing::UntilClose) => None,
            (None, _) => Some(closed_early()),
        }
    }
}

/// Where the next bytes of a body are, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// A chunk's size comes next, behind the end of the chunk before unless it is the first (RFC 9112, section 7.1).
    ChunkSize { is_first: bool },
    /// So many bytes of a chunk are left.
    Chunk(u64),
    /// The body ends with the connection.
    UntilClose,
}

/// What bytes of a body's framing are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// The body was whole before them.
    End,
    /// These are of the body, and those before them are used up.
    Data(Range<usize>),
    /// Too few to tell.
    Missing,
}

impl Framing {
    /// Finds the next piece, and goes on to what is behind it.
    fn piece(&mut self, input: &[u8]) -> Result<Piece, ProbeFailure> {
        let take = |left: u64, start: usize| {
            let available = input.len() - start;
            start..start + usize::try_from(left).map_or(available, |left| left.min(available))
        };
        match *self {
            Self::Length(0) => Ok(Piece::End),
            _ if input.is_empty() => Ok(Piece::Missing),
            Self::UntilClose => Ok(Piece::Data(0..input.len())),
            Self::Length(left) => {
                let data = take(left, 0);
                *self = Self::Length(left - data.len() as u64);
                Ok(Piece::Data(data))
            }
            Self::Chunk(left) => Ok(self.chunk(left, take(left, 0))),
            Self::ChunkSize { is_first } => match chunk_size(input, is_first)? {
                None => Ok(Piece::Missing),
                // Trailer fields behind the last chunk do not matter.
                Some((_, 0)) => Ok(Piece::End),
                Some((start, size)) => Ok(self.chunk(size, take(size, start))),
            },
        }
    }

    fn chunk(&mut self, left: u64, data: Range<usize>) -> Piece {
        *self = match left - data.len() as u64 {
            0 => Self::ChunkSize { is_first: false },
            left => Self::Chunk(left),
        };
        Piece::Data(data)
    }
}

/// Where a chunk's data begin and how many bytes they are; `None` until the line of the size is complete.
fn chunk_size(input: &[u8], is_first: bool) -> Result<Option<(usize, u64)>, ProbeFailure> {
    let before: &[u8] = if is_first { b"" } else { b"\r\n" };
    let Some(line) = input.strip_prefix(before) else {
        return match before.starts_with(input) {
            true => Ok(None),
            false => Err(not_http()),
        };
    };
    if line.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) {
        return Err(not_http());
    }
    match httparse::parse_chunk_size(line) {
        Ok(Status::Complete((length, size))) => Ok(Some((before.len() + length, size))),
        Ok(Status::Partial) if line.len() < MAX_HEAD => Ok(None),
        _ => Err(not_http()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body in these bytes, and whether it is whole.
    fn read(mut framing: Framing, mut input: &[u8]) -> Result<(Vec<u8>, bool), ProbeFailure> {
        let mut body = Vec::new();
        loop {
            match framing.piece(input)? {
                Piece::End => return Ok((body, true)),
                Piece::Missing => return Ok((body, false)),
                Piece::Data(data) => {
                    body.extend_from_slice(&input[data.clone()]);
                    input = &input[data.end..];
                }
            }
        }
    }

    const CHUNKED: Framing = Framing::ChunkSize { is_first: true };

    #[test]
    fn chunks_are_joined() {
        let all = b"3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\nTrailer: a\r\n\r\n";
        assert_eq!(read(CHUNKED, all), Ok((b"abc0123456789".to_vec(), true)));
        for length in 0..all.len() - 16 {
            let (body, is_whole) = read(CHUNKED, &all[..length]).unwrap();
            assert!(b"abc0123456789".starts_with(&body), "{length}");
            assert!(!is_whole, "{length}");
        }
        for wrong in [
            "x\r\n",
            "\r\n",
            ";\r\n",
            "1\r\nabc",
            "1\r\na\n",
            "11111111111111111\r\n",
        ] {
            assert_eq!(read(CHUNKED, wrong.as_bytes()), Err(not_http()), "{wrong}");
        }
        let endless = [b"1;".to_vec(), vec![b'x'; MAX_HEAD]].concat();
        assert_eq!(read(CHUNKED, &endless), Err(not_http()));
    }

    #[test]
    fn a_length_ends_a_body() {
        assert_eq!(read(Framing::Length(2), b"abc"), Ok((b"ab".to_vec(), true)));
        assert_eq!(
            read(Framing::Length(4), b"abc"),
            Ok((b"abc".to_vec(), false))
        );
        assert_eq!(read(Framing::Length(0), b"abc"), Ok((Vec::new(), true)));
        assert_eq!(
            read(Framing::UntilClose, b"abc"),
            Ok((b"abc".to_vec(), false))
        );
    }

    #[test]
    fn a_match_is_final_unless_what_follows_may_undo_it() {
        for (pattern, body, is_final) in [
            ("ok", "ok", true),
            ("^ok", "ok", true),
            ("^ok$", "ok", false),
            ("^ok$", "okay", false),
            (r"ok\b", "ok", false),
            (r"ok\b", "ok ", true),
            ("(?m)^ok$", "ok", false),
            ("(?m)^ok$", "ok\n", true),
            ("ok", "o", false),
        ] {
            let pattern = BodyPattern::new(&Pattern::new(pattern).unwrap());
            let found = pattern.matches_beginning(body.as_bytes());
            assert_eq!(found, is_final, "{pattern:?} {body:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn chunks_are_read_the_same_however_they_arrive(
            input in crate::os::fuzz::bytes(&[b"3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n"]),
        ) {
            let mut framing = CHUNKED;
            let mut pieces = Vec::new();
            let (mut used, mut result) = (0, Ok(false));
            for end in 0..=input.len() {
                loop {
                    match framing.piece(&input[used..end]) {
                        Ok(Piece::Data(data)) => {
                            pieces.extend_from_slice(&input[used + data.start..used + data.end]);
                            used += data.end;
                        }
                        Ok(Piece::Missing) => break,
                        Ok(Piece::End) => { result = Ok(true); break }
                        Err(failure) => { result = Err(failure); break }
                    }
                }
                if result != Ok(false) {
                    break;
                }
            }
            let whole = read(CHUNKED, &input);
            proptest::prop_assert_eq!(result.map(|is_whole| (pieces, is_whole)), whole);
        }
    }
}
