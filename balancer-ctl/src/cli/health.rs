//! health: what the checks of real servers found.

use std::time::Duration;

use super::{
    CommandError, Context,
    arguments::Health as Arguments,
    encoded,
    render::Tone,
    table::{Column, paragraph, table},
};
use crate::model::{
    duration,
    view::{Checker, Health, HealthChange, LastProbe},
};

pub async fn health(context: &Context, arguments: Arguments) -> Result<(), CommandError> {
    let Arguments { service, history } = arguments;
    let target = match service.named()? {
        None => "/v1/health".to_owned(),
        Some(service) => format!("/v1/health?service={}", encoded(&service.to_string())),
    };
    let health: Health = context.client.get(&target).await?;
    context.print(&health, |health| match (history, &health.checkers[..]) {
        (_, []) => format!(
            "{}\n",
            health.idle.as_deref().unwrap_or("nothing is probed")
        ),
        (true, checkers) => histories(checkers, context.width),
        (false, checkers) => states(checkers, context.width),
    })
}

/// A check's state in its colour.
fn painted(state: &str) -> String {
    match state {
        "up" => Tone::Good.paint(state),
        "down" => Tone::Bad.paint(state),
        _ => state.to_owned(),
    }
}

fn states(checkers: &[Checker], width: Option<usize>) -> String {
    const COLUMNS: [Column; 7] = [
        Column::Left,
        Column::Left,
        Column::Left,
        Column::Left,
        Column::Right,
        Column::Text,
        Column::Text,
    ];
    let title = [
        "Target",
        "Type",
        "State",
        "Since",
        "Latency",
        "Used by",
        "Last result",
    ];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    for checker in checkers {
        let last = checker.last.as_ref();
        rows.push(vec![
            checker.target.to_string(),
            checker.kind.clone(),
            painted(&checker.state),
            checker.since.clone(),
            last.map_or_else(|| "-".to_owned(), |last| milliseconds(last.latency_us)),
            checker.used_by.join(", "),
            result(checker),
        ]);
    }
    table(&COLUMNS, &rows, width)
}

/// Why the target cannot be probed; else the last result, or that there is none yet.
fn result(checker: &Checker) -> String {
    match (&checker.obstacle, &checker.last) {
        (Some(obstacle), _) => format!("cannot be probed: {obstacle}"),
        (None, Some(last)) => last_result(last, &checker.state),
        (None, None) => checker.reason.clone(),
    }
}

/// The last result; if it disagrees with the state, also the number of equal results in a row.
fn last_result(last: &LastProbe, state: &str) -> String {
    let result = if last.passed { "passed" } else { "failed" };
    let agrees = last.passed == (state == "up");
    let count = match (agrees, last.in_a_row) {
        (true, _) => String::new(),
        (false, count) => format!(", {count} in a row"),
    };
    format!("{result}: {}{count}", last.message)
}

fn histories(checkers: &[Checker], width: Option<usize>) -> String {
    const COLUMNS: [Column; 5] = [
        Column::Left,
        Column::Left,
        Column::Left,
        Column::Left,
        Column::Text,
    ];
    let blocks = checkers.iter().map(|checker| {
        let mut rows: Vec<_> = checker.history.iter().map(change).collect();
        if rows.is_empty() {
            rows.push(vec![String::new(), "no change yet".to_owned()]);
        }
        let state = format!(
            "{} {}, {} since {}: {}",
            checker.target, checker.kind, checker.state, checker.since, checker.reason
        );
        let state = paragraph(&state, width).join("\n");
        format!("{state}\n{}", table(&COLUMNS, &rows, width))
    });
    blocks.collect::<Vec<_>>().join("\n")
}

fn change(change: &HealthChange) -> Vec<String> {
    let HealthChange {
        time,
        state,
        reason,
        lasted_ms,
    } = change;
    let lasted = lasted_ms.map_or_else(
        || "until now".to_owned(),
        |lasted| format!("for {}", duration::rounded(Duration::from_millis(lasted))),
    );
    vec![
        String::new(),
        time.clone(),
        state.clone(),
        lasted,
        reason.clone(),
    ]
}

