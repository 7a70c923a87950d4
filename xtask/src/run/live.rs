//! The view after the demonstration: counters and rates, with some traffic to see them move.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::interrupt;

use super::{
    daemon::Ctl,
    demonstration::Demonstration,
    network::{Network, VIP},
};

/// Time between two requests.
const REQUEST_INTERVAL: Duration = Duration::from_millis(250);

/// Shows the view again and again until Ctrl-C.
pub fn view(demonstration: &Demonstration<'_>) -> Result<()> {
    println!(
        "\n== Live: `curl http://{VIP}/` every {REQUEST_INTERVAL:?}, as the client; Ctrl-C ends it\n"
    );
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| send(demonstration.network, &over));
        let shown = repeat(|| frame(demonstration.ctl));
        over.store(true, Ordering::Relaxed);
        shown
    })
}

/// Sends requests while the view measures rates. Failed ones are visible in the counters.
fn send(network: &Network, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) && interrupt::sleep(REQUEST_INTERVAL).is_ok() {
        let _ = network.ask();
    }
}

/// Shows one view after the other until Ctrl-C, on a terminal in place of the one before. `frame` sets the pace.
pub fn repeat(mut frame: impl FnMut() -> Result<String>) -> Result<()> {
    let terminal = io::stdout().is_terminal();
    let mut lines = 0;
    while !interrupt::happened() {
        let text = match frame() {
            Ok(text) => text,
            Err(_) if interrupt::happened() => break,
            Err(error) => return Err(error),
        };
        let mut out = io::stdout().lock();
        if terminal && lines > 0 {
            // Moves the cursor above the last view, and clears everything below.
            write!(out, "\x1b[{lines}A\x1b[J").context("cannot write")?;
        }
        lines = text.lines().count();
        write!(out, "{text}")
            .and_then(|()| out.flush())
            .context("cannot write")?;
    }
    Ok(())
}

/// Returns one view. Its rates are those of the second that the request takes.
fn frame(ctl: &Ctl) -> Result<String> {
    let rates = ctl.call("list --rate")?;
    Ok(format!(
        "{}\n{rates}\n{}\n",
        ctl.call("list")?,
        ctl.call("list --stats")?
    ))
}
