//! The terminal that shows the output.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use terminal_size::{Width, terminal_size_of};

/// The least width, in columns, that output is made for.
const MIN_WIDTH: usize = 40;

/// How many columns the terminal has that standard output is, as it says itself or else the variable `COLUMNS`; `None` where
/// standard output is no terminal, or nothing says it.
pub fn width() -> Option<usize> {
    let output = io::stdout();
    if !output.is_terminal() {
        return None;
    }
    let own = terminal_size_of(&output).map(|(Width(columns), _)| usize::from(columns));
    let columns = own.or_else(|| env::var("COLUMNS").ok()?.parse().ok())?;
    Some(columns.max(MIN_WIDTH))
}
