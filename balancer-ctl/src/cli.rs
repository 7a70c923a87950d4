//! The operator's tool `balancer-ctl`: sends one request to the daemon, and prints the answer.

mod arguments;
pub mod balancerd;
mod completions;
mod connections;
mod events;
mod health;
mod ipvsadm;
mod letters;
mod list;
mod long_list;
mod manual;
mod node;
mod persistence;
mod planned;
mod problems;
mod real;
mod render;
mod save;
mod service;
mod status;
mod table;
mod terminal;
mod trace;

use std::{
    env,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use self::{
    arguments::{Arguments, Command, with_required},
    completions::shown,
    render::as_lines,
};
use crate::{
    api::{
        ChangeResult,
        client::{self, Client},
    },
    config::{
        file::{ConfigFile, FileError},
        read::ReadError,
    },
    model::AdminState,
    os::printable::{printable_json, printable_lines, printable_output},
};

/// Why a command failed.
#[derive(Debug)]
enum CommandError {
    /// Refused or failed: exit status 1.
    Refused(String),
    /// Wrong usage: exit status 2.
    Usage(String),
    /// No daemon answers: exit status 3.
    Unreachable(String),
    /// The reader of the output has closed the pipe: exit status 0, without a message.
    BrokenPipe,
    /// The errors were printed already: exit status 1.
    Printed,
}

impl From<client::ClientError> for CommandError {
    fn from(error: client::ClientError) -> Self {
        match error {
            client::ClientError::Unreachable { .. } => Self::Unreachable(error.to_string()),
            client::ClientError::Refused(sentence) => Self::Refused(sentence),
        }
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Refused(format!("cannot write the output: {error}")),
        }
    }
}

/// The client of the daemon, and the form of the output.
struct Context {
    client: Client,
    json: bool,
    /// Columns of the terminal that shows the output; `None` where no terminal does.
    width: Option<usize>,
}

/// Loads and checks a configuration file. The second argument is the host's name.
pub type LoadConfig = fn(&Path, &str) -> Result<ConfigFile, FileError>;

/// Reads the command line that the process was started with. Ends the process where it is wrong, or asks for help; what of it is quoted
/// is printable.
#[must_use]
pub fn parsed<T: Parser>() -> T {
    T::try_parse().unwrap_or_else(|error| {
        // The same again, with usage and help in which what is required looks required.
        let again = with_required(T::command()).try_get_matches();
        let error = again.err().unwrap_or(error);
        let styled = error.render().ansi().to_string();
        if printable_output(&styled) == styled {
            error.exit();
        }
        let shown = printable_lines(&error.render().to_string());
        let _ = io::stderr().write_all(shown.as_bytes());
        std::process::exit(error.exit_code());
    })
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main(load: LoadConfig) -> ExitCode {
    let words: Vec<_> = env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if let Some(sentence) = letters::refusal(&words) {
        return exit_code(&Err(CommandError::Usage(sentence)));
    }
    let arguments = parsed::<Arguments>();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return exit_code(&Err(CommandError::Refused(format!(
                "cannot start: {error}"
            ))));
        }
    };
    exit_code(&runtime.block_on(run(arguments, load)))
}

fn exit_code(result: &Result<ExitCode, CommandError>) -> ExitCode {
    let (sentence, status) = match result {
        Ok(status) => return *status,
        Err(CommandError::BrokenPipe) => return ExitCode::SUCCESS,
        Err(CommandError::Printed) => return ExitCode::from(1),
        Err(CommandError::Refused(sentence)) => (sentence, 1),
        Err(CommandError::Usage(sentence)) => (sentence, 2),
        Err(CommandError::Unreachable(sentence)) => (sentence, 3),
    };
    // If standard error is closed, the exit status has to do.
    let _ = writeln!(io::stderr(), "error: {}", printable_lines(sentence));
    ExitCode::from(status)
}

async fn run(arguments: Arguments, load: LoadConfig) -> Result<ExitCode, CommandError> {
    let Arguments {
        socket,
        instance,
        json,
        command,
        ..
    } = arguments;
    let Some(command) = command else {
        // Without a command: the exit status of wrong usage, and the whole help.
        let _ = write!(io::stderr(), "{}", Arguments::command().render_help());
        return Ok(ExitCode::from(2));
    };
    let socket = socket.unwrap_or_else(|| instance.unwrap_or_default().socket());
    let context = Context {
        client: Client::new(&socket),
        json,
        width: terminal::width(),
    };
    match command {
        Command::AddService(arguments) => service::add(&context, arguments).await?,
        Command::EditService(arguments) => service::edit(&context, arguments).await?,
        Command::DelService(arguments) => service::del(&context, arguments).await?,
        Command::AddReal(arguments) => real::add(&context, arguments).await?,
        Command::EditReal(arguments) => real::edit(&context, arguments).await?,
        Command::DelReal(arguments) => real::del(&context, arguments).await?,
        Command::Drain(arguments) => real::set(&context, arguments, AdminState::Drain).await?,
        Command::Maintenance(arguments) => {
            real::set(&context, arguments, AdminState::Maintenance).await?;
        }
        Command::Ready(arguments) => real::set(&context, arguments, AdminState::Ready).await?,
        Command::Health(arguments) => health::health(&context, arguments).await?,
        Command::List(arguments) => list::list(&context, &arguments).await?,
        Command::Connections(arguments) => connections::list(&context, arguments).await?,
        Command::Trace(arguments) => trace::trace(&context, arguments).await?,
        Command::Persistence(arguments) => persistence::persistence(&context, arguments).await?,
        Command::Status(arguments) => return status::status(&context, &arguments).await,
        Command::Failover(arguments) => node::failover(&context, &arguments).await?,
        Command::Diff(arguments) => node::diff(&context, &arguments).await?,
        Command::Push(arguments) => node::push(&context, &arguments).await?,
        Command::Node(node) => node::node(&context, node).await?,
        Command::Events(arguments) => events::events(&context, &arguments).await?,
        Command::Check(arguments) => check(&context, &arguments.file, load)?,
        Command::Reload => context.change(hyper::Method::POST, "/v1/reload").await?,
        Command::Zero(arguments) => {
            let target = match arguments.service.named()? {
                None => "/v1/zero".to_owned(),
                Some(service) => format!("/v1/services/{}/zero", encoded(&service.to_string())),
            };
            context.change(hyper::Method::POST, &target).await?;
        }
        Command::Clear(arguments) => service::clear(&context, &arguments).await?,
        Command::Save(_) => save::save(&context).await?,
        Command::Restore(arguments) => save::restore(&context, arguments).await?,
        Command::Completions(arguments) => completions::completions(arguments.shell)?,
        Command::Man(arguments) => manual::man(&arguments)?,
        Command::Planned(planned) => return Err(CommandError::Usage(planned.sentence())),
    }
    Ok(ExitCode::SUCCESS)
}

