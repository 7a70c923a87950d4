//! Exec checks: a program's exit status. 0 = up, 1 = down, 2 to 255 = up with weight status - 2. Killed by a signal = down.
//!
//! The target's address is appended to the program's arguments, as mon does, so that mon's monitors run unchanged. A program that
//! a virtual router tracks has no target: it gets its own arguments alone, and all but 0 is down. The
//! first line that a program prints is the reason that operators read. When it ends or times out, its process group is
//! killed; processes that have left the group on purpose go on. A program that must not run because somebody else than
//! root and its own user can change it, or that this host cannot start for want of something, is inconclusive; one that does not exist
//! is a failure. A check never has two programs running, even if the first cannot be killed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};

use super::{AgentReply, CheckTarget, Passed, ProbeFailure, text};
use crate::{
    health::RequestedWeight,
    model::check::ExecProbe,
    os::program::{self, ExitReason, Leftovers, Program, StderrMode, trusted},
};

/// Bytes kept of standard output and of standard error.
const RETAINED_BYTES: usize = 4096;
/// How long a probe waits until the program that the last one killed at its timeout has been reaped.
const REAP_TIMEOUT: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Exec {
    /// The configured command line, which is checked before each start.
    run: Vec<String>,
    /// See [`ExecProbe::is_monitor`].
    is_monitor: bool,
    program: Program,
    /// Held while the program is checked and runs, which may outlast the probe.
    run_permit: Arc<Semaphore>,
    /// Whether the program is being checked, or its user looked up.
    is_checking: Arc<AtomicBool>,
}

impl Exec {
    pub fn new(check_target: &CheckTarget, probe: &ExecProbe) -> Result<Self, String> {
        let (program, arguments) = probe.run.split_first().ok_or("`run` names no program")?;
        let address = check_target.target.ip().to_string();
        let mut arguments = arguments.to_vec();
        let mut environment = vec![(
            "BALANCER_TIMEOUT",
            seconds(check_target.check.timing.timeout),
        )];
        if probe.is_monitor {
            arguments.push(address.clone());
            environment.extend([
                ("BALANCER_REAL_ADDRESS", address),
                ("BALANCER_REAL_PORT", check_target.target.port().to_string()),
            ]);
        }
        Ok(Self {
            run: probe.run.clone(),
            is_monitor: probe.is_monitor,
            program: Program {
                path: program.into(),
                arguments,
                user: probe.user.clone(),
                // Before the probe's own end, which counts against the target.
                check_timeout: check_target.check.timing.timeout * 9 / 10,
                environment: environment
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect(),
                input: Vec::new(),
                // The driver drops the probe at its timeout, which kills the process group at once. A monitor has
                // nothing to clean up, and the next probe follows soon.
                timeout: None,
                keep: RETAINED_BYTES,
                errors: StderrMode::Apart,
                left: Leftovers::Kill,
            },
            run_permit: Arc::new(Semaphore::new(1)),
            is_checking: Arc::default(),
        })
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let Ok(Ok(permit)) = timeout(REAP_TIMEOUT, self.run_permit.clone().acquire_owned()).await
        else {
            // What does not answer is this host, and says nothing of the target.
            if self.is_checking.load(Ordering::Relaxed) {
                return Err(ProbeFailure::Local(format!(
                    "cannot run {}: its files, or the user database, do not answer",
                    self.program.path.display()
                )));
            }
            return Err("the program's last run has not ended: it cannot be killed".into());
        };
        let (run, is_checking) = (self.run.clone(), self.is_checking.clone());
        is_checking.store(true, Ordering::Relaxed);
        let ran = self
            .program
            .run(move |account| {
                let checked = trusted(&run, account);
                is_checking.store(false, Ordering::Relaxed);
                checked.map(|()| permit)
            })
            .await;
        let finished = ran.map_err(|error| {
            let reason = format!("cannot run {}: {error}", self.program.path.display());
            match error {
                program::ProgramError::Missing(_) => ProbeFailure::Target(reason),
                // The program did not run, so nothing is known of the target.
                program::ProgramError::Refused(_) | program::ProgramError::System(_) => {
                    ProbeFailure::Local(reason)
                }
            }
        })?;
        let said = text::first_line(&finished.output.bytes);
        result_of(
            self.is_monitor,
            finished.end,
            said.or_else(|| text::first_line(&finished.errors.bytes)),
        )
    }
}

fn seconds(duration: Duration) -> String {
    let text = format!("{:.3}", duration.as_secs_f64());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn result_of(
    is_monitor: bool,
    end: ExitReason,
    said: Option<String>,
) -> Result<Passed, ProbeFailure> {
    let ExitReason::Exit(status) = end else {
        return Err(end.to_string().into());
    };
    let note = said.unwrap_or_else(|| end.to_string());
    match u32::try_from(status).unwrap_or(1) {
        0 => Ok(Passed::new(note)),
        status if status == 1 || !is_monitor => Err(note.into()),
        status => Ok(Passed {
            note,
            agent_reply: AgentReply {
                weight: Some(RequestedWeight::Absolute(status - 2)),
                ..AgentReply::default()
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::check::{Check, Probe, Source, Target, Timing};

    #[tokio::test]
    async fn no_second_program_starts_before_the_first_has_ended() {
        let probe = ExecProbe {
            user: None,
            is_monitor: true,
            run: vec!["/bin/true".to_owned()],
        };
        let check_target = CheckTarget {
            target: "192.0.2.1:80".parse().unwrap(),
            check: Check {
                probe: Probe::Exec(probe.clone()),
                target: Target::default(),
                source: Source::default(),
                timing: Timing::default(),
            },
        };
        let exec = Exec::new(&check_target, &probe).unwrap();
        let last = exec.run_permit.clone().acquire_owned().await.unwrap();
        let Err(ProbeFailure::Target(reason)) = exec.probe().await else {
            panic!("it ran");
        };
        assert_eq!(
            reason,
            "the program's last run has not ended: it cannot be killed"
        );
        drop(last);
        for _ in 0..3 {
            assert!(exec.probe().await.is_ok());
        }
    }
}
