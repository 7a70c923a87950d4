//! `cargo xtask test --kernel`: the tests of the packet program in a virtual machine with a stock kernel.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    binaries::{self, Binary, Kind},
    build_programs,
    libtest::Parser,
};
use crate::{
    cargo::target,
    kernel::{
        self, Parts,
        guest::{ALL_MODULES, Guest, Line, strip},
        machine::{self, Hardware},
        release::Release,
    },
    setup::Consent,
    tally::Tally,
};

/// Test programs that run in the guest: those that need only a kernel and the initramfs.
pub const ALL: [&str; 2] = ["dataplane", "interfaces"];
/// Of these, the one that sends single packets through the loaded program.
pub const PACKETS: [&str; 1] = ["dataplane"];

/// Where a guest panics when one of its CPUs executes an instruction of this function as it was before another changed it. The kernel
/// makes that impossible on real CPUs; the emulator's, each a thread, have been seen to do it.
const EMULATOR_FAULT: &str = "RIP: 0010:bpf_dispatcher_xdp_func+";

/// Time after which the guest is stopped: several times what it needs on two free CPUs.
const TIMEOUT: Duration = Duration::from_secs(40 * 60);

/// Which tests to run, on which kernel.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The kernel.
    pub release: Release,
    /// Run only tests whose name contains one of these; none = all.
    pub filters: &'a [String],
    /// The test programs.
    pub programs: &'a [&'a str],
    /// Whether a kernel that cannot be downloaded is skipped instead of an error.
    pub or_skip: bool,
    /// Whether to ask before downloading.
    pub consent: Consent,
}

/// Runs the tests and prints the closing line.
pub fn run(run: &Run<'_>) -> Result<ExitCode> {
    // A guest's file system and console are files of this kernel.
    let _guest = kernel::lock(&run.release.to_string())?;
    let lock = kernel::lock(kernel::PARTS)?;
    let parts = match kernel::provide(run.release, &[], run.consent) {
        Ok(parts) => parts,
        Err(error) if run.or_skip => {
            let skipped = (format!("kernel {}", run.release), format!("{error:#}"));
            let tally = Tally {
                skipped: vec![skipped],
                ..Tally::default()
            };
            super::close(&tally);
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            return Err(error.context(format!("kernel {} is not available", run.release)));
        }
    };
    let mut tally = Tally::default();
    let ran = make_guest(run, &parts).and_then(|initramfs| {
        drop(lock);
        run_guest(&parts, &initramfs, &mut tally)
    });
    if let Err(error) = ran {
        eprintln!("error: {error:#}");
        tally.failed.push(format!("{error:#}"));
    }
    super::close(&tally);
    Ok(tally.exit_code())
}

/// Builds the tests, and packs them with what they need into the guest's file system. Returns its path.
fn make_guest(run: &Run<'_>, parts: &Parts) -> Result<PathBuf> {
    build_programs()?;
    let mut guest = Guest::new(parts, &ALL_MODULES)?;
    let folder = parts.folder.join("stripped");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for program in ["balancerd", "balancer-ctl"] {
        let stripped = strip(&target().join("debug").join(program), program, &folder)?;
        // `tests/harness/daemon.rs` looks for them there.
        guest.add(&format!("target/debug/{program}"), &stripped)?;
    }
    let filters: Vec<_> = run.filters.iter().map(|filter| quoted(filter)).collect();
    let filters = filters.join(" ");
    let binaries = binaries::build()?;
    for name in run.programs {
        let is_it = |binary: &&Binary| {
            binary.kind == Kind::Privileged && binary.name.ends_with(&format!(" {name}"))
        };
        let binary = binaries
            .iter()
            .find(is_it)
            .with_context(|| format!("there is no test program {name}"))?;
        let stripped = strip(&binary.path, name, &folder)?;
        guest.add(&format!("tests/{name}"), &stripped)?;
        // One test at a time: each test run of a packet program changes kernel code, see `EMULATOR_FAULT`.
        guest.run(
            name,
            &format!(
                "cd /tests; BALANCER_TARGET=/target BALANCER_EMULATED=1 RUST_BACKTRACE=0 ./{name} --test-threads=1 {filters}"
            ),
        );
    }
    let initramfs = parts.folder.join(format!("test-{}.img", run.release));
    guest.write(&initramfs)?;
    Ok(initramfs)
}

fn run_guest(parts: &Parts, initramfs: &Path, tally: &mut Tally) -> Result<()> {
    if !run_once(parts, initramfs, tally)? {
        println!("the guest ended by a fault of the emulator's and runs once more");
        ensure!(
            run_once(parts, initramfs, tally)?,
            "the guest ended by a fault of the emulator's, twice"
        );
    }
    Ok(())
}