/// Milliseconds with three digits: 0.12 ms, 1.23 ms, 12.3 ms, 123 ms.
fn milliseconds(microseconds: u64) -> String {
    match microseconds {
        0..10_000 => format!("{}.{:02} ms", microseconds / 1000, microseconds % 1000 / 10),
        10_000..100_000 => format!("{}.{} ms", microseconds / 1000, microseconds % 1000 / 100),
        100_000.. => format!("{} ms", microseconds / 1000),
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    fn checkers() -> Vec<Checker> {
        let last = |passed, message: &str, latency_us, in_a_row| {
            Some(LastProbe {
                time: "2026-11-22T03:20:00.000Z".to_owned(),
                passed,
                message: message.to_owned(),
                latency_us,
                in_a_row,
            })
        };
        let change = |time: &str, state: &str, reason: &str, lasted_ms| HealthChange {
            time: time.to_owned(),
            state: state.to_owned(),
            reason: reason.to_owned(),
            lasted_ms,
        };
        let checker = |target: &str, state: &str, reason: &str, last, history| Checker {
            target: target.parse().unwrap(),
            kind: "http".to_owned(),
            check: serde_json::json!({"type": "http"}),
            used_by: vec!["web 10.0.0.2:80".to_owned()],
            state: state.to_owned(),
            since: "2026-11-22T03:14:08.123Z".to_owned(),
            reason: reason.to_owned(),
            last,
            obstacle: None,
            history,
        };
        vec![
            checker(
                "10.0.0.2:80",
                "down",
                "http 503, wanted 200-299, 3 of 3",
                last(true, "http 200", 1_239, 1),
                vec![
                    change(
                        "2026-11-22T03:14:08.123Z",
                        "down",
                        "http 503, wanted 200-299, 3 of 3",
                        None,
                    ),
                    change(
                        "2026-11-22T03:10:00.000Z",
                        "up",
                        "http 200, 2 of 2",
                        Some(248_123),
                    ),
                ],
            ),
            checker(
                "[2001:db8::2]:80",
                "up",
                "http 200, 1 of 1",
                last(true, "http 200", 123_456, 70),
                vec![],
            ),
            checker("10.0.0.4:80", "unknown", "not probed yet", None, vec![]),
        ]
    }

    #[test]
    fn each_checker_is_a_line() {
        assert_eq!(
            strip_str(&states(&checkers(), None)).to_string(),
            "\
Target            Type  State    Since                     Latency  Used by          Last result
10.0.0.2:80       http  down     2026-11-22T03:14:08.123Z  1.23 ms  web 10.0.0.2:80  passed: http 200, 1 in a row
[2001:db8::2]:80  http  up       2026-11-22T03:14:08.123Z   123 ms  web 10.0.0.2:80  passed: http 200
10.0.0.4:80       http  unknown  2026-11-22T03:14:08.123Z        -  web 10.0.0.2:80  not probed yet
"
        );
    }

    #[test]
    fn an_obstacle_is_shown_in_place_of_the_last_result() {
        let mut checkers = checkers();
        checkers.truncate(1);
        checkers[0].obstacle = Some("too many open files".to_owned());
        assert_eq!(
            strip_str(&states(&checkers, None)).to_string(),
            "\
Target       Type  State  Since                     Latency  Used by          Last result
10.0.0.2:80  http  down   2026-11-22T03:14:08.123Z  1.23 ms  web 10.0.0.2:80  cannot be probed: too many open files
"
        );
    }

    #[test]
    fn a_history_shows_how_long_each_state_lasted() {
        assert_eq!(
            histories(&checkers()[..2], None),
            "\
10.0.0.2:80 http, down since 2026-11-22T03:14:08.123Z: http 503, wanted 200-299, 3 of 3
  2026-11-22T03:14:08.123Z  down  until now  http 503, wanted 200-299, 3 of 3
  2026-11-22T03:10:00.000Z  up    for 4m8s   http 200, 2 of 2

[2001:db8::2]:80 http, up since 2026-11-22T03:14:08.123Z: http 200, 1 of 1
  no change yet
"
        );
    }

    #[test]
    fn latencies_have_three_digits() {
        for (microseconds, shown) in [
            (0, "0.00 ms"),
            (129, "0.12 ms"),
            (9_999, "9.99 ms"),
            (12_399, "12.3 ms"),
            (1_234_567, "1234 ms"),
        ] {
            assert_eq!(milliseconds(microseconds), shown);
        }
    }
}
