//! What systemd is told; without it, nothing happens.

use sd_notify::NotifyState;

/// The daemon answers on its socket.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The daemon loads its configuration again.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "cannot read the monotonic clock"),
    }
}

/// The daemon stops.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// The daemon's loop turns.
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot tell systemd");
    }
}
