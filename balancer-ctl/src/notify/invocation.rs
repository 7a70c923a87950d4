//! The arguments, environment and input with which a notify program is run. Pure. This is the whole interface that programs see:
//!
//! * Arguments: those of an alert program of mon, in mon's order, then the entry's own.
//!   `-s SERVICE -g GROUP -h HOSTS -l SECONDS -t TIME [-u] ARGUMENTS…`
//!   - `-s`, `-g`: the virtual service, by its name or else as `tcp/ADDRESS:PORT`; its real servers are the group. An
//!     event of no service has the service `balancer` and the group is the node.
//!   - `-h`: the real server's address; of an event of a whole service, those of all its real servers in one argument.
//!   - `-l`: seconds until the condition is reported again; 0 = it is not.
//!   - `-t`: when it happened, in seconds since 1970; of a condition that is reported late or again, when it began.
//!   - `-u`: given when a condition has ended.
//!   - The entry's own arguments, in which `{event}`, `{service}`, `{address}`, `{real}`, `{message}`, `{node}` and
//!     `{time}` are replaced. Nothing follows them: mon's own programs take the rest for recipients.
//! * Environment: `BALANCER_*` and `MON_*` as listed in `environment` below, `PATH`, `LANG`; nothing else.
//! * Standard input: one JSON object on one line, the event as `balancer-ctl events --json` shows it and more. Where the
//!   entry says `stdin = "mon"`, what mon gives its alerts, which mail the first line as their subject: the summary, and
//!   below it, without empty lines, the message, service and real server.

use std::{
    borrow::Cow,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::policy::{ConditionHistory, NotificationEvent};
use crate::{
    model::{Notify, event::EventKind, notify::Stdin, view::EventRecord},
    os::{
        printable::is_printable,
        program::{Leftovers, Program, StderrMode},
    },
};

/// Longest text in an argument or a variable, in bytes: the kernel refuses one of 128 KiB, and all of them together
/// may not be much more.
const MAX_TEXT_BYTES: usize = 8 * 1024;
/// Output that is kept for the log, in bytes.
const RETAINED_BYTES: usize = 16 * 1024;
/// The log directory that programs of mon expect.
const LOG_DIRECTORY: &str = "/var/log";
/// mon's operational statuses.
const FAILED: u8 = 0;
const WORKS: u8 = 1;

/// What programs learn of the daemon that runs them.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The daemon's directory of state.
    pub state: &'a Path,
}

/// The program to run.
#[must_use]
pub fn invocation(event: &NotificationEvent, notify: &Notify, sender: Sender<'_>) -> Program {
    let words = EventText::of(event, sender);
    let mut run = notify.run.iter();
    let path = run.next().map(String::as_str).unwrap_or_default();
    let mut arguments = mon_arguments(event, notify, &words);
    arguments.extend(run.map(|argument| words.fill(argument)));
    Program {
        path: path.into(),
        arguments,
        user: notify.user.clone(),
        check_timeout: notify.timeout,
        environment: environment(event, &words, sender),
        input: match notify.stdin {
            Stdin::Json => json(event, &words),
            Stdin::Mon => mon_lines(event, &words),
        },
        timeout: Some(notify.timeout),
        keep: RETAINED_BYTES,
        errors: StderrMode::WithOutput,
        // An alert program may start a mail program in the background and exit.
        left: Leftovers::LeaveRunning,
    }
}

/// Whether something broke, recovered or neither. mon knows `failure`, `up` and, for what is neither, `startup`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Bad,
    Good,
    Neither,
}

impl Severity {
    const fn of(kind: EventKind) -> Self {
        match kind {
            EventKind::RealDown
            | EventKind::QuorumLost
            | EventKind::BackupsIn
            | EventKind::TableFull
            | EventKind::ChecksStalled
            | EventKind::DataplaneOutOfSync
            | EventKind::MaintenanceFailed
            | EventKind::RoutesUnwatched
            | EventKind::FileOutOfSync
            | EventKind::ReloadFailed
            | EventKind::Fault
            | EventKind::NodeDown
            | EventKind::Lost => Self::Bad,
            EventKind::RealUp
            | EventKind::QuorumRegained
            | EventKind::BackupsOut
            | EventKind::TableRecovered
            | EventKind::ChecksResumed
            | EventKind::DataplaneInSync
            | EventKind::MaintenanceRecovered
            | EventKind::NodeUp
            | EventKind::RoutesWatched
            | EventKind::FileInSync => Self::Good,
            EventKind::ServiceAdded
            | EventKind::ServiceChanged
            | EventKind::ServiceRemoved
            | EventKind::RealAdded
            | EventKind::RealChanged
            | EventKind::RealRemoved
            | EventKind::VirtualRouterAdded
            | EventKind::VirtualRouterChanged
            | EventKind::VirtualRouterRemoved
            | EventKind::Active
            | EventKind::Backup
            | EventKind::Reloaded
            | EventKind::Forgotten
            | EventKind::Stopping => Self::Neither,
        }
    }

