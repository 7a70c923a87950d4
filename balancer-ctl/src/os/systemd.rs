//! Notifications to systemd (sd_notify). Without systemd they do nothing.

use std::time::Duration;

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

/// How often to call [`alive`]: twice within the time after which systemd takes this process for stuck (`WATCHDOG_USEC`), as systemd
/// advises. `None` = systemd does not watch it.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    interval(sd_notify::watchdog_enabled())
}

/// Half of systemd's limit; a limit of zero is none.
fn interval(limit: Option<Duration>) -> Option<Duration> {
    limit.map(|limit| limit / 2).filter(|half| !half.is_zero())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_come_twice_within_the_limit() {
        let seconds = Duration::from_secs;
        assert_eq!(interval(Some(seconds(30))), Some(seconds(15)));
        assert_eq!(interval(Some(Duration::ZERO)), None);
        assert_eq!(interval(None), None);
    }
}
