//! The daemon: arguments, log, and the order in which it starts.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use balancer_ctl::{
    api::listen::Lock,
    cli::{self, balancerd::Arguments},
    config::{
        file,
        read::{
            DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_PERSISTENCE, DEFAULT_SNAT_PORTS, DEFAULT_TIMEOUTS,
        },
        validate::validate,
    },
    control::load::{self, load_to_run},
    dataplane::{
        Dataplane,
        kernel::{self, KernelDataplane, OpenOptions, PacketLog},
        kernel_version,
    },
    host::identity,
    model::{
        DataplaneSettings, Mode, Model, PeerSettings, StrayReplies, limits::max_connections_ipv6,
    },
    os::{
        heap,
        paths::DEFAULT_CONFIG,
        printable::{PrintableLog, printable_lines},
        program,
    },
    startup::{self, Source},
    vrrp::guard::process,
};
use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{
    filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

fn main() -> ExitCode {
    program::run_if_asked();
    process::run_if_asked();
    heap::share();
    let arguments: Arguments = cli::parsed();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(1)
        }
    }
}

fn report(error: &anyhow::Error) {
    // Errors of a file are lines of their own, as compilers write them.
    let text = match error.downcast_ref() {
        Some(file::FileError::Invalid { .. }) => error.to_string(),
        Some(file::FileError::Unreadable { .. }) | None => format!("error: {error:#}"),
    };
    write_line(&text);
}

/// Writes to standard error. With no one to read it, the exit status alone must do.
fn write_line(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable_lines(text));
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let host = identity::host_name();
    if arguments.check {
        return check(&arguments.config, &host);
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("balancerd must run as root: the packet program is loaded into the kernel");
    }
    let instance = arguments.instance.clone().unwrap_or_default();
    if arguments.detach {
        let _lock = Lock::take(&instance)?;
        if !kernel::detach(instance.name()).map_err(|error| error.0)? {
            bail!(
                "there is no data plane of {} to take down",
                instance.name().map_or_else(
                    || "the default instance".into(),
                    |name| format!("instance `{name}`")
                )
            );
        }
        return Ok(());
    }
    start_log(arguments);
    let source = source(arguments, host)?;
    let _lock = Lock::take(&instance)?;
    let socket = arguments
        .socket
        .clone()
        .unwrap_or_else(|| instance.socket());
    let open = |model: &Model, services| -> anyhow::Result<Box<dyn Dataplane>> {
        let options = OpenOptions {
            instance: instance.name().map(str::to_owned),
            settings: model.dataplane.clone(),
            services,
            packet_log: packet_log(arguments.packet_log),
        };
        Ok(Box::new(
            KernelDataplane::open(options).map_err(|error| error.0)?,
        ))
    };
    startup::serve(
        open,
        &instance.state_directory(),
        source,
        &socket,
        identity::interfaces,
    )
}

/// Says all that is wrong with the file, and whether this kernel is too old.
fn check(config: &Path, host: &str) -> anyhow::Result<()> {
    let age = kernel_version::check();
    match load::check(config, host) {
        Ok(file) => {
            if let Some(warning) = file.distrust_warning() {
                write_line(&format!("warning: {warning}"));
            }
            age
        }
        Err(error) => {
            if let Err(age) = age {
                report(&age);
            }
            Err(error.into())
        }
    }
}

/// Log lines go to standard error; systemd adds the time to them, so they carry none there.
fn start_log(arguments: &Arguments) {
    let level = arguments.log;
    // The packet program's lines come under its crate's name, which ours begin with.
    let targets = Targets::new()
        .with_default(level)
        .with_target("balancer", arguments.packet_log)
        .with_target("balancer_ctl", level)
        .with_target("balancerd", level);
    let log = tracing_subscriber::fmt::layer()
        .with_writer(|| PrintableLog(io::stderr()))
        .with_target(false);
    let registry = tracing_subscriber::registry().with(targets);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        registry.with(log.without_time().with_ansi(false)).init();
    } else {
        registry
            .with(log.with_ansi(io::stderr().is_terminal()))
            .init();
    }
}

fn source(arguments: &Arguments, host: String) -> anyhow::Result<Source> {
    let path = &arguments.config;
    if arguments.interface.is_empty() {
        if path == Path::new(DEFAULT_CONFIG) && !path.exists() {
            bail!(
                "there is no {DEFAULT_CONFIG}: write one, name another with --config FILE, or run without one with --interface NAME"
            );
        }
        let path =
            std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))?;
        return Ok(Source::File(load_to_run(&path, &host)?));
    }
    if path != Path::new(DEFAULT_CONFIG) {
        bail!(
            "--interface runs without a configuration file: leave it out, or leave {} out",
            path.display()
        );
    }
    let model = Model {
        node: host,
        dataplane: DataplaneSettings {
            interfaces: arguments.interface.clone(),
            mode: Mode::default(),
            max_connections: DEFAULT_MAX_CONNECTIONS,
            max_connections_ipv6: max_connections_ipv6(DEFAULT_MAX_CONNECTIONS),
            max_persistence: DEFAULT_MAX_PERSISTENCE,
            stray_replies: StrayReplies::default(),
            snat_addresses: Vec::new(),
            snat_ports: DEFAULT_SNAT_PORTS,
            timeouts: DEFAULT_TIMEOUTS,
        },
        services: Vec::new(),
        notify: Vec::new(),
        peers: PeerSettings::default(),
        vrrp: Vec::new(),
    };
    if let Some(problem) = validate(&model).into_iter().next() {
        bail!(problem.sentence);
    }
    tracing::info!("no configuration file, every change is forgotten when the daemon stops");
    Ok(Source::Runtime(Box::new(model)))
}

fn packet_log(level: LevelFilter) -> Option<PacketLog> {
    Some(match level.into_level()? {
        Level::ERROR => PacketLog::Error,
        Level::WARN => PacketLog::Warn,
        Level::INFO => PacketLog::Info,
        Level::DEBUG => PacketLog::Debug,
        Level::TRACE => PacketLog::Trace,
    })
}
