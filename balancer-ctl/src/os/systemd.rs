//! Notifications to systemd (sd_notify). Without systemd they do nothing.

use sd_notify::NotifyState;

/// Reports that the daemon answers on its control socket (`READY=1`).
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Reports that the daemon reloads its configuration (`RELOADING=1`).
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "cannot read the monotonic clock"),
    }
}

/// Reports that the daemon is stopping (`STOPPING=1`).
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Reports that the daemon's loop runs (`WATCHDOG=1`).
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot tell systemd");
    }
}
