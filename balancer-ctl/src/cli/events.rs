//! events: changes of state as they happen.

use std::io::{self, Write as _};

use super::{CommandError, Context, arguments::Events as Arguments, with_query};
use crate::{
    model::view::EventRecord,
    os::printable::{printable, printable_json},
};

pub async fn events(context: &Context, arguments: &Arguments) -> Result<(), CommandError> {
    let Arguments { since, no_follow } = arguments;
    let since = since.map(|since| since.to_string());
    let start = match &since {
        None => Some("events from now on (Ctrl-C ends)".to_owned()),
        Some(_) if *no_follow => None,
        Some(since) => Some(format!(
            "events since {since}, then from now on (Ctrl-C ends)"
        )),
    };
    let parameters = [
        ("since", since),
        ("follow", no_follow.then(|| "false".to_owned())),
    ];
    let target = with_query("/v1/events", parameters);
    let mut result = Ok(());
    let json = context.json;
    let take = |event| {
        result = print(&event, json);
        result.is_ok()
    };
    let events = context
        .client
        .events(&target, !no_follow, || announce(start), take);
    events.await?;
    Ok(result?)
}

/// Says on standard error that no event is missed from here on, for a person or script that waits for one. A failure to
/// write it is ignored.
fn announce(start: Option<String>) {
    if let Some(start) = start {
        let _ = writeln!(io::stderr(), "{start}");
    }
}

fn print(event: &EventRecord, json: bool) -> io::Result<()> {
    let line = if json {
        printable_json(&serde_json::to_string(event)?)
    } else {
        printable(&rendered(event))
    };
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

fn rendered(event: &EventRecord) -> String {
    let EventRecord {
        time,
        event,
        service,
        real,
        // The message begins with its name.
        peer: _,
        message,
    } = event;
    let mut line = format!("{time}  {}", event.name());
    if let Some(service) = service {
        line.push_str(&format!("  {service}"));
    }
    if let Some(real) = real {
        line.push_str(&format!(" -> {real}"));
    }
    if !message.is_empty() {
        line.push_str(&format!("  {message}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::view::EventKind;

    #[test]
    fn an_event_is_one_line() {
        let event = EventRecord {
            time: "2026-11-22T03:14:08.123Z".to_owned(),
            event: EventKind::RealChanged,
            service: Some("tcp/192.0.2.80:80".to_owned()),
            real: Some("10.0.0.2:80".parse().unwrap()),
            peer: None,
            message: "weight 1 -> 0".to_owned(),
        };
        assert_eq!(
            rendered(&event),
            "2026-11-22T03:14:08.123Z  real-changed  tcp/192.0.2.80:80 -> 10.0.0.2:80  weight 1 -> 0"
        );
        let event = EventRecord {
            event: EventKind::Reloaded,
            service: None,
            real: None,
            message: String::new(),
            ..event
        };
        assert_eq!(rendered(&event), "2026-11-22T03:14:08.123Z  reloaded");
    }
}
