//! What the commands that list many entries share.

use std::{
    io::{self, Write as _},
    ops::ControlFlow,
};

use super::{CommandError, Context};

/// Prints the daemon's answer as it arrives: a list of millions is not held in memory.
pub async fn copy_answer(context: &Context, target: &str) -> Result<(), CommandError> {
    let mut output = io::stdout();
    let mut written = Ok(());
    let stream = context.client.stream(target, |data| {
        written = output.write_all(data);
        if written.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    stream.await?;
    written?;
    Ok(output.flush()?)
}

/// Minutes and seconds, as in 14:59.
pub fn minutes(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}
