//! Commands and options that are planned: hidden in the help, and refused by name.

use clap::{Args, Subcommand};

use super::CommandError;

/// Commands that are planned.
#[derive(Debug, Subcommand)]
pub enum Later {
    #[command(hide = true)]
    Top(Anything),
    #[command(hide = true)]
    Trace(Anything),
    #[command(hide = true)]
    Save(Anything),
    #[command(hide = true)]
    Restore(Anything),
    #[command(hide = true)]
    Failover(Anything),
    #[command(hide = true)]
    Doctor(Anything),
}

impl Later {
    /// What to do instead.
    pub fn sentence(&self) -> String {
        let (name, mend) = match self {
            Self::Top(_) => ("top", "use `list --rate`"),
            Self::Trace(_) => ("trace", "use `connections --client ADDRESS`"),
            Self::Save(_) => ("save", "use `list --json`, or keep the configuration file"),
            Self::Restore(_) => ("restore", "write the configuration file, then `reload`"),
            Self::Failover(_) => ("failover", "there is only this node"),
            Self::Doctor(_) => ("doctor", "use `status`"),
        };
        format!("this version does not have the command `{name}` yet: {mend}")
    }
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

/// Options of a service that are planned.
#[derive(Debug, Args)]
pub struct LaterOfService {
    #[arg(short = 'p', long, hide = true, num_args = 0..=1)]
    persistent: Option<Option<String>>,
    #[arg(short = 'M', long, hide = true)]
    netmask: Option<String>,
    #[arg(long, hide = true)]
    group: Option<String>,
}

impl LaterOfService {
    pub fn refuse(&self) -> Result<(), CommandError> {
        refuse_later(&[
            (self.persistent.is_some(), "--persistent"),
            (self.netmask.is_some(), "--netmask"),
            (self.group.is_some(), "--group"),
        ])
    }
}

/// Options of a real server that are planned.
#[derive(Debug, Args)]
pub struct LaterOfReal {
    #[arg(long, hide = true)]
    full_nat: bool,
    #[arg(short = 'g', long, hide = true)]
    direct: bool,
    #[arg(short = 'i', long, hide = true)]
    tunnel: bool,
    #[arg(short = 'x', long, hide = true)]
    upper: Option<String>,
    #[arg(short = 'y', long, hide = true)]
    lower: Option<String>,
}

impl LaterOfReal {
    pub fn refuse(&self) -> Result<(), CommandError> {
        refuse_later(&[
            (self.full_nat, "--full-nat"),
            (self.direct, "--direct"),
            (self.tunnel, "--tunnel"),
            (self.upper.is_some(), "--upper"),
            (self.lower.is_some(), "--lower"),
        ])
    }
}

fn refuse_later(options: &[(bool, &str)]) -> Result<(), CommandError> {
    match options.iter().find(|(given, _)| *given) {
        Some((_, option)) => Err(CommandError::Usage(format!(
            "this version does not have `{option}` yet: leave it out"
        ))),
        None => Ok(()),
    }
}
