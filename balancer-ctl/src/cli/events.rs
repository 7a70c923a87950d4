//! events: changes of state as they happen.

use std::io::{self, Write as _};

use super::{CommandError, Context};
use crate::model::view::EventRecord;

pub async fn follow(context: &Context) -> Result<(), CommandError> {
    let mut result = Ok(());
    let json = context.json;
    context
        .client
        .follow(announce_start, |event| {
            result = print(&event, json);
            result.is_ok()
        })
        .await?;
    Ok(result?)
}

/// Says on standard error that no event is missed from here on, for a person or script that waits for one. A failure to
/// write it is ignored.
fn announce_start() {
    let _ = writeln!(io::stderr(), "events from now on (Ctrl-C ends)");
}

fn print(event: &EventRecord, json: bool) -> io::Result<()> {
    let line = if json {
        serde_json::to_string(event)?
    } else {
        rendered(event)
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
