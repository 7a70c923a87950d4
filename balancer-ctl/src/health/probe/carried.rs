//! A connection's own work beside what is asked over it, in one task: nothing is left behind when a probe is dropped.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
};

/// Runs `exchange` over the connection that `connection` drives. That the connection ends is for the exchange to
/// notice, which knows what it lacks.
pub async fn drive_connection<T>(
    connection: impl Future<Output: Sized>,
    exchange: impl Future<Output = T>,
) -> T {
    let mut connection = pin!(connection);
    let mut exchange = pin!(exchange);
    let mut is_open = true;
    let both = |context: &mut Context<'_>| {
        // Before the connection, which then finds what is to be sent; and after, for what it has received.
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
