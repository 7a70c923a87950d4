//! The daemon: arguments, log, and the order in which it starts.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use balancer_ctl::{
    api::listen::Lock,
    config::{
        file,
        read::{DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_PERSISTENCE, DEFAULT_TIMEOUTS},
        validate::validate,
    },
    control::load::{load, load_to_run},
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
        paths::{DEFAULT_CONFIG, Instance},
        program,
    },
    startup::{self, Source},
    vrrp::guard::process,
};
use clap::Parser;
use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{
    filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// The load balancer's daemon: owns the packet program and the control socket.
///
/// Stopping or killing it never stops forwarding; `--detach` does. SIGHUP loads the configuration file again.
#[derive(Debug, Parser)]
#[command(
    name = "balancerd",
    version,
    max_term_width = 100,
    after_help = "Example:\n  balancerd --config /etc/balancer/balancer.toml\n  balancerd --interface eth0 --interface eth1"
)]
struct Arguments {
    /// The configuration file
    #[arg(long, env = "BALANCER_CONFIG", value_name = "FILE", default_value = DEFAULT_CONFIG, hide_env_values = true)]
    config: PathBuf,
    /// Run without a configuration file, on this interface (may be repeated); no change outlives the daemon
    #[arg(long, value_name = "NAME", conflicts_with = "check")]
    interface: Vec<String>,
    /// Which of several daemons on this host, each in its own network namespace
    #[arg(long, value_name = "NAME")]
    instance: Option<Instance>,
    /// The control socket [default: /run/balancer/control.sock]
    #[arg(
        long,
        env = "BALANCER_SOCKET",
        value_name = "PATH",
        hide_env_values = true
    )]
    socket: Option<PathBuf>,
    /// Check the configuration file and whether this kernel (Linux 6.1 or newer) can run it, and exit: 0 good, 1 bad
    #[arg(long, conflicts_with = "detach")]
    check: bool,
    /// Take the data plane down and exit: packets are no longer balanced
    #[arg(long)]
    detach: bool,
    /// What the log shows: error, warn, info, debug, trace, off
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: LevelFilter,
    /// What the packet program logs; anything but off costs each packet
    #[arg(long, value_name = "LEVEL", default_value = "off")]
    packet_log: LevelFilter,
}

fn main() -> ExitCode {
    program::run_if_asked();
    process::run_if_asked();
    heap::share();
    let arguments = Arguments::parse();
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
    // With no one to read it, the status alone must do.
    let _ = writeln!(io::stderr(), "{text}");
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
        identity::addresses,
    )
}

/// Says all that is wrong with the file, and whether this kernel is too old.
fn check(config: &Path, host: &str) -> anyhow::Result<()> {
    let age = kernel_version::check();
    match load(config, host) {
        Ok(_) => age,
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
        .with_writer(io::stderr)
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
    Ok(Source::Runtime(model))
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