fn check(context: &Context, path: &Path, load: LoadConfig) -> Result<(), CommandError> {
    #[derive(Serialize)]
    struct ValidFile<'a> {
        file: &'a Path,
        services: usize,
        reals: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        warning: Option<String>,
    }
    #[derive(Serialize)]
    struct InvalidFile<'a> {
        file: &'a Path,
        errors: Vec<ReadError>,
    }
    let host = crate::host::identity::host_name();
    match load(path, &host) {
        Ok(file) => {
            let services = &file.model().services;
            let reals = services.iter().map(|service| service.reals.len()).sum();
            let valid = ValidFile {
                file: path,
                services: services.len(),
                reals,
                warning: file.distrust_warning(),
            };
            if let Some(warning) = &valid.warning
                && !context.json
            {
                writeln!(io::stderr(), "warning: {}", printable_lines(warning))?;
            }
            context.print(&valid, |valid| {
                format!(
                    "{}: good, {} and {}\n",
                    valid.file.display(),
                    render::counted(valid.services as u64, "service"),
                    render::counted(valid.reals as u64, "real server")
                )
            })
        }
        Err(FileError::Invalid { path, errors }) if context.json => {
            context.print(
                &InvalidFile {
                    file: &path,
                    errors,
                },
                |_| String::new(),
            )?;
            Err(CommandError::Printed)
        }
        // Each line is a position and a sentence, as compilers print them.
        Err(error @ FileError::Invalid { .. }) => {
            writeln!(io::stderr(), "{}", printable_lines(&error.to_string()))?;
            Err(CommandError::Printed)
        }
        Err(error @ FileError::Unreadable { .. }) => Err(CommandError::Refused(error.to_string())),
    }
}

/// Lists options: "--a, --b or --c".
fn listed_options(options: &[&str]) -> String {
    let options: Vec<_> = options.iter().map(|option| format!("--{option}")).collect();
    match options.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => options.concat(),
    }
}

/// The characters that are percent-encoded in a path or query: all but unreserved ones (RFC 3986).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A path with the query of those parameters that have a value.
fn with_query<const N: usize>(path: &str, parameters: [(&str, Option<String>); N]) -> String {
    let given: Vec<_> = parameters
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", encoded(&value?))))
        .collect();
    format!("{path}?{}", given.join("&"))
}

/// Percent-encodes a text for use as a path segment or query value.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

impl Context {
    /// Sends a change without a body.
    async fn change(&self, method: hyper::Method, target: &str) -> Result<(), CommandError> {
        self.change_with(method, target, None::<&()>).await
    }

    async fn change_with(
        &self,
        method: hyper::Method,
        target: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<(), CommandError> {
        let done: ChangeResult = self.client.send(method, target, body).await?;
        self.print_change(&done, as_lines)
    }

    /// Prints the answer to a change: its notes as JSON or as `rendered` for people, who get its warnings on standard error.
    fn print_change(
        &self,
        done: &ChangeResult,
        rendered: impl FnOnce(&[String]) -> String,
    ) -> Result<(), CommandError> {
        self.print(done, |done| rendered(&done.notes))?;
        if !self.json {
            for warning in &done.warnings {
                writeln!(io::stderr(), "warning: {}", printable_lines(warning))?;
            }
        }
        Ok(())
    }

    /// Prints a value as JSON, or as `rendered` for people.
    fn print<T: Serialize>(
        &self,
        value: &T,
        rendered: impl FnOnce(&T) -> String,
    ) -> Result<(), CommandError> {
        let text = if self.json {
            let json = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
            format!("{}\n", printable_json(&json))
        } else {
            printable_output(&rendered(value))
        };
        Ok(write(&text)?)
    }
}

/// Writes text; colours only where a terminal reads it and `NO_COLOR` is not set.
fn write(text: &str) -> io::Result<()> {
    let mut output = anstream::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}
