//! The stream of events.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
    vec,
};

use axum::{
    extract::State,
    response::{
        IntoResponse as _, Sse,
        sse::{self, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::sync::broadcast;

use super::{
    answer::json_text,
    daemon_handle::DaemonHandle,
    request::{Answer, Parameters},
};
use crate::{
    model::{error::ApiError, since::Since, view},
    os::clock,
};

/// The query of a reader.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    since: Option<String>,
    follow: Option<bool>,
}

/// Answers with a stream of the events since a time, if one is named, and of those that happen from now on.
pub async fn events(State(daemon): State<DaemonHandle>, query: Parameters<EventsQuery>) -> Answer {
    let EventsQuery { since, follow } = query.0?;
    let since = since
        .map(|text| text.parse::<Since>())
        .transpose()
        .map_err(ApiError::invalid)?;
    let (past, receiver) = match (since, follow) {
        (None, Some(false)) => {
            return Err(ApiError::invalid(
                "follow=false needs since: say from when on events are wanted, as in since=10m",
            )
            .into());
        }
        (None, _) => (Vec::new(), Some(daemon.events.follow())),
        (Some(since), follow) => {
            let (past, receiver) = daemon.events.since(since.time(SystemTime::now()));
            (past, (follow != Some(false)).then_some(receiver))
        }
    };
    let told = Told {
        past: past.into_iter(),
        receiver,
    };
    Ok(Sse::new(told.stream())
        .keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
        .into_response())
}

/// What one reader is still to be told.
struct Told {
    past: vec::IntoIter<Arc<view::EventRecord>>,
    /// What happens from now on; `None` = no more than the past.
    receiver: Option<broadcast::Receiver<view::EventRecord>>,
}

impl Told {
    /// The events, until the daemon stops or the reader was so slow that some were lost.
    fn stream(self) -> impl Stream<Item = Result<sse::Event, axum::Error>> {
        stream::unfold(self, async |mut told| {
            let event = told.next().await?;
            let json = json_text(&*event).map_err(axum::Error::new);
            let sent = json.map(|json| sse::Event::default().event(event.event.name()).data(json));
            Some((sent, told))
        })
    }

    async fn next(&mut self) -> Option<Arc<view::EventRecord>> {
        if let Some(event) = self.past.next() {
            return Some(event);
        }
        let event = match self.receiver.as_mut()?.recv().await {
            Ok(event) => event,
            Err(broadcast::error::RecvError::Closed) => return None,
            Err(broadcast::error::RecvError::Lagged(lost)) => view::EventRecord {
                time: clock::now_utc(),
                event: view::EventKind::Lost,
                service: None,
                real: None,
                peer: None,
                message: format!("{lost} events were lost because they were read too slowly"),
            },
        };
        if event.event.ends_stream() {
            self.receiver = None;
        }
        Some(Arc::new(event))
    }
}
