//! Ctrl-C: noticed, so that what was made is taken away before the program ends.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on Ctrl-C is noticed by [`check`] instead of ending the program.
///
/// # Errors
/// None on Linux.
pub fn notice() -> Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler stores to an atomic and does nothing else, which is safe at any moment.
        unsafe { sigaction(signal, &action) }.context("watching for Ctrl-C")?;
    }
    Ok(())
}

/// Fails once Ctrl-C was pressed.
///
/// # Errors
/// It was.
pub fn check() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}
