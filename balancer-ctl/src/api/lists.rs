//! Lists as streams, one item a line: a table of millions is never held in memory as JSON.

use std::{io, ops::ControlFlow, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use tokio::{runtime::Handle, sync::mpsc, time::timeout};

use crate::control::daemon::ListReport;

/// Size of a chunk, in bytes.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Room behind a chunk for its last item; a longer one makes the chunk grow.
const ITEM_BYTES: usize = 512;
/// Capacity of the queue of chunks between the writer and the reader.
const MAX_QUEUED_CHUNKS: usize = 4;
/// The list ends if its reader takes nothing for this long.
const READER_TIMEOUT: Duration = Duration::from_secs(30);

/// A part of the answer.
enum Part {
    Chunk(Vec<u8>),
    /// The list is complete.
    End,
}

/// How a list is written as JSON: as serde would write the type of the answer.
#[derive(Debug)]
pub struct Form<T> {
    /// The key of the items.
    pub key: &'static str,
    /// Writes an item.
    pub write_item: fn(&mut String, &T),
    /// What follows the items, if there are more than the limit and if there are not.
    pub end: fn(bool) -> &'static str,
}

/// Answers with the items of a report.
pub fn answer<T: Send + 'static>(report: ListReport<T>, form: Form<T>) -> Response {
    let (sender, receiver) = mpsc::channel(MAX_QUEUED_CHUNKS);
    let handle = Handle::current();
    tokio::task::spawn_blocking(move || {
        let send = |part| {
            let sent = handle.block_on(timeout(READER_TIMEOUT, sender.send(part)));
            match sent {
                Ok(Ok(())) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        };
        if write(report, &form, |chunk| send(Part::Chunk(chunk))).is_continue() {
            let _ = send(Part::End);
        }
    });
    let parts = stream::unfold(Some(receiver), async |receiver| {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Part::Chunk(chunk)) => Some((Ok(Bytes::from(chunk)), Some(receiver))),
            Some(Part::End) => None,
            // The error ends the body early, so that the client knows that the list is not complete.
            None => Some((Err(io::Error::other("the list breaks off")), None)),
        }
    });
    (
        [(CONTENT_TYPE, "application/json")],
        Body::from_stream(parts),
    )
        .into_response()
}

/// Writes a report in chunks, until `send` returns `Break`.
pub fn write<T: 'static>(
    report: ListReport<T>,
    form: &Form<T>,
    mut send: impl FnMut(Vec<u8>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut text = String::with_capacity(CHUNK_BYTES + ITEM_BYTES);
    text.push_str("{\"");
    text.push_str(form.key);
    text.push_str("\":[");
    let mut is_first = true;
    let mut flow = ControlFlow::Continue(());
    let read = report.each(|item| {
        text.push_str(if is_first { "\n" } else { ",\n" });
        is_first = false;
        (form.write_item)(&mut text, &item);
        if text.len() >= CHUNK_BYTES {
            let next = String::with_capacity(CHUNK_BYTES + ITEM_BYTES);
            flow = send(std::mem::replace(&mut text, next).into_bytes());
        }
        flow
    });
    flow?;
    let more = match read {
        Ok(more) => more,
        Err(error) => {
            tracing::warn!(%error, "the list of {} breaks off", form.key);
            return ControlFlow::Break(());
        }
    };
    text.push_str(if is_first { "]" } else { "\n]" });
    text.push_str((form.end)(more));
    text.push('\n');
    send(text.into_bytes())
}
