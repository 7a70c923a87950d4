//! Which programs are told of which events.

use std::time::Duration;

use crate::model::{event::EventKind, names::names};

/// A program that is told of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Of which.
    pub on: Vec<EventKind>,
    /// Only of these services, by name or `tcp/ADDRESS:PORT`; empty = all.
    pub services: Vec<String>,
    /// The program by its absolute path, then its first arguments; not a shell's line.
    pub run: Vec<String>,
    /// The user that it runs as; `None` = root.
    pub user: Option<String>,
    /// It is killed after this.
    pub timeout: Duration,
    /// A condition is told once it has lasted this long; zero = at once.
    pub alert_after: Duration,
    /// A condition is told again every so often while it lasts; `None` = once.
    pub alert_every: Option<Duration>,
    /// The end of a condition is told even where its beginning was not.
    pub always_up: bool,
    /// What it reads.
    pub stdin: Stdin,
}

/// What a program that is told an event reads on its standard input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stdin {
    /// One line of JSON.
    #[default]
    Json,
    /// As mon tells its alerts: the summary on the first line, details below.
    Mon,
}

names!(Stdin {
    Json = "json",
    Mon = "mon",
});
