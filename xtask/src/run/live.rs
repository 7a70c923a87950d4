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
const PAUSE: Duration = Duration::from_millis(250);

/// Shows the view again and again until it is time to stop.
pub fn view(demonstration: &Demonstration<'_>) -> Result<()> {
    println!("\n== Live: `curl http://{VIP}/` every {PAUSE:?}, as the client; Ctrl-C ends it\n");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| send(demonstration.network, &over));
        let shown = show(demonstration.ctl);
        over.store(true, Ordering::Relaxed);
        shown
    })
}

/// Sends requests beside the view, whose rates are measured while it waits. Those that fail show in the counters.
fn send(network: &Network, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) && interrupt::sleep(PAUSE).is_ok() {
        let _ = network.ask();
    }
}

fn show(ctl: &Ctl) -> Result<()> {
    let terminal = io::stdout().is_terminal();
    let mut lines = 0;
    while !interrupt::happened() {
        let text = match frame(ctl) {
            Ok(text) => text,
            Err(_) if interrupt::happened() => break,
            Err(error) => return Err(error),
        };
        let mut out = io::stdout().lock();
        if terminal && lines > 0 {
            // Up over the last view, and clear what is below.
            write!(out, "\x1b[{lines}A\x1b[J").context("cannot write")?;
        }
        lines = text.lines().count();
        write!(out, "{text}")
            .and_then(|()| out.flush())
            .context("cannot write")?;
    }
    Ok(())
}

/// Returns one view. Rates are those of the second that asking for them takes.
fn frame(ctl: &Ctl) -> Result<String> {
    let rates = ctl.call("list --rate")?;
    Ok(format!(
        "{}\n{rates}\n{}\n",
        ctl.call("list")?,
        ctl.call("list --stats")?
    ))
}
