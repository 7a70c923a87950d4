//! The head of an HTTP/1.1 answer: its status, and how its body is framed.

use std::{io, mem::MaybeUninit};

use httparse::{Header, ParserConfig, Status};
use hyper::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{
    super::{text, tls},
    MAX_HEAD, ProbeFailure,
    body::{Framing, Http1Body},
};

/// So many header fields are read without more memory; most answers have fewer.
const USUAL_FIELDS: usize = 100;
/// Most header fields in a head of [`MAX_HEAD`] bytes: each has a name of one byte, a colon and the end of a line.
const MAX_FIELDS: usize = MAX_HEAD / 3;
/// Size of the first read in bytes; most heads are shorter.
const FIRST_READ: usize = 1024;

/// A request as bytes on the wire.
pub fn encode<T>(request: &Request<T>, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri()).into_bytes();
    for (name, value) in request.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// An answer whose head is complete.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// How its body is framed, if it has one.
    framing: Framing,
    /// What was read behind the head.
    rest: Vec<u8>,
    /// Why the request could not be sent, if so.
    unsent: Option<io::Error>,
}

impl Answer {
    /// The body, which is empty after some requests and with some statuses, whatever the head says (RFC 9112, section
    /// 6.3).
    pub fn body<S>(self, stream: &mut S, is_head: bool) -> Http1Body<'_, S> {
        let is_empty = is_head || matches!(self.status.as_u16(), 101 | 204 | 304);
        Http1Body {
            stream,
            input: self.rest,
            used: 0,
            framing: if is_empty {
                Framing::Length(0)
            } else {
                self.framing
            },
            unsent: self.unsent,
        }
    }
}

/// Sends a request and reads the head of its answer. What was read counts before an error: a server may answer and close
/// the connection without having read.
pub async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
) -> Result<Answer, ProbeFailure> {
    let sent = async {
        stream.write_all(request).await?;
        stream.flush().await
    };
    let unsent = sent.await.err();
    let mut rest = Vec::with_capacity(FIRST_READ);
    loop {
        match stream.read_buf(&mut rest).await {
            Ok(0) => {
                return Err(unsent.map_or_else(super::closed_early, |error| tls::failure(&error)));
            }
            Ok(_) => {}
            Err(error) => return Err(tls::failure(&error)),
        }
        if let Some((status, framing)) = parse(&mut rest)? {
            return Ok(Answer {
                status,
                framing,
                rest,
                unsent,
            });
        }
        if rest.len() >= MAX_HEAD {
            return Err(super::too_large());
        }
    }
}

/// Removes the head, once it is complete; `None` before that. Removes interim answers (1xx, RFC 9110, section 15.2), too.
fn parse(input: &mut Vec<u8>) -> Result<Option<(StatusCode, Framing)>, ProbeFailure> {
    loop {
        let mut fields = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
        let head = match parse_with(input, &mut fields) {
            Err(httparse::Error::TooManyHeaders) => {
                parse_with(input, &mut Box::new_uninit_slice(MAX_FIELDS))
            }
            head => head,
        };
        let head = head.map_err(|error| match error {
            httparse::Error::TooManyHeaders => super::too_large(),
            _ => super::not_http(),
        })?;
        let Status::Complete(Head {
            length,
            code,
            framing,
        }) = head
        else {
            return Ok(None);
        };
        if length > MAX_HEAD {
            return Err(super::too_large());
        }
        let status = StatusCode::from_u16(code).map_err(|_| super::not_http())?;
        input.drain(..length);
        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Some((status, framing?)));
        }
    }
}

/// A complete head.
struct Head {
    length: usize,
    code: u16,
    framing: Result<Framing, ProbeFailure>,
}

fn parse_with<'a>(
    input: &'a [u8],
    fields: &mut [MaybeUninit<Header<'a>>],
) -> httparse::Result<Head> {
    let mut response = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default()
        // Folded fields: each fold counts as a space (RFC 9112, section 5.2).
        .allow_obsolete_multiline_headers_in_responses(true)
        .parse_response_with_uninit_headers(&mut response, input, fields)?;
    Ok(match (parsed, response.code) {
        (Status::Complete(length), Some(code)) => Status::Complete(Head {
            length,
            code,
            framing: framing(response.headers),
        }),
        _ => Status::Partial,
    })
}

