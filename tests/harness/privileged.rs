//! Tests that need root fail when they cannot run, unless the caller says that this is expected.

use std::io::Write;

/// Tells whether the running test is to be skipped because `BALANCER_SKIP_PRIVILEGED=1` is set, and says so on
/// standard output, past libtest's capture, in the line that `cargo xtask test` counts.
#[must_use]
pub fn skipped() -> bool {
    if std::env::var("BALANCER_SKIP_PRIVILEGED").is_ok_and(|value| value == "1") {
        skip("BALANCER_SKIP_PRIVILEGED is set");
        return true;
    }
    false
}

/// Says in that line that the running test is skipped, and why; the test then returns.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    // A closed standard output is no reason to fail.
    let _ = writeln!(std::io::stdout(), "SKIPPED {name}: {reason}");
}