    const fn alert_type(self) -> &'static str {
        match self {
            Self::Bad => "failure",
            Self::Good => "up",
            Self::Neither => "startup",
        }
    }
}

/// An event's texts, each short enough for an argument or a variable.
struct EventText {
    event: &'static str,
    /// The service's name, else its key; empty without one.
    service: String,
    /// The service as `tcp/ADDRESS:PORT`; empty without one.
    address: String,
    /// The real server; empty without one.
    real: String,
    message: String,
    node: String,
    time: String,
    /// A summary in one line that begins with the hosts, as mon's monitors print it.
    summary: String,
}

impl EventText {
    fn of(event: &NotificationEvent, sender: Sender<'_>) -> Self {
        let EventRecord {
            time,
            event: kind,
            service,
            real,
            peer,
            message,
        } = &event.record;
        let address = service.clone().unwrap_or_default();
        let service = event.name.clone().unwrap_or_else(|| address.clone());
        let real = real.map(|real| real.to_string()).unwrap_or_default();
        let about = if real.is_empty() { &service } else { &real };
        let summary = match (event.is_unknown, message.as_str()) {
            (true, message) => format!("{} {message}", peer.as_ref().unwrap_or(about)),
            (false, "") => format!("{about} {}", kind.sentence()),
            (false, message) => format!("{about} {}: {message}", kind.sentence()),
        };
        Self {
            event: kind.name(),
            summary: truncated(&summary.trim_start().replace(|c| !is_printable(c), " ")),
            service,
            address,
            real,
            message: truncated(message),
            node: truncated(sender.node),
            time: time.clone(),
        }
    }

    /// Replaces the placeholders of an argument, each once: a replacement is not searched for placeholders.
    fn fill(&self, argument: &str) -> String {
        let mut filled = String::new();
        let mut rest = argument;
        while let Some((before, after)) = rest.split_once('{') {
            filled.push_str(before);
            let place = after.split_once('}');
            if let Some((word, after)) =
                place.and_then(|(name, after)| Some((self.word(name)?, after)))
            {
                filled.push_str(word);
                rest = after;
            } else {
                filled.push('{');
                rest = after;
            }
        }
        filled.push_str(rest);
        filled
    }

    fn word(&self, name: &str) -> Option<&str> {
        match name {
            "event" => Some(self.event),
            "service" => Some(&self.service),
            "address" => Some(&self.address),
            "real" => Some(&self.real),
            "message" => Some(&self.message),
            "node" => Some(&self.node),
            "time" => Some(&self.time),
            _ => None,
        }
    }

    /// mon's name for the service.
    fn mon_service(&self) -> &str {
        if self.service.is_empty() {
            "balancer"
        } else {
            &self.service
        }
    }

    /// mon's name for the hosts of the service.
    fn mon_group(&self) -> &str {
        if self.service.is_empty() {
            &self.node
        } else {
            &self.service
        }
    }
}

fn mon_arguments(event: &NotificationEvent, notify: &Notify, words: &EventText) -> Vec<String> {
    let hosts = match event.record.real {
        Some(real) => real.ip().to_string(),
        None => truncated_hosts(event),
    };
    // mon's own programs want a whole number and show it.
    let every = notify.alert_every.map_or(0, |every| every.as_secs());
    let pairs = [
        ("-s", words.mon_service().to_owned()),
        ("-g", words.mon_group().to_owned()),
        ("-h", hosts),
        ("-l", every.to_string()),
        ("-t", seconds(time_of(event)).to_string()),
    ];
    let mut arguments: Vec<_> = pairs
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
    if Severity::of(event.record.event) == Severity::Good {
        arguments.push("-u".to_owned());
    }
    arguments
}

