//! How clients are let in: how many, how long they may take, and how much they may send.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{StatusCode, header::CONTENT_LENGTH},
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

/// Largest body of a request.
pub const MAX_BODY: usize = 1 << 20;
/// A request whose header or body takes longer is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Clients at a time; one more is told that there is no room.
const MAX_CLIENTS: usize = 256;
/// Clients at a time that are told so; one more is not even that.
const MAX_TURNED_AWAY: usize = 64;
/// How long a client that is turned away may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves clients for ever.
pub async fn serve(listener: UnixListener, router: Router) -> Infallible {
    let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
    let doors = Arc::new(Semaphore::new(MAX_TURNED_AWAY));
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            tracing::warn!(
                clients = MAX_CLIENTS,
                "too many clients, one is turned away"
            );
            if let Ok(slot) = doors.clone().try_acquire_owned() {
                tokio::spawn(turn_away(stream, slot));
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

/// Answers one request with why there is no other answer.
async fn turn_away(stream: UnixStream, slot: OwnedSemaphorePermit) {
    let router = Router::new().fallback(async || {
        let sentence =
            format!("balancerd has {MAX_CLIENTS} clients already: try again in a few seconds");
        refuse(StatusCode::SERVICE_UNAVAILABLE, sentence)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // Whoever is too slow to hear it goes without.
    let _ = tokio::time::timeout(FAREWELL, connection).await;
    drop(slot);
}

/// Reads the body whole, within its limits, before anyone looks at it.
pub async fn bounded(request: Request, next: Next) -> Response {
    let too_large = || {
        refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a request's body is at most {MAX_BODY} bytes"),
        )
    };
    let (parts, body) = request.into_parts();
    let announced = parts
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > MAX_BODY as u64) {
        return too_large();
    }
    match tokio::time::timeout(READ_TIMEOUT, to_bytes(body, MAX_BODY)).await {
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
