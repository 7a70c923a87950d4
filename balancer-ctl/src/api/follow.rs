//! The stream of events.

use std::time::Duration;

use axum::{
    extract::State,
    response::{
        IntoResponse as _, Response, Sse,
        sse::{self, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use tokio::sync::broadcast;

use super::daemon_handle::DaemonHandle;
use crate::{model::view, os::clock};

/// Answers with a stream of the events that happen from now on.
pub async fn events(State(daemon): State<DaemonHandle>) -> Response {
    let stream = followed(daemon.events.subscribe());
    Sse::new(stream)
        .keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
        .into_response()
}

/// The events, until the daemon stops or the reader was so slow that some were lost.
fn followed(
    receiver: broadcast::Receiver<view::EventRecord>,
) -> impl Stream<Item = Result<sse::Event, axum::Error>> {
    stream::unfold(Some(receiver), async |receiver| {
        let mut receiver = receiver?;
        let event = match receiver.recv().await {
            Ok(event) => event,
            Err(broadcast::error::RecvError::Closed) => return None,
            Err(broadcast::error::RecvError::Lagged(lost)) => view::EventRecord {
                time: clock::now_utc(),
                event: view::EventKind::Lost,
                service: None,
                real: None,
                message: format!("{lost} events were lost because they were read too slowly"),
            },
        };
        let ends = matches!(
            event.event,
            view::EventKind::Lost | view::EventKind::Stopping
        );
        let sent = sse::Event::default()
            .event(event.event.name())
            .json_data(&event);
        Some((sent, (!ends).then_some(receiver)))
    })
}
