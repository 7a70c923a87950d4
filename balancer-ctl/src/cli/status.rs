//! status: the whole node on one screen, or in one line for a monitoring system.

use std::{process::ExitCode, time::Duration};

use balancer_common::verdict::{Discard, Outcome};
use serde::Serialize;

use super::{
    CommandError, Context,
    arguments::Status as Arguments,
    render::{Align, Tone, counted, table},
};
use crate::{
    api::client::ClientError,
    model::{
        duration,
        view::{Overall, Role, Status},
        vrrp::VirtualRouterState,
    },
};

/// The JSON printed where no daemon answers: fields as in [`Status`].
#[derive(Serialize)]
struct Unknown {
    overall: &'static str,
    reasons: [String; 1],
}

pub async fn status(context: &Context, arguments: &Arguments) -> Result<ExitCode, CommandError> {
    let answer: Result<Status, ClientError> = context.client.get("/v1/status").await;
    if !arguments.check {
        context.print(&answer?, rendered)?;
        return Ok(ExitCode::SUCCESS);
    }
    let status = match answer {
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

fn rendered(status: &Status) -> String {
    let mut rows = Vec::new();
    section(
        &mut rows,
        "node",
        [format!("{}, balancerd {}", status.node, status.version)],
    );
    let overall = tone(status.overall).paint(status.overall.name());
    section(&mut rows, "overall", [overall]);
    section(&mut rows, "because", status.reasons.iter().cloned());
    let config = status
        .config
        .as_deref()
        .unwrap_or("none: every change is forgotten when the daemon stops");
    let differs = if status.runtime_changes {
        " (changes made with --runtime are not in it)"
    } else {
        ""
    };
    section(&mut rows, "config", [format!("{config}{differs}")]);
    if status.role != Role::Standalone {
        let stands_by = match (status.high_availability, status.role) {
            (true, Role::Active) => ", another node can take over",
            (true, _) => ", can take over",
            (false, _) => ", no other node can take over as far as this one knows",
        };
        section(
            &mut rows,
            "role",
            [format!("{}{stands_by}", status.role.name())],
        );
        section(&mut rows, "vrrp", lines(&virtual_routers(status)));
    }
    section(&mut rows, "nodes", lines(&nodes(status)));
    let interfaces = status.dataplane.interfaces.iter();
    section(
        &mut rows,
        "interfaces",
        interfaces.map(|interface| {
            format!(
                "{} {}, program {}",
                interface.name, interface.mode, interface.program_id
            )
        }),
    );
    section(&mut rows, "connections", lines(&tables(status)));
    section(&mut rows, "services", lines(&services(status)));
    section(&mut rows, "discards", lines(&discards(status)));
    let lost = status.dataplane.redirect_failures;
    let lost = (lost > 0).then(|| {
        format!(
            "{} that the packet program had redirected",
            counted(lost, "frame")
        )
    });
    section(&mut rows, "lost", lost);
    table(&[Align::Left, Align::Left], &rows)
}

fn nodes(status: &Status) -> String {
    let rows: Vec<_> = status
        .peers
        .iter()
        .map(|peer| {
            let role = match (peer.connected, peer.role.as_str()) {
                (false, _) => Tone::Bad.paint("lost"),
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
    let mut text = table(&[Align::Left; 6], &rows);
    if let Some(successor) = &status.successor
        && !status.peers.is_empty()
    {
        text.push_str(&format!("{successor} would take over\n"));
    }
    text
}

fn virtual_routers(status: &Status) -> String {
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
                router.reason.clone(),
            ]
        })
        .collect();
    table(&[Align::Left; 6], &rows)
}

fn tables(status: &Status) -> String {
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
    table(&[Align::Left; 3], &rows)
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

/// Adds lines; the first is preceded by the title.
fn section(rows: &mut Vec<Vec<String>>, title: &str, lines: impl IntoIterator<Item = String>) {
    for (index, line) in lines.into_iter().enumerate() {
        rows.push(vec![
            if index == 0 {
                title.to_owned()
            } else {
                String::new()
            },
            line,
        ]);
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn services(status: &Status) -> String {
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
    table(&[Align::Left, Align::Left], &rows)
}

/// The discard reasons with a count above 0, each with its sentence.
fn discards(status: &Status) -> String {
    let rows: Vec<_> = status
        .dataplane
        .discards
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| {
            let reason = Discard::ALL.iter().find(|reason| reason.name() == name);
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
    table(
        &[Align::Left, Align::Right, Align::Left, Align::Left],
        &rows,
    )
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