/// How the body behind these fields is framed (RFC 9112, section 6.3).
fn framing(fields: &[Header<'_>]) -> Result<Framing, ProbeFailure> {
    // The elements of a field that is a list (RFC 9110, section 5.6.1); a fold is white space, too.
    let elements = |name: &'static str| {
        fields
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .flat_map(|field| field.value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
    };
    let mut length = None;
    for element in elements("content-length") {
        let is_number = !element.is_empty() && element.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(element).ok().filter(|_| is_number);
        let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) else {
            let element = text::quoted(element);
            return Err(format!("the answer's Content-Length is {element:?}").into());
        };
        match length {
            Some(before) if before != number => {
                return Err(
                    format!("the answer's Content-Length is {before}, and then {number}").into(),
                );
            }
            _ => length = Some(number),
        }
    }
    let coding = elements("transfer-encoding").next_back();
    Ok(match (coding, length) {
        (Some(coding), _) if coding.eq_ignore_ascii_case(b"chunked") => {
            Framing::ChunkSize { is_first: true }
        }
        (None, Some(length)) => Framing::Length(length),
        _ => Framing::UntilClose,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Option<u16>, ProbeFailure> {
        parse(&mut text.into()).map(|head| head.map(|(status, _)| status.as_u16()))
    }

    fn framed(fields: &str) -> Result<Framing, ProbeFailure> {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        parse(&mut head.into()).map(|head| head.expect("a whole head").1)
    }

    #[test]
    fn a_status_is_returned_once_the_head_is_complete() {
        let whole = "HTTP/1.1 204 No Content\r\nServer: a\r\n\r\n";
        for length in 0..whole.len() {
            assert_eq!(parsed(&whole[..length]), Ok(None), "{length}");
        }
        assert_eq!(parsed(whole), Ok(Some(204)));
        assert_eq!(parsed(&format!("{whole}body")), Ok(Some(204)));
        assert_eq!(parsed("HTTP/1.0 503 \r\n\r\n"), Ok(Some(503)));
    }

    #[test]
    fn interim_answers_are_skipped() {
        let announced =
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(parsed(announced), Ok(None));
        assert_eq!(
            parsed(&format!("{announced}HTTP/1.1 200 OK\r\n\r\n")),
            Ok(Some(200))
        );
        assert_eq!(
            parsed("HTTP/1.1 101 Switching Protocols\r\n\r\n"),
            Ok(Some(101))
        );
    }

    #[test]
    fn other_protocols_fail() {
        for text in [
            "SSH-2.0-OpenSSH_9.2\r\n",
            "HTTP/2 200\r\n",
            "HTTP/1.1 99 a\r\n\r\n",
            "HTTP/1.1 2000 a\r\n\r\n",
        ] {
            assert_eq!(parsed(text), Err(super::super::not_http()), "{text}");
        }
    }

    #[test]
    fn fields_are_limited_by_their_bytes_and_not_by_their_number() {
        for (fields, answer) in [
            ("a: b\r\n".repeat(120), Ok(Some(200))),
            ("a:\n".repeat(MAX_HEAD / 3 - 10), Ok(Some(200))),
            ("a:\n".repeat(MAX_HEAD), Err(super::super::too_large())),
            (
                format!("a: {}\r\n", "b".repeat(MAX_HEAD)),
                Err(super::super::too_large()),
            ),
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert_eq!(parsed(&head), answer, "{} bytes", head.len());
        }
    }

    #[test]
    fn a_folded_field_is_one_field() {
        assert_eq!(
            framed("X: a,\r\n  b\r\nContent-Length:\r\n\t5\r\n"),
            Ok(Framing::Length(5))
        );
    }

    #[test]
    fn the_head_says_where_the_body_ends() {
        let chunked = Framing::ChunkSize { is_first: true };
        for (fields, expected) in [
            ("", Framing::UntilClose),
            ("Content-Length: 5\r\n", Framing::Length(5)),
            (
                "Content-Length: 5, 5\r\ncontent-length: 05\r\n",
                Framing::Length(5),
            ),
            ("Transfer-Encoding: gzip, Chunked\r\n", chunked),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                chunked,
            ),
            ("Transfer-Encoding: chunked, gzip\r\n", Framing::UntilClose),
            (
                "Transfer-Encoding: gzip\r\nContent-Length: 5\r\n",
                Framing::UntilClose,
            ),
        ] {
            assert_eq!(framed(fields), Ok(expected), "{fields:?}");
        }
        for (fields, reason) in [
            (
                "Content-Length: -5\r\n",
                "the answer's Content-Length is \"-5\"",
            ),
            (
                "Content-Length: +5\r\n",
                "the answer's Content-Length is \"+5\"",
            ),
            (
                "Content-Length: x\r\n",
                "the answer's Content-Length is \"x\"",
            ),
            ("Content-Length:\r\n", "the answer's Content-Length is \"\""),
            (
                "Content-Length: 99999999999999999999\r\n",
                "the answer's Content-Length is \"99999999999999999999\"",
            ),
            (
                "Content-Length: 5\r\nContent-Length: 7\r\n",
                "the answer's Content-Length is 5, and then 7",
            ),
        ] {
            assert_eq!(framed(fields), Err(reason.into()), "{fields:?}");
        }
    }

    #[test]
    fn a_request_is_written_as_it_is_sent() {
        let request = Request::get("/a?b=c")
            .header("Host", "www.example.org")
            .header("X", "1")
            .body(())
            .unwrap();
        assert_eq!(
            encode(&request, b""),
            b"GET /a?b=c HTTP/1.1\r\nhost: www.example.org\r\nx: 1\r\n\r\n"
        );
    }
}