/// The environment variables. All of `BALANCER_*` are always set, empty where they do not apply; of mon's, unknown times are not
/// set, as in mon.
fn environment(
    event: &NotificationEvent,
    words: &EventText,
    sender: Sender<'_>,
) -> Vec<(String, String)> {
    let severity = Severity::of(event.record.event);
    let works = severity != Severity::Bad;
    let description = if words.service.is_empty() {
        format!("balancer on {}", words.node)
    } else {
        format!("virtual service {} on {}", words.service, words.node)
    };
    let mut variables = vec![
        ("BALANCER_EVENT", words.event.to_owned()),
        ("BALANCER_SERVICE", words.service.clone()),
        ("BALANCER_ADDRESS", words.address.clone()),
        ("BALANCER_REAL", words.real.clone()),
        ("BALANCER_MESSAGE", words.message.clone()),
        ("BALANCER_SUMMARY", words.summary.clone()),
        ("BALANCER_TIME", words.time.clone()),
        ("BALANCER_NODE", words.node.clone()),
        // How often this condition was reported before.
        ("BALANCER_AGAIN", event.repeats.to_string()),
        ("MON_SERVICE", words.mon_service().to_owned()),
        ("MON_GROUP", words.mon_group().to_owned()),
        ("MON_DESCRIPTION", description),
        ("MON_LAST_SUMMARY", words.summary.clone()),
        (
            "MON_LAST_OUTPUT",
            format!("{}\n{}", words.summary, words.message),
        ),
        ("MON_ALERTTYPE", severity.alert_type().to_owned()),
        (
            "MON_OPSTATUS",
            if works { WORKS } else { FAILED }.to_string(),
        ),
        ("MON_RETVAL", u8::from(!works).to_string()),
        ("MON_LOGDIR", LOG_DIRECTORY.to_owned()),
        ("MON_STATEDIR", sender.state.display().to_string()),
    ];
    let ConditionHistory {
        first_failure,
        last_failure,
        last_success,
    } = event.past;
    for (name, time) in [
        ("MON_FIRST_FAILURE", first_failure),
        ("MON_LAST_FAILURE", last_failure),
        ("MON_LAST_SUCCESS", last_success),
    ] {
        variables.extend(time.map(|time| (name, seconds(time).to_string())));
    }
    variables
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// A program's standard input.
#[derive(Serialize)]
struct Input<'a> {
    // The first key, because programs of mon show the beginning of the line.
    summary: &'a str,
    #[serde(flatten)]
    event: &'a EventRecord,
    name: Option<&'a str>,
    node: &'a str,
    again: u32,
    first_failure: Option<String>,
    last_failure: Option<String>,
    last_success: Option<String>,
}

fn json(event: &NotificationEvent, words: &EventText) -> Vec<u8> {
    let shown = |time: Option<SystemTime>| {
        time.map(|time| humantime::format_rfc3339_millis(time).to_string())
    };
    let input = Input {
        summary: &words.summary,
        event: &event.record,
        name: event.name.as_deref(),
        node: &words.node,
        again: event.repeats,
        first_failure: shown(event.past.first_failure),
        last_failure: shown(event.past.last_failure),
        last_success: shown(event.past.last_success),
    };
    // Strings, numbers and unit variants only: their serialization cannot fail.
    let mut line = serde_json::to_vec(&input).unwrap_or_default();
    line.push(b'\n');
    line
}

/// The summary, the message, and the service, address and real server if the event has them.
fn mon_lines(event: &NotificationEvent, words: &EventText) -> Vec<u8> {
    let mut text = format!("{}\n", words.summary);
    let message = event.record.message.lines();
    for line in message.filter(|line| !line.trim().is_empty()) {
        text.push_str(&format!("{line}\n"));
    }
    for (what, value) in [
        ("service", &words.service),
        ("address", &words.address),
        ("real", &words.real),
    ] {
        if !value.is_empty() {
            text.push_str(&format!("{what}: {value}\n"));
        }
    }
    text.into_bytes()
}

fn time_of(event: &NotificationEvent) -> SystemTime {
    humantime::parse_rfc3339(&event.record.time).unwrap_or(UNIX_EPOCH)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

/// A text without NUL bytes, cut to [`MAX_TEXT_BYTES`].
fn truncated(text: &str) -> String {
    let text = if text.contains('\0') {
        Cow::Owned(text.replace('\0', ""))
    } else {
        Cow::Borrowed(text)
    };
    if text.len() <= MAX_TEXT_BYTES {
        return text.into_owned();
    }
    format!(
        "{}…",
        &text[..text.floor_char_boundary(MAX_TEXT_BYTES - '…'.len_utf8())]
    )
}

/// The hosts of a service, as many as fit into [`MAX_TEXT_BYTES`].
fn truncated_hosts(event: &NotificationEvent) -> String {
    let mut hosts = String::new();
    for host in &event.hosts {
        let host = host.to_string();
        if hosts.len() + 1 + host.len() > MAX_TEXT_BYTES {
            break;
        }
        if !hosts.is_empty() {
            hosts.push(' ');
        }
        hosts.push_str(&host);
    }
    hosts
}

#[cfg(test)]
mod tests;
