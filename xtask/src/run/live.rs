//! The view after the demonstration: counters and rates, with some traffic to see them move.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{demonstration::Demonstration, interrupt};

/// Time between two views.
const PERIOD: Duration = Duration::from_secs(1);
/// Requests in each period.
const REQUESTS: u32 = 4;
/// Shows the view again and again until it is time to stop.
pub fn view(demonstration: &Demonstration<'_>) -> Result<()> {
    let terminal = io::stdout().is_terminal();
    println!("\n== Live: {REQUESTS} requests a second; Ctrl-C ends it\n");
    let mut lines = 0;
    while !interrupt::happened() {
        let text = match frame(demonstration) {
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
        drop(out);
        if send(demonstration).is_err() {
            break;
        }
    }
    Ok(())
}

/// Sends a period's requests. Those that fail show in the counters.
fn send(demonstration: &Demonstration<'_>) -> Result<()> {
    for _ in 0..REQUESTS {
        interrupt::sleep(PERIOD / REQUESTS)?;
        let _ = demonstration.network.ask();
    }
    Ok(())
}

fn frame(demonstration: &Demonstration<'_>) -> Result<String> {
    let ctl = demonstration.ctl;
    Ok(format!(
        "{}\n{}\n{}\n",
        ctl.call("list")?,
        ctl.call("list --rate")?,
        ctl.call("list --stats")?
    ))
}
