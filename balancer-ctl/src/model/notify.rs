//! Which programs are run for which events.

use std::time::Duration;

use crate::model::{event::EventKind, names::names};

/// A program that is run when events happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// The events for which it is run.
    pub on: Vec<EventKind>,
    /// Only events of these services, by name or `tcp/ADDRESS:PORT`; empty = all.
    pub services: Vec<String>,
    /// The program by its absolute path, then its first arguments; not a shell's line.
    pub run: Vec<String>,
    /// The user that it runs as; `None` = root.
    pub user: Option<String>,
    /// Time after which it is killed.
    pub timeout: Duration,
    /// How long a condition must last before it is reported; zero = it is reported at once.
    pub alert_after: Duration,
    /// Interval at which a lasting condition is reported again; `None` = it is reported once.
    pub alert_every: Option<Duration>,
    /// Whether the end of a condition is reported even if its beginning was not.
    pub always_up: bool,
    /// The form of its standard input.
    pub stdin: Stdin,
}

/// What a notify program reads on its standard input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stdin {
    /// One line of JSON.
    #[default]
    Json,
    /// As alerts of mon read it: the summary on the first line, details below.
    Mon,
}

names!(Stdin {
    Json = "json",
    Mon = "mon",
});
