//! gRPC checks: `grpc.health.v1.Health/Check`, one HTTP/2 request with one small message each way.

use h2::{RecvStream, client};
use hyper::{
    HeaderMap, Method, Request, Response,
    body::{Buf as _, Bytes},
    header::{self, HeaderValue},
};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Passed, ProbeFailure,
    drive_connection::drive_connection,
    http2::{failure, handshake, head_failure, read_start},
    socket::{ConnectMode, Endpoint, in_url},
    text,
    tls::{Alpn, TlsClient},
};
use crate::model::check::GrpcProbe;

/// A gRPC health probe.
#[derive(Debug)]
pub struct Grpc {
    endpoint: Endpoint,
    encryption: Option<TlsClient>,
    request: Request<()>,
    message: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

impl Grpc {
    pub fn new(endpoint: Endpoint, probe: &GrpcProbe) -> Result<Self, String> {
        let address = endpoint.target().ip();
        let name = probe.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let host = name.unwrap_or_else(|| in_url(address));
        let encryption = probe
            .tls
            .as_ref()
            .map(|tls| TlsClient::new(tls, &address.to_string(), Alpn::Http2))
            .transpose()?;
        let scheme = if encryption.is_some() {
            "https"
        } else {
            "http"
        };
        let port = endpoint.target().port();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!(
                "{scheme}://{host}:{port}/grpc.health.v1.Health/Check"
            ))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(
                header::USER_AGENT,
                concat!("balancer/", env!("CARGO_PKG_VERSION")),
            )
            .body(())
            .map_err(|error| format!("`{host}` cannot be asked: {error}"))?;
        let service = probe.service.clone();
        Ok(Self {
            endpoint,
            encryption,
            request,
            message: encode_frame(&HealthCheckRequest { service }),
        })
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let stream = self.endpoint.connect(ConnectMode::ClientFirst).await?;
        match &self.encryption {
            None => self.request_over(stream).await,
            Some(encryption) => {
                self.request_over(encryption.handshake(stream, Alpn::Http2).await?)
                    .await
            }
        }
    }

    async fn request_over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<Passed, ProbeFailure> {
        let (sender, connection) = handshake(stream).await?;
        drive_connection(connection, self.exchange(sender)).await
    }

    async fn exchange(
        &self,
        mut sender: client::SendRequest<Bytes>,
    ) -> Result<Passed, ProbeFailure> {
        let (response, mut body) = sender
            .send_request(self.request.clone(), false)
            .map_err(|error| failure(&error))?;
        body.send_data(self.message.clone(), true)
            .map_err(|error| failure(&error))?;
        check_response(response.await.map_err(|error| head_failure(&error))?).await
    }
}

async fn check_response(response: Response<RecvStream>) -> Result<Passed, ProbeFailure> {
    let status = response.status();
    if status != 200 {
        return Err(format!("http {}, wanted gRPC's 200", status.as_u16()).into());
    }
    // A call that failed at once has its status in the header fields and no body.
    call_status(response.headers())?;
    let (message, trailers) = message_and_trailers(response.into_body()).await?;
    match trailers {
        Some(trailers) => call_status(&trailers)?,
        None if message.is_empty() => return Err("the answer is not gRPC".into()),
        None => {}
    }
    match decode_frame(&message).and_then(|status| ServingStatus::try_from(status).ok()) {
        Some(ServingStatus::Serving) => Ok(Passed::new("grpc SERVING")),
        Some(ServingStatus::NotServing) => Err("grpc NOT_SERVING".into()),
        Some(ServingStatus::Unknown) => Err("grpc UNKNOWN".into()),
        Some(ServingStatus::ServiceUnknown) => Err("grpc SERVICE_UNKNOWN".into()),
        None => Err("the answer is no gRPC health status".into()),
    }
}

async fn message_and_trailers(
    mut body: RecvStream,
) -> Result<(Vec<u8>, Option<HeaderMap>), ProbeFailure> {
    let message = read_start(&mut body).await?;
    let trailers = body.trailers().await.map_err(|error| failure(&error))?;
    Ok((message, trailers))
}

/// Fails unless the status of the call, in header or trailer fields, is 0 or absent.
fn call_status(fields: &HeaderMap) -> Result<(), ProbeFailure> {
    let Some(status) = fields.get("grpc-status") else {
        return Ok(());
    };
    let name = match status.as_bytes() {
        b"0" => return Ok(()),
        b"5" => "NOT_FOUND (it does not know the service)",
        b"7" => "PERMISSION_DENIED",
        b"12" => "UNIMPLEMENTED (it has no health service)",
        b"14" => "UNAVAILABLE",
        b"16" => "UNAUTHENTICATED",
        number => return Err(format!("grpc status {}", text::quoted(number)).into()),
    };
    let message = fields.get("grpc-message").map(HeaderValue::as_bytes);
    let message = percent_encoding::percent_decode(message.unwrap_or_default()).collect::<Vec<_>>();
    match text::first_line(&message) {
        Some(message) => Err(format!("grpc {name}: {message}").into()),
        None => Err(format!("grpc {name}").into()),
    }
}

/// A gRPC frame: one byte that says it is not compressed, the length in 4 bytes (big endian), the message.
fn encode_frame(message: &HealthCheckRequest) -> Bytes {
    let message = message.encode_to_vec();
    let mut frame = Vec::with_capacity(5 + message.len());
    frame.push(0);
    // A service's name is shorter than 4 GiB.
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

fn decode_frame(mut frame: &[u8]) -> Option<i32> {
    if frame.len() < 5 || frame.get_u8() != 0 {
        return None;
    }
    let length = usize::try_from(frame.get_u32()).ok()?;
    let message = HealthCheckResponse::decode(frame.get(..length)?).ok()?;
    Some(message.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_protocol_has_them() {
        let request = |service: &str| {
            encode_frame(&HealthCheckRequest {
                service: service.into(),
            })
        };
        assert_eq!(request(""), [0; 5].as_slice());
        assert_eq!(request("ab"), b"\0\0\0\0\x04\x0a\x02ab".as_slice());
        assert_eq!(decode_frame(b"\0\0\0\0\x02\x08\x01"), Some(1));
        assert_eq!(decode_frame(b"\0\0\0\0\0"), Some(0));
        assert_eq!(decode_frame(b"\x01\0\0\0\x02\x08\x01"), None, "compressed");
        assert_eq!(decode_frame(b"\0\0\0\0\x03\x08\x01"), None, "cut");
        assert_eq!(decode_frame(b"\0\0\0"), None);
        assert_eq!(decode_frame(b""), None);
    }

    proptest::proptest! {
        #[test]
        fn any_frame_is_read_or_refused(
            frame in crate::os::fuzz::bytes(&[b"\0\0\0\0\x02\x08\x01", b"\0\0\0\0\0"]),
        ) {
            let length = frame.get(1..5).map_or(0, |length| {
                length.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
            });
            let message = frame.get(5..).and_then(|message| message.get(..length));
            let expected = message
                .filter(|_| frame[0] == 0)
                .and_then(|message| HealthCheckResponse::decode(message).ok());
            proptest::prop_assert_eq!(decode_frame(&frame), expected.map(|message| message.status));
        }
    }
}