/// Runs the guest and counts its tests. `false`, with nothing counted, where it ended by [`EMULATOR_FAULT`].
fn run_once(parts: &Parts, initramfs: &Path, tally: &mut Tally) -> Result<bool> {
    let version = &parts.kernel.version;
    println!("\n== Linux {version} in QEMU");
    let start = Instant::now();
    let mut reader = Reader::new(format!("Linux {version}"));
    let ran = machine::run(
        &parts.emulator,
        &parts.kernel,
        initramfs,
        &Hardware {
            cpus: 2,
            counts_instructions: false,
            devices: Vec::new(),
        },
        TIMEOUT,
        |line| {
            if let Some(shown) = reader.line(line) {
                println!("{shown}");
            }
        },
    );
    println!("the guest ran for {} s", start.elapsed().as_secs());
    let console = machine::last_messages(&initramfs.with_extension("console"));
    let (counted, ended) = reader.finish();
    if !ended && console.contains(EMULATOR_FAULT) {
        return Ok(false);
    }
    tally.add(counted);
    ran?;
    ensure!(
        ended,
        "the guest ended before its tests did; its kernel's last messages:\n{console}"
    );
    Ok(true)
}

/// Quotes a text as one word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Counts the tests of the guest's programs.
#[derive(Debug)]
struct Reader {
    prefix: String,
    running: Option<(String, Parser)>,
    tally: Tally,
    is_done: bool,
}

impl Reader {
    const fn new(prefix: String) -> Self {
        Self {
            prefix,
            running: None,
            tally: Tally {
                passed: 0,
                failed: Vec::new(),
                skipped: Vec::new(),
            },
            is_done: false,
        }
    }

    /// Handles a line of the guest, and returns what to print of it.
    fn line(&mut self, line: &str) -> Option<String> {
        match Line::parse(line) {
            Line::Starts(name) => {
                let name = format!("{}: {name}", self.prefix);
                let heading = format!("\n== {name}");
                self.running = Some((name.clone(), Parser::new(&name)));
                Some(heading)
            }
            Line::Ended(_, status) => {
                if let Some((name, parser)) = self.running.take() {
                    let ending = format!("{name} ended with status {status}");
                    self.tally.add(parser.finish(status == 0, &ending));
                }
                None
            }
            Line::Done => {
                self.is_done = true;
                None
            }
            Line::Text(text) => {
                if let Some((_, parser)) = &mut self.running {
                    parser.line(text);
                }
                Some(text.to_owned())
            }
        }
    }

    /// Returns the counts, and whether all programs have ended.
    fn finish(mut self) -> (Tally, bool) {
        if let Some((name, parser)) = self.running {
            let ending = format!("{name} did not come to its end");
            self.tally.add(parser.finish(false, &ending));
        }
        (self.tally, self.is_done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Tally, bool) {
        let mut reader = Reader::new("Linux 6.1".into());
        for line in text.lines() {
            reader.line(line);
        }
        reader.finish()
    }

    const PASSED: &str = "@@ starts dataplane\nrunning 2 tests\ntest a ... ok\ntest b ... SKIPPED b: no bonds here\nok\n\
                          \ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
                          @@ ended dataplane 0\n";

    #[test]
    fn the_guests_tests_are_counted_and_named() {
        let failed = "@@ starts interfaces\ntest c ... FAILED\n\nfailures:\n\n---- c stdout ----\nboom\n\
                      test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n\
                      @@ ended interfaces 101\n@@ done\n";
        assert_eq!(
            read(&format!("{PASSED}{failed}")),
            (
                Tally {
                    passed: 2,
                    failed: vec!["Linux 6.1: interfaces: c".into()],
                    skipped: vec![("Linux 6.1: dataplane: b".into(), "no bonds here".into())],
                },
                true
            )
        );
    }

    #[test]
    fn a_kernel_that_stops_in_the_middle_is_a_failure() {
        let (tally, ended) = read(&format!("{PASSED}@@ starts interfaces\ntest c ... ok\n"));
        assert!(!ended);
        assert_eq!(tally.passed, 1);
        assert_eq!(
            tally.failed,
            ["Linux 6.1: interfaces did not come to its end"]
        );
        assert_eq!(read(""), (Tally::default(), false));
    }

    #[test]
    fn a_filter_is_one_word() {
        assert_eq!(quoted("case_67"), "'case_67'");
        assert_eq!(quoted("a'; reboot"), r"'a'\''; reboot'");
    }
}
