//! Drives an HTTP connection and an exchange over it in one task, so that nothing runs on when a probe is dropped.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
};

/// Polls `connection` while it runs `exchange`, and returns what the exchange returns. If the connection ends first, the
/// exchange fails by itself and says what is missing.
pub async fn drive_connection<T>(
    connection: impl Future<Output: Sized>,
    exchange: impl Future<Output = T>,
) -> T {
    let mut connection = pin!(connection);
    let mut exchange = pin!(exchange);
    let mut is_open = true;
    let both = |context: &mut Context<'_>| {
        // The exchange is polled before the connection, to give it what to send, and after, to read what it received.
        if let Poll::Ready(done) = exchange.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        if is_open {
            is_open = connection.as_mut().poll(context).is_pending();
        }
        exchange.as_mut().poll(context)
    };
    poll_fn(both).await
}
