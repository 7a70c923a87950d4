//! Reads only the head of an HTTP/1.1 answer, for checks that do not look at the body. Most checks are such, and a client
//! that can read bodies of any length and encoding would triple the cost of their probes.

use std::mem::MaybeUninit;

use httparse::{ParserConfig, Status};
use hyper::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{super::tls, MAX_HEAD, ProbeFailure};

/// Most header fields in an answer.
const MAX_FIELDS: usize = 100;
/// Size of the first read in bytes; most heads are shorter.
const FIRST_READ: usize = 1024;

/// A request without a body, as bytes on the wire.
pub fn encode<T>(request: &Request<T>) -> Vec<u8> {
    let mut bytes = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri()).into_bytes();
    for (name, value) in request.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Sends a request and returns the status of its answer.
pub async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &[u8],
) -> Result<StatusCode, ProbeFailure> {
    let sent = async {
        stream.write_all(request).await?;
        stream.flush().await
    };
    sent.await.map_err(|error| tls::failure(&error))?;
    let mut head = Vec::with_capacity(FIRST_READ);
    loop {
        let read = stream.read_buf(&mut head).await;
        if read.map_err(|error| tls::failure(&error))? == 0 {
            return Err("connection closed before the answer was whole".into());
        }
        if let Some(status) = parse_status(&mut head)? {
            return Ok(status);
        }
        if head.len() >= MAX_HEAD {
            return Err(super::too_large());
        }
    }
}

/// The status, once the head is complete; `None` before that. Removes interim answers (1xx, RFC 9110, section 15.2).
fn parse_status(head: &mut Vec<u8>) -> Result<Option<StatusCode>, ProbeFailure> {
    loop {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, head, &mut fields)
            .map_err(|error| match error {
                httparse::Error::TooManyHeaders => super::too_large(),
                _ => super::not_http(),
            })?;
        let (Status::Complete(length), Some(code)) = (parsed, response.code) else {
            return Ok(None);
        };
        let status = StatusCode::from_u16(code).map_err(|_| super::not_http())?;
        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Some(status));
        }
        head.drain(..length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Option<u16>, ProbeFailure> {
        parse_status(&mut text.into()).map(|status| status.map(|status| status.as_u16()))
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
    fn other_protocols_and_too_many_fields_fail() {
        for text in [
            "SSH-2.0-OpenSSH_9.2\r\n",
            "HTTP/2 200\r\n",
            "HTTP/1.1 99 a\r\n\r\n",
            "HTTP/1.1 2000 a\r\n\r\n",
        ] {
            assert_eq!(parsed(text), Err(super::super::not_http()), "{text}");
        }
        let fields = "a: b\r\n".repeat(MAX_FIELDS + 1);
        assert_eq!(
            parsed(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")),
            Err(super::super::too_large())
        );
    }

    #[test]
    fn a_request_is_written_as_it_is_sent() {
        let request = Request::get("/a?b=c")
            .header("Host", "www.example.org")
            .header("X", "1")
            .body(())
            .unwrap();
        assert_eq!(
            encode(&request),
            b"GET /a?b=c HTTP/1.1\r\nhost: www.example.org\r\nx: 1\r\n\r\n"
        );
    }
}
