//! save, restore: services as the lines of `ipvsadm -S -n`.

use std::io::{self, Read as _, Write as _};

use hyper::Method;
use serde::Serialize;

use super::{
    CommandError, Context,
    arguments::Restore,
    ipvsadm::{self, Lines},
    render::as_lines,
    write,
};
use crate::{
    api::{AllServices, ChangeResult},
    model::view,
};

/// Most bytes that are read: a request of the most services and real servers that there can be fits in what the daemon takes.
const MAX_INPUT: u64 = 8 << 20;

/// What `save --json` prints.
#[derive(Serialize)]
struct Saved<'a> {
    lines: &'a [String],
    left_out: &'a [String],
}

/// Prints the lines, and on standard error what they have no place for.
pub async fn save(context: &Context) -> Result<(), CommandError> {
    let services: view::Services = context.client.get("/v1/services").await?;
    let Lines { lines, left_out } = Lines::of(&services.services);
    if context.json {
        let saved = Saved {
            lines: &lines,
            left_out: &left_out,
        };
        return context.print(&saved, |_| String::new());
    }
    write(&as_lines(&lines))?;
    let mut errors = io::stderr().lock();
    for sentence in left_out {
        // As a comment, so that the lines can be restored even if both go to one file.
        writeln!(errors, "# {sentence}")?;
    }
    Ok(())
}

/// Reads lines from standard input and makes the services what they say.
pub async fn restore(context: &Context, arguments: Restore) -> Result<(), CommandError> {
    let Restore { dry_run, runtime } = arguments;
    let mut bytes = Vec::new();
    let mut input = io::stdin().lock().take(MAX_INPUT + 1);
    input
        .read_to_end(&mut bytes)
        .map_err(|error| CommandError::Refused(format!("cannot read standard input: {error}")))?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(CommandError::Refused(format!(
            "standard input is longer than {} MiB",
            MAX_INPUT >> 20
        )));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| CommandError::Refused("standard input is not UTF-8".to_owned()))?;
    let services = ipvsadm::read(&text).map_err(|problems| {
        CommandError::Refused(format!("nothing was changed:\n{}", problems.join("\n")))
    })?;
    if services.is_empty() {
        return Err(CommandError::Refused(
            "no line adds a service (-A), so nothing was changed: `clear` deletes all services"
                .to_owned(),
        ));
    }
    let target = format!("/v1/services?{}&dry_run={dry_run}", runtime.query());
    let body = AllServices { services };
    let done: ChangeResult = context
        .client
        .send(Method::PUT, &target, Some(&body))
        .await?;
    context.print_change(&done, |notes| match notes {
        [] => "the services are as the lines say already\n".to_owned(),
        notes => as_lines(notes),
    })
}
