//! How the API's tasks reach the daemon.

use tokio::sync::{mpsc, oneshot};

use crate::{
    control::{
        daemon::{Message, Reply},
        event_log::EventLog,
    },
    model::error::ApiError,
};

/// The daemon as the API's tasks see it: they send it messages and subscribe to its events.
#[derive(Clone, Debug)]
pub struct DaemonHandle {
    /// Messages to the daemon.
    pub messages: mpsc::Sender<Message>,
    /// Events from the daemon.
    pub events: EventLog,
}

impl DaemonHandle {
    /// Sends the message that `message` makes, and waits for the daemon's answer.
    ///
    /// # Errors
    /// The daemon refuses, or is stopping.
    pub async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, ApiError> {
        let stopping = || ApiError::failed("balancerd is stopping");
        let (reply, answer) = oneshot::channel();
        self.messages
            .send(message(reply))
            .await
            .map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}
