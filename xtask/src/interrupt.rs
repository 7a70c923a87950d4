//! Ctrl-C and its kin: noticed here, acted on where it is safe, so that every guard gets to clean up.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// What a shell reports of a program that Ctrl-C ended.
pub const EXIT_CODE: u8 = 130;

static HAPPENED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: i32) {
    HAPPENED.store(true, Ordering::Relaxed);
}

/// Starts to notice Ctrl-C, `kill` and a closed terminal instead of dying of them. Programs started later die of
/// them as usual.
pub fn listen() -> Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores into an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("cannot handle {signal}"))?;
    }
    Ok(())
}

/// Tells whether it is time to stop.
pub fn happened() -> bool {
    HAPPENED.load(Ordering::Relaxed)
}

/// Fails when it is time to stop; called between steps.
pub fn check() -> Result<()> {
    if happened() {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps, but not past the moment when it is time to stop.
pub fn sleep(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        check()?;
        thread::sleep(Duration::from_millis(20).min(end.saturating_duration_since(Instant::now())));
    }
    check()
}
