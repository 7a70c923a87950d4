//! completions: what a shell wants to know of the commands.

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use super::{
    CommandError,
    arguments::{Arguments, with_required},
    write,
};

/// The tool's name in the functions that complete it in bash.
const WITHOUT_HYPHEN: &str = "balancerctl";

/// Prints the completions for a shell.
pub fn completions(shell: Shell) -> Result<(), CommandError> {
    let mut text = Vec::new();
    if shell == Shell::Bash {
        // clap_complete (4.6) writes the hyphen of the tool's name in two ways, so that nothing behind a command would be completed.
        // Without it the two agree; the tool is named at the end, where the function is registered.
        clap_complete::generate(shell, &mut shown(), WITHOUT_HYPHEN, &mut text);
        let text = String::from_utf8_lossy(&text);
        let registered = text.replace(&format!(" {WITHOUT_HYPHEN}\n"), " balancer-ctl\n");
        return Ok(write(&registered)?);
    }
    clap_complete::generate(shell, &mut shown(), "balancer-ctl", &mut text);
    Ok(write(&String::from_utf8_lossy(&text))?)
}

/// The commands that the help shows: planned ones are refused, so that nobody is to be led to them.
pub fn shown() -> Command {
    let tool = with_required(Arguments::command());
    let subcommands = tool
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    let subcommands: Vec<_> = subcommands.cloned().collect();
    let arguments: Vec<_> = tool.get_arguments().cloned().collect();
    let mut shown = Command::new("balancer-ctl")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(arguments)
        .subcommands(subcommands);
    if let Some(about) = tool.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(about) = tool.get_long_about() {
        shown = shown.long_about(about.clone());
    }
    if let Some(after) = tool.get_after_help() {
        shown = shown.after_help(after.clone());
    }
    shown
}
