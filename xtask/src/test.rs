//! `cargo xtask test`: runs all tests of the workspace and counts them together.

mod binaries;
mod kernel;
mod libtest;

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use self::{
    binaries::{Binary, Kind},
    libtest::Parser,
};
use crate::{
    cargo::{cargo, locked, target},
    dist::{self, Profile},
    kernel::release::Release,
    privilege,
    setup::{self, Consent, Purpose},
    tally::Tally,
};

/// If this variable is 1, tests that need root are skipped, counted and named.
const SKIP_PRIVILEGED: &str = "BALANCER_SKIP_PRIVILEGED";

/// Time after which a test program is killed.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Runs all tests: unit tests without root, then the packet suite and the namespaces as root.
///
/// Ends with the line `N passed, M failed, K skipped`. With BALANCER_SKIP_PRIVILEGED=1 the tests that need root
/// are skipped and counted.
///
/// With --kernel it boots a stock kernel of Debian's in QEMU, which needs neither root nor KVM, and runs there, as root:
/// the load of the packet program with every combination of its switches, the packet suite, and the tests of real
/// traffic over each kind of interface. Kernel and QEMU are downloaded from Debian and kept below target/kernels; the
/// newest version is looked up once a day. The guest takes several minutes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// Run the tests of the packet program on this kernel, in QEMU, and no others
    #[arg(long)]
    kernel: Option<Release>,
    /// Skip a kernel that cannot be downloaded, with the reason, instead of failing
    #[arg(long, requires = "kernel")]
    or_skip: bool,
    /// On the kernel, send single packets only, and no traffic over interfaces, which takes twice as long
    #[arg(long, requires = "kernel")]
    packets: bool,
    /// Run only tests whose name contains one of these
    filters: Vec<String>,
}

/// Runs all tests.
pub fn run(options: &Options) -> Result<ExitCode> {
    if let Some(release) = options.kernel {
        return kernel::run(&kernel::Run {
            release,
            filters: &options.filters,
            or_skip: options.or_skip,
            programs: match options.packets {
                true => &kernel::PACKETS[..],
                false => &kernel::ALL[..],
            },
            consent: setup::consent(options.yes),
        });
    }
    let skips_privileged = env::var(SKIP_PRIVILEGED).is_ok_and(|value| value == "1");
    let purposes: &[Purpose] = if skips_privileged {
        &[]
    } else {
        &[Purpose::Test]
    };
    setup::ensure(purposes, setup::consent(options.yes))?;
    let packer = if skips_privileged {
        None
    } else {
        packer(setup::consent(options.yes))
    };
    let mut tally = Tally::default();
    if let Err(error) = run_all(
        &options.filters,
        skips_privileged,
        packer.as_deref(),
        &mut tally,
    ) {
        // The remaining tests did not run: a failure, even if all before passed.
        eprintln!("error: {error:#}");
        tally.failed.push(format!("{error:#}"));
    }
    close(&tally);
    Ok(tally.exit_code())
}

/// Prints the skipped and failed tests, then the counts.
fn close(tally: &Tally) {
    println!();
    for line in tally.details() {
        println!("{line}");
    }
    if tally.passed == 0 && tally.failed.is_empty() {
        println!("no test ran");
    }
    println!("{tally}");
}

/// The program that makes the package, where the machine has what the package's test needs. Without it that test is skipped.
fn packer(consent: Consent) -> Option<PathBuf> {
    if !setup::is_installed("debootstrap") || !setup::is_installed("dpkg-shlibdeps") {
        return None;
    }
    dist::packer(consent)
        .inspect_err(|error| eprintln!("warning: no package is tested: {error:#}"))
        .ok()
}

