//! The daemon under test, with its files and its pins.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{ChildStderr, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use xtask::lab::{Namespace, Process};

use crate::topology::{Topology, run};

/// A daemon with its instance name, its files, and everything that must go with it.
pub struct Daemon {
    process: Option<Process>,
    /// The instance's name.
    pub instance: String,
    /// The configuration file.
    pub config: PathBuf,
    /// The daemon's log.
    pub log: PathBuf,
    balancer: PathBuf,
    folder: tempfile::TempDir,
}

impl Daemon {
    /// Writes the configuration and starts the daemon in the balancer's namespace; returns when it answers.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(topology: &Topology, services: &str) -> Self {
        let interfaces = topology.interfaces();
        Self::start_with(
            topology,
            &format!("[dataplane]\ninterfaces = {interfaces}\n{services}"),
        )
    }

    /// As [`Daemon::start`], with the whole file given.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start_with(topology: &Topology, config: &str) -> Self {
        let mut daemon = Self::prepare(topology, config);
        daemon.restart();
        daemon
    }

    /// Everything but the start.
    ///
    /// # Panics
    /// The files cannot be written.
    #[must_use]
    pub fn prepare(topology: &Topology, config: &str) -> Self {
        Self::prepare_in(&topology.balancer, config)
    }

    /// As [`Daemon::prepare`], in a namespace of another network.
    ///
    /// # Panics
    /// The files cannot be written.
    #[must_use]
    pub fn prepare_in(balancer: &Namespace, config: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let daemon = Self {
            process: None,
            instance: format!("tests-{}-{number}", std::process::id()),
            config: folder.path().join("balancer.toml"),
            log: folder.path().join("log"),
            balancer: balancer.path(),
            folder,
        };
        daemon.write(config);
        daemon
    }

    /// Writes the configuration file.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write(&self, config: &str) {
        fs::write(&self.config, config).expect("write the configuration");
    }

    /// The configuration file's content.
    ///
    /// # Panics
    /// It cannot be read.
    #[must_use]
    pub fn read(&self) -> String {
        fs::read_to_string(&self.config).expect("read the configuration")
    }

    /// Starts the daemon (again) and returns when it answers.
    ///
    /// # Panics
    /// It does not answer.
    pub fn restart(&mut self) {
        self.restart_with(|command| command);
    }

    /// As [`Daemon::restart`], with what `change` makes of the command.
    ///
    /// # Panics
    /// It does not answer.
    pub fn restart_with(&mut self, change: impl FnOnce(Command) -> Command) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("the log");
        let mut command = self.command("balancerd");
        command.arg("--config").arg(&self.config);
        let mut command = change(command);
        command
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let process = Process::spawn("balancerd", &mut command).unwrap_or_else(|e| panic!("{e:#}"));
        let process = self.process.insert(process);
        let mut ended = None;
        let mut asked = None;
        let start = Instant::now();
        // On an emulated CPU the verifier's work alone takes most of a minute, the first time.
        while start.elapsed() < Duration::from_secs(120) {
            ended = process.ended().expect("ask after the daemon");
            if ended.is_some() {
                break;
            }
            let answer = run(
                instance_command("balancer-ctl", &self.balancer, &self.instance)
                    .args(["status", "--json"]),
            );
            if answer.status.success() {
                return;
            }
            asked = Some(String::from_utf8_lossy(&answer.stderr).into_owned());
            thread::sleep(Duration::from_millis(20));
        }
        panic!(
            "the daemon does not answer ({ended:?}, {asked:?}); its log:\n{}",
            self.log()
        );
    }

    /// A program of the product, in the balancer's namespace, with this instance's name.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        instance_command(program, &self.balancer, &self.instance)
    }

    /// Runs `balancer-ctl` with the arguments of a command line and returns what it printed.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn ctl(&self, arguments: &str) -> String {
        let output = run(self
            .command("balancer-ctl")
            .args(arguments.split_whitespace()));
        assert!(
            output.status.success(),
            "balancer-ctl {arguments}: {} {}\nthe daemon's log:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `balancer-ctl --json` and returns what it printed.
    ///
    /// # Panics
    /// It fails, or that is no JSON.
    #[track_caller]
    #[must_use]
    pub fn json(&self, arguments: &str) -> serde_json::Value {
        serde_json::from_str(&self.ctl(&format!("{arguments} --json"))).expect("JSON")
    }

    /// Follows the events from now on: what is done after this is heard of.
    ///
    /// # Panics
    /// The daemon does not answer.
    #[must_use]
    pub fn follow_events(&self) -> Events {
        let mut command = self.command("balancer-ctl");
        command
            .args(["events", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::spawn("balancer-ctl events", &mut command).expect("start it");
        let output = process.child().stdout.take().expect("its output");
        let mut said = BufReader::new(process.child().stderr.take().expect("its words"));
        let mut line = String::new();
        said.read_line(&mut line).expect("read its words");
        assert_eq!(line, "events from now on (Ctrl-C ends)\n");
        let (sender, lines) = mpsc::channel();
        // It ends with its program.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Events {
            _process: process,
            _said: said,
            lines,
        }
    }

    /// Everything that the daemon has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The running daemon.
    ///
    /// # Panics
    /// It does not run.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the daemon runs")
    }

    /// Stops it as the service manager does, and asserts that it ends well.
    ///
    /// # Panics
    /// It does not end, or not with status 0.
    pub fn stop(&mut self) {
        self.process().signal(Signal::SIGTERM).expect("it runs");
        let status = self
            .process()
            .wait(Duration::from_secs(10))
            .expect("it ends");
        assert!(status.success(), "{status}; its log:\n{}", self.log());
        self.process = None;
    }

    /// Takes the data plane down.
    ///
    /// # Panics
    /// That fails.
    pub fn detach(&self) {
        let output = run(self
            .command("balancerd")
            .arg("--config")
            .arg(&self.config)
            .arg("--detach"));
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Where this instance's pins are.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/balancer").join(&self.instance)
    }

    /// A folder that goes with the daemon.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Events as they happen.
pub struct Events {
    _process: Process,
    /// Open, so that it may still speak.
    _said: BufReader<ChildStderr>,
    /// Each with when it came.
    lines: mpsc::Receiver<(Instant, String)>,
}

impl Events {
    /// Waits for the next event of a kind; returns when it came, and its line.
    ///
    /// # Panics
    /// It does not come within twenty seconds.
    #[track_caller]
    pub fn next_with(&mut self, kind: &str) -> (Instant, String) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut others = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok((came, line)) if line.contains(&format!("\"{kind}\"")) => return (came, line),
                Ok((_, line)) => others.push(line),
                Err(error) => panic!("no `{kind}`: {error}; came: {others:#?}"),
            }
        }
    }

    /// All that has come since it was asked last.
    #[must_use]
    pub fn rest(&self) -> Vec<String> {
        self.lines.try_iter().map(|(_, line)| line).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() && self.process.is_some() {
            let status = run(self.command("balancer-ctl").arg("status"));
            eprintln!(
                "the daemon's status:\n{}",
                String::from_utf8_lossy(&status.stdout)
            );
        }
        drop(self.process.take());
        for folder in ["/sys/fs/bpf/balancer", "/run/balancer", "/var/lib/balancer"] {
            // Not every instance got as far as to make each.
            let _ = fs::remove_dir_all(Path::new(folder).join(&self.instance));
        }
        if thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

fn instance_command(program: &str, balancer: &Path, instance: &str) -> Command {
    // Not `ip netns exec`: it would mount a new /sys, on which pins do not outlive the daemon.
    let mut command = Command::new("nsenter");
    let mut net = std::ffi::OsString::from("--net=");
    net.push(balancer);
    command
        .arg(net)
        .arg(binary(program))
        .args(["--instance", instance]);
    command
}

/// The path of one of the product's programs, built as it is now.
///
/// # Panics
/// It cannot be built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // `cargo xtask test` has built them and says where.
        if let Some(target) = std::env::var_os("BALANCER_TARGET") {
            return Path::new(&target).join("debug");
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--package", "balancer-ctl", "--bins"])
            .status()
            .expect("run cargo");
        assert!(status.success(), "cannot build balancerd and balancer-ctl");
        let test = std::env::current_exe().expect("this test's path");
        test.parent()
            .and_then(Path::parent)
            .expect("target/debug/deps")
            .to_owned()
    });
    folder.join(name)
}
