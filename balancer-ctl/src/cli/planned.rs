//! Commands and options of later versions: hidden in the help, and refused by name.

use clap::{Args, Subcommand};

use super::CommandError;

/// Commands of later versions.
#[derive(Debug, Subcommand)]
pub enum PlannedCommand {
    #[command(hide = true)]
    Top(AnyArguments),
    #[command(hide = true)]
    Doctor(AnyArguments),
}

impl PlannedCommand {
    /// The refusal, with what to use instead.
    pub fn sentence(&self) -> String {
        let (name, remedy) = match self {
            Self::Top(_) => ("top", "use `list --rate`"),
            Self::Doctor(_) => ("doctor", "use `status`"),
        };
        format!("this version does not have the command `{name}` yet: {remedy}")
    }
}

/// Whatever follows a planned command.
#[derive(Debug, Args)]
pub struct AnyArguments {
    #[arg(id = "help", short = 'h', long = "help", hide = true)]
    _help: bool,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

/// Options of a real server in later versions.
#[derive(Debug, Args)]
pub struct PlannedRealOptions {
    #[arg(short = 'g', long, hide = true)]
    direct: bool,
    #[arg(short = 'i', long, hide = true)]
    tunnel: bool,
}

impl PlannedRealOptions {
    pub fn refuse(&self) -> Result<(), CommandError> {
        refuse_given(&[(self.direct, "--direct"), (self.tunnel, "--tunnel")])
    }
}

fn refuse_given(options: &[(bool, &str)]) -> Result<(), CommandError> {
    match options.iter().find(|(given, _)| *given) {
        Some((_, option)) => Err(CommandError::Usage(format!(
            "this version does not have `{option}` yet: leave it out"
        ))),
        None => Ok(()),
    }
}