fn run_all(
    filters: &[String],
    skips_privileged: bool,
    packer: Option<&Path>,
    tally: &mut Tally,
) -> Result<()> {
    build_programs()?;
    // The package's test would take one of an earlier run.
    dist::clear(Profile::Dev)?;
    if let Some(packer) = packer
        && let Err(error) = dist::build(packer, Profile::Dev)
    {
        // A failure, after which all tests but the package's can run.
        let failure = format!("the package cannot be made: {error:#}");
        eprintln!("error: {failure}");
        tally.failed.push(failure);
    }
    let mut binaries = binaries::build()?;
    // Tests without root come first: they are quick, and name the cause more precisely.
    binaries.sort_by_key(|binary| binary.kind);
    for binary in &binaries {
        let as_root = binary.kind == Kind::Privileged && !skips_privileged;
        println!(
            "\n== {}{}",
            binary.name,
            if as_root { " (as root)" } else { "" }
        );
        tally.add(run_binary(binary, filters, skips_privileged)?);
    }
    println!("\n== documentation");
    tally.add(run_doc_tests(filters)?);
    Ok(())
}

/// Builds the programs that the tests of real traffic run: cargo does not build another package's programs for a test.
fn build_programs() -> Result<()> {
    let built = cargo()
        .args(["build", "--package", "balancer-ctl", "--bins"])
        .args(locked())
        .status();
    ensure!(
        built.context("cannot run cargo")?.success(),
        "balancerd and balancer-ctl did not build"
    );
    Ok(())
}

fn run_binary(binary: &Binary, filters: &[String], skips_privileged: bool) -> Result<Tally> {
    let as_root = binary.kind == Kind::Privileged && !skips_privileged;
    let mut command = if as_root {
        privilege::as_root(&binary.name, &binary.path, &variables(binary))?
    } else {
        let mut command = Command::new(&binary.path);
        command.envs(variables(binary));
        command
    };
    if binary.kind == Kind::Privileged {
        // These tests share the kernel's state.
        command.arg("--test-threads=1");
    }
    command.args(filters).current_dir(&binary.package);
    follow(&mut command, &binary.name)
}

/// Returns the variables that cargo would set for a test, and those of the caller that tests read.
fn variables(binary: &Binary) -> Vec<(String, String)> {
    let mut variables = BTreeMap::new();
    for (name, value) in env::vars() {
        if name.starts_with("BALANCER_")
            || ["PATH", "RUST_BACKTRACE", "RUST_LOG", "CI"].contains(&name.as_str())
        {
            variables.insert(name, value);
        }
    }
    variables.insert(
        "CARGO_MANIFEST_DIR".into(),
        binary.package.display().to_string(),
    );
    variables.insert("BALANCER_TARGET".into(), target().display().to_string());
    variables.into_iter().collect()
}

fn run_doc_tests(filters: &[String]) -> Result<Tally> {
    let mut command = cargo();
    command
        .args(["test", "--doc", "--workspace", "--exclude", "balancer-ebpf"])
        .args(locked());
    if !filters.is_empty() {
        command.arg("--").args(filters);
    }
    follow(&mut command, "documentation")
}

/// Runs a test program, prints its output as it arrives, and counts its tests.
fn follow(command: &mut Command, name: &str) -> Result<Tally> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let output = child.stdout.take().context("the test has no output")?;
    let _running = watch(child.id(), name);
    let mut parser = Parser::new(name);
    for line in BufReader::new(output).split(b'\n') {
        let line = line.with_context(|| format!("cannot read what {name} prints"))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        parser.line(&line);
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {name}"))?;
    Ok(parser.finish(status.success(), &format!("{name} ended with {status}")))
}

/// Kills a test program after [`TIMEOUT`], unless the returned sender is dropped before. So a deadlock is reported with the program's
/// name, and the tests after it still run.
fn watch(id: u32, name: &str) -> Sender<()> {
    let (running, ended) = mpsc::channel();
    let name = name.to_owned();
    thread::spawn(move || {
        if ended.recv_timeout(TIMEOUT) == Err(RecvTimeoutError::Timeout)
            && let Ok(id) = i32::try_from(id)
        {
            println!("{name}: still running after {TIMEOUT:?}: killing it");
            // A failure means that it has just ended by itself.
            let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
        }
    });
    running
}
