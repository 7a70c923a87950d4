//! status: the whole node on one screen, or in one line for a monitoring system.

use std::{process::ExitCode, time::Duration};

use balancer_common::verdict::{Discard, Outcome};
use serde::Serialize;

use super::{
    CommandError, Context,
    arguments::Status as Arguments,
    problems,
    render::{Tone, counted},
    table::{Column, paragraph, table},
};
use crate::model::{
    duration,
    peers::RefusalCounters,
    view::{Overall, Role, Status, VirtualRouter},
    vrrp::{Probes, VirtualRouterState},
};

/// Where the daemon answers with its status.
const TARGET: &str = "/v1/status";
/// How long `--check` waits for the daemon, so that it has printed its line and ended within 5 s.
const CHECK_TIME: Duration = Duration::from_secs(4);

/// The JSON printed where no daemon answers: fields as in [`Status`].
#[derive(Serialize)]
struct Unknown {
    overall: &'static str,
    reasons: [String; 1],
}

pub async fn status(context: &Context, arguments: &Arguments) -> Result<ExitCode, CommandError> {
    if arguments.check {
        return check(context).await;
    }
    let mut status: Status = context.client.get(TARGET).await?;
    if arguments.problems {
        status = problems::of_status(status);
    }
    context.print(&status, |status| match arguments.problems {
        true if problems::is_well(status) => problems::NONE.to_owned(),
        true => Screen::new(context.width).problems(status),
        false => Screen::new(context.width).whole(status),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a line for a monitoring system, within 5 s whatever the daemon does.
async fn check(context: &Context) -> Result<ExitCode, CommandError> {
    let answer = context.client.get_within(TARGET, CHECK_TIME).await;
    let status: Status = match answer {
        Ok(status) => status,
        Err(error) => {
            let unknown = Unknown {
                overall: "unknown",
                reasons: [error.to_string()],
            };
            context.print(&unknown, |unknown| {
                format!("unknown: {}\n", unknown.reasons.concat())
            })?;
            return Ok(ExitCode::from(3));
        }
    };
    context.print(&status, line)?;
    Ok(ExitCode::from(match status.overall {
        Overall::Running => 0,
        Overall::Limited => 1,
        Overall::Down => 2,
    }))
}

fn line(status: &Status) -> String {
    let (up, total) = status.services.iter().fold((0, 0), |(up, total), s| {
        (up + s.reals_up, total + s.reals_total)
    });
    let details = if status.reasons.is_empty() {
        format!(
            "{}, {up} of {} up, {} of {} connections",
            counted(status.services.len() as u64, "service"),
            counted(total as u64, "real"),
            status.dataplane.connections,
            status.dataplane.max_connections
        )
    } else {
        status.reasons.join("; ")
    };
    format!("{}: {details}\n", status.overall.name())
}

const fn tone(overall: Overall) -> Tone {
    match overall {
        Overall::Running => Tone::Good,
        Overall::Limited => Tone::Notable,
        Overall::Down => Tone::Bad,
    }
}

/// The lines of the screen, each with the title of its section or none, and how wide they may be.
struct Screen {
    rows: Vec<Vec<String>>,
    width: Option<usize>,
}

impl Screen {
    /// Columns that a title takes, and the space behind it.
    const TITLE: usize = "connections  ".len();

    /// An empty screen for a terminal of `width` columns.
    fn new(width: Option<usize>) -> Self {
        Self {
            rows: Vec::new(),
            width: width.map(|width| width - Self::TITLE),
        }
    }

    /// All of a status.
    fn whole(mut self, status: &Status) -> String {
        self.sentences(
            "node",
            [format!("{}, balancerd {}", status.node, status.version)],
        );
        self.overall(status);
        let config = status
            .config
            .as_deref()
            .unwrap_or("none: every change is forgotten when the daemon stops");
        let differs = if status.runtime_changes {
            " (changes made with --runtime are not in it)"
        } else {
            ""
        };
        self.sentences("config", [format!("{config}{differs}")]);
        if status.role != Role::Standalone {
            let stands_by = match (status.high_availability, status.role) {
                (true, Role::Active) => ", another node can take over",
                (false, Role::Active) => ", no other node can take over as far as this one knows",
                (true, _) => ", can take over",
                (false, _) => ", cannot take over",
            };
            self.sentences("role", [format!("{}{stands_by}", status.role.name())]);
        }
        self.nodes(status);
        self.text("refused", &refused(status, self.width));
        self.interfaces(status);
        self.text("connections", &tables(status, self.width));
        self.text("services", &services(status, self.width));
        self.text("discards", &discards(status, self.width));
        let lost = status.dataplane.redirect_failures;
        let lost = (lost > 0).then(|| {
            format!(
                "{} that the packet program had redirected",
                counted(lost, "frame")
            )
        });
        self.sentences("lost", lost);
        self.finished()
    }

    /// Of a status what `problems::of_status` leaves.
    fn problems(mut self, status: &Status) -> String {
        self.overall(status);
        self.nodes(status);
        self.interfaces(status);
        self.text("services", &services(status, self.width));
        self.finished()
    }

    fn overall(&mut self, status: &Status) {
        let overall = tone(status.overall).paint(status.overall.name());
        self.text("overall", &overall);
        self.sentences("because", status.reasons.iter().cloned());
    }

    fn nodes(&mut self, status: &Status) {
        self.text("vrrp", &virtual_routers(status, self.width));
        self.text("nodes", &nodes(status, self.width));
        self.text("tracked", &tracked(status, self.width));
    }

    fn interfaces(&mut self, status: &Status) {
        let interfaces = status.dataplane.interfaces.iter();
        let sentences = interfaces.map(|interface| {
            format!(
                "{} {}, program {}",
                interface.name, interface.mode, interface.program_id
            )
        });
        self.sentences("interfaces", sentences);
    }

    /// Adds a section of sentences.
    fn sentences(&mut self, title: &str, sentences: impl IntoIterator<Item = String>) {
        let width = self.width;
        let lines = sentences.into_iter();
        self.section(
            title,
            lines.flat_map(|sentence| paragraph(&sentence, width)),
        );
    }

    /// Adds a section of lines that fit already.
    fn text(&mut self, title: &str, text: &str) {
        self.section(title, text.lines().map(str::to_owned));
    }

    /// Adds lines; the first is preceded by the title.
    fn section(&mut self, title: &str, lines: impl IntoIterator<Item = String>) {
        for (index, line) in lines.into_iter().enumerate() {
            let title = if index == 0 { title } else { "" };
            self.rows.push(vec![title.to_owned(), line]);
        }
    }

    fn finished(self) -> String {
        table(&[Column::Left, Column::Left], &self.rows, None)
    }
}

fn nodes(status: &Status, width: Option<usize>) -> String {
    let rows: Vec<_> = status
        .peers
        .iter()
        .map(|peer| {
            let role = match (peer.connected, peer.role.as_str()) {
                (false, _) => Tone::Bad.paint("lost"),
                (true, "backup") if peer.maintenance => Tone::Notable.paint("maintenance"),
                (true, "active") => Tone::Good.paint("active"),
                (true, "fault") => Tone::Bad.paint("fault"),
                (true, role) => role.to_owned(),
            };
            let heard = peer.last_seen_ms.map_or_else(
                || "never heard".to_owned(),
                |ms| format!("heard {} ago", duration::rounded(Duration::from_millis(ms))),
            );
            let services = match peer.same_services {
                true => "same services",
                false => "other services",
            };
            vec![
                peer.name.clone(),
                role,
                peer.address.to_string(),
                heard,
                format!("version {}", peer.version.as_deref().unwrap_or("unknown")),
                services.to_owned(),
            ]
        })
        .collect();
    let mut text = table(&[Column::Left; 6], &rows, width);
    if let Some(successor) = &status.successor
        && !status.peers.is_empty()
    {
        text.push_str(&format!("{successor} would take over\n"));
    }
    text
}

/// What each node tracks, as far as it is heard.
fn tracked(status: &Status, width: Option<usize>) -> String {
    let own = [(&status.node, &status.tracked)];
    let heard = status.peers.iter().filter(|peer| peer.connected);
    let others = heard.map(|peer| (&peer.name, &peer.tracked));
    let all = own.into_iter().chain(others);
    let rows: Vec<_> = all
        .flat_map(|(node, tracked)| tracked.iter().map(move |one| (node, one)))
        .map(|(node, tracked)| {
            let state = match tracked.up {
                true => Tone::Good.paint("up"),
                false => Tone::Bad.paint("down"),
            };
            vec![node.clone(), tracked.name.clone(), state]
        })
        .collect();
    const COLUMNS: [Column; 3] = [Column::Left, Column::Text, Column::Left];
    table(&COLUMNS, &rows, width)
}

/// The reasons for which connections to the port for other nodes were not let in, with a count above 0, each with its sentence.
fn refused(status: &Status, width: Option<usize>) -> String {
    let reasons = RefusalCounters::default().named().into_iter();
    let rows: Vec<_> = reasons
        .filter_map(|(name, sentence, _)| {
            let count = status.peer_refusals.get(name).filter(|count| **count > 0)?;
            Some(vec![
                name.to_owned(),
                count.to_string(),
                format!("connections of other nodes: {sentence}"),
            ])
        })
        .collect();
    const COLUMNS: [Column; 3] = [Column::Left, Column::Right, Column::Text];
    table(&COLUMNS, &rows, width)
}

fn virtual_routers(status: &Status, width: Option<usize>) -> String {
    let rows: Vec<_> = status
        .vrrp
        .iter()
        .map(|router| {
            let state = match router.state {
                VirtualRouterState::Active => Tone::Good.paint("active"),
                VirtualRouterState::Backup => "backup".to_owned(),
                VirtualRouterState::Fault => Tone::Bad.paint("fault"),
            };
            vec![
                router.name.clone(),
                state,
                router.addresses.join(" "),
                format!("on {}", router.interface),
                format!("priority {}", router.priority),
                reason(router),
            ]
        })
        .collect();
    const COLUMNS: [Column; 6] = [
        Column::Left,
        Column::Left,
        Column::Text,
        Column::Left,
        Column::Left,
        Column::Text,
    ];
    table(&COLUMNS, &rows, width)
}

/// Why it is in its state, who is Active, and whether its services are probed.
fn reason(router: &VirtualRouter) -> String {
    let mut reason = router.reason.clone();
    if let Some(node) = router.active_node.map(|node| node.to_string())
        && !reason.contains(&node)
    {
        reason.push_str(&format!("; {node} is Active"));
    }
    match (router.probes, router.state) {
        (Probes::EveryNode, _) | (Probes::ActiveOnly, VirtualRouterState::Active) => reason,
        (Probes::ActiveOnly, VirtualRouterState::Backup | VirtualRouterState::Fault) => {
            format!("{reason}; only the Active node probes its services")
        }
    }
}

fn tables(status: &Status, width: Option<usize>) -> String {
    let families = [
        ("IPv4", &status.dataplane.ipv4),
        ("IPv6", &status.dataplane.ipv6),
    ];
    let rows = families.map(|(family, table)| {
        vec![
            family.to_owned(),
            format!("{} of {}", table.connections, table.max_connections),
            format!("{} of memory", memory(table.bytes)),
        ]
    });
    table(&[Column::Left; 3], &rows, width)
}

/// A size in memory: whole KiB below 1 MiB, else MiB with one decimal.
fn memory(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    match bytes {
        0..MIB => format!("{} KiB", bytes.div_ceil(KIB)),
        MIB.. => format!("{}.{} MiB", bytes / MIB, bytes % MIB * 10 / MIB),
    }
}

fn services(status: &Status, width: Option<usize>) -> String {
    let rows: Vec<_> = status
        .services
        .iter()
        .map(|service| {
            vec![
                service.name.clone(),
                format!(
                    "{} of {} up",
                    service.reals_up,
                    counted(service.reals_total as u64, "real")
                ),
            ]
        })
        .collect();
    table(&[Column::Left; 2], &rows, width)
}

/// The discard reasons with a count above 0, each with its sentence.
fn discards(status: &Status, width: Option<usize>) -> String {
    let rows: Vec<_> = status
        .dataplane
        .discards
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| {
            let reason = Discard::named(name);
            let (outcome, sentence) = reason.map_or(("", ""), |reason| {
                let outcome = match reason.outcome() {
                    Outcome::Pass | Outcome::Forward => "passed",
                    Outcome::Drop => "dropped",
                    Outcome::Answer => "answered",
                };
                (outcome, reason.sentence())
            });
            vec![
                name.clone(),
                count.to_string(),
                outcome.to_owned(),
                sentence.to_owned(),
            ]
        })
        .collect();
    const COLUMNS: [Column; 4] = [Column::Left, Column::Right, Column::Left, Column::Text];
    table(&COLUMNS, &rows, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_shown_in_kib_or_mib() {
        for (bytes, shown) in [
            (0, "0 KiB"),
            (1, "1 KiB"),
            (81_920, "80 KiB"),
            (1_048_575, "1024 KiB"),
            (1_048_576, "1.0 MiB"),
            (20_971_520, "20.0 MiB"),
            (83_886_080 + 600_000, "80.5 MiB"),
            (1_342_177_280, "1280.0 MiB"),
        ] {
            assert_eq!(memory(bytes), shown);
        }
    }
}
