//! trace: which real server a client would get, and why.

use super::{CommandError, Context, arguments::Trace as Arguments, encoded};
use crate::model::view::Trace;

pub async fn trace(context: &Context, arguments: Arguments) -> Result<(), CommandError> {
    let Arguments { client, service } = arguments;
    let mut target = format!("/v1/trace?client={}", encoded(&client.to_string()));
    if let Some(service) = service.named()? {
        target += &format!("&service={}", encoded(&service.to_string()));
    }
    let answer: Trace = context.client.get(&target).await?;
    context.print(&answer, text)
}

fn text(trace: &Trace) -> String {
    let Trace {
        client,
        protocol,
        service,
        real,
        full_nat,
        by: _,
        rule,
        reason,
    } = trace;
    let gets = real.map_or_else(
        || "gets no real server".to_owned(),
        |real| format!("gets {real}{}", if *full_nat { " by full NAT" } else { "" }),
    );
    // Where it refuses the client, the reason has it.
    let rule = rule.as_ref().filter(|_| real.is_some());
    let let_in = rule.map_or_else(String::new, |rule| format!("  let in by {rule}\n"));
    format!("{client} to {protocol}/{service} {gets}\n{let_in}  {reason}\n")
}
