//! Accepts clients and limits how many are served at the same time, how long a request may take to arrive, and how large it may
//! be.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{Method, StatusCode, header::CONTENT_LENGTH},
    middleware::Next,
    response::Response,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::refusal::refuse;
use crate::os::{
    clock,
    log_rate_limit::{LogRateLimit, MAX_BY_STRANGERS},
};

/// Largest body of a request, in bytes.
pub const MAX_BODY: usize = 1 << 20;
/// Largest body of a request that replaces all services, in bytes: far above 4,096 services and 32,768 real servers.
const MAX_REPLACEMENT: usize = 16 << 20;
/// Time within which a request's header, and then its body, must arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Clients served at the same time; any more are answered with 503.
const MAX_CLIENTS: usize = 256;
/// Clients answered with 503 at the same time; any more are disconnected without an answer.
const MAX_REFUSING: usize = 64;
/// Time within which a client must send its request and read its 503.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves clients for ever.
pub async fn serve(listener: UnixListener, router: Router) -> Infallible {
    let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
    let refusal_slots = Arc::new(Semaphore::new(MAX_REFUSING));
    let (mut error_log, mut refusal_log) = (LogRateLimit::default(), LogRateLimit::default());
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if error_log.allows(MAX_BY_STRANGERS, clock::now()) {
                    tracing::warn!(%error, "cannot accept a client");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            if refusal_log.allows(MAX_BY_STRANGERS, clock::now()) {
                tracing::warn!(clients = MAX_CLIENTS, "too many clients, one is refused");
            }
            if let Ok(slot) = refusal_slots.clone().try_acquire_owned() {
                tokio::spawn(refuse_client(stream, slot));
            }
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(READ_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a client's connection ended early");
            }
            drop(slot);
        });
    }
}

/// Answers one request with 503.
async fn refuse_client(stream: UnixStream, slot: OwnedSemaphorePermit) {
    let router = Router::new().fallback(async || {
        let sentence =
            format!("balancerd has {MAX_CLIENTS} clients already: try again in a few seconds");
        refuse(StatusCode::SERVICE_UNAVAILABLE, sentence)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A client that is too slow gets no answer.
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, connection).await;
    drop(slot);
}

/// Reads a request's whole body, within the limits of size and time, before the handler runs.
pub async fn bounded(request: Request, next: Next) -> Response {
    let most = match request.method() {
        &Method::PUT => MAX_REPLACEMENT,
        _ => MAX_BODY,
    };
    let too_large = || {
        refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a request's body is at most {most} bytes"),
        )
    };
    let (parts, body) = request.into_parts();
    let announced = parts
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > most as u64) {
        return too_large();
    }
    match tokio::time::timeout(READ_TIMEOUT, to_bytes(body, most)).await {
        Err(_) => {
            let sentence = format!(
                "the request's body did not come within {} s",
                READ_TIMEOUT.as_secs()
            );
            refuse(StatusCode::REQUEST_TIMEOUT, sentence)
        }
        Ok(Err(error)) => {
            let limit = std::error::Error::source(&error)
                .is_some_and(|e| e.is::<http_body_util::LengthLimitError>());
            if limit {
                too_large()
            } else {
                refuse(StatusCode::BAD_REQUEST, "the request's body was cut short")
            }
        }
        Ok(Ok(bytes)) => {
            next.run(Request::from_parts(parts, Body::from(bytes)))
                .await
        }
    }
}
