//! A program's exit status: 0 is up, 1 down, 2 to 255 up with weight = status - 2. A signal's death is down.
//!
//! The target's address is put behind the program's arguments, as mon does: its monitors run unchanged. The first
//! line that a program prints is the reason that operators read. When it ends, or is out of time, all that it has
//! started ends with it, but for processes that have left its process group on purpose. A program that must not run, as
//! others than root can change it by now, or that this host has not the means to start says nothing about the target;
//! one that is gone fails. There is never more than one of a check, even if it cannot be killed.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::timeout};

use super::{AgentReply, CheckTarget, Passed, ProbeFailure, text};
use crate::{
    health::RequestedWeight,
    model::check::ExecProbe,
    os::program::{self, ExitReason, Leftovers, Program, StderrMode, trusted},
};

/// How much of each output is kept.
const KEPT: usize = 4096;
/// How long the kernel has to hand over what was killed when the last probe's time was up.
const HANDOVER: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Exec {
    /// As the file says: what is judged before each start.
    run: Vec<String>,
    program: Program,
    /// Taken while it is judged and runs, be it longer than a probe.
    turn: Arc<Semaphore>,
}

impl Exec {
    pub fn new(watched: &CheckTarget, probe: &ExecProbe) -> Result<Self, String> {
        let (program, arguments) = probe.run.split_first().ok_or("`run` names no program")?;
        let address = watched.target.ip().to_string();
        let environment = [
            ("BALANCER_REAL_ADDRESS", address.clone()),
            ("BALANCER_REAL_PORT", watched.target.port().to_string()),
            ("BALANCER_TIMEOUT", seconds(watched.check.timing.timeout)),
        ];
        Ok(Self {
            run: probe.run.clone(),
            program: Program {
                path: program.into(),
                arguments: [arguments, &[address]].concat(),
                environment: environment
                    .map(|(name, value)| (name.to_owned(), value))
                    .to_vec(),
                input: Vec::new(),
                // The probe is dropped when its time is up, and all of the program is killed at once: it has nothing to
                // bring to an end, and the next probe comes soon.
                timeout: None,
                keep: KEPT,
                errors: StderrMode::Apart,
                left: Leftovers::Kill,
            },
            turn: Arc::new(Semaphore::new(1)),
        })
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let Ok(Ok(turn)) = timeout(HANDOVER, self.turn.clone().acquire_owned()).await else {
            return Err("the program's last run has not ended: it cannot be killed".into());
        };
        let run = self.run.clone();
        let ran = self.program.run(move || trusted(&run).map(|()| turn)).await;
        let finished = ran.map_err(|error| {
            let told = format!("cannot run {}: {error}", self.program.path.display());
            match error {
                program::ProgramError::Missing(_) => ProbeFailure::Target(told),
                // The target was not asked.
                program::ProgramError::Refused(_) | program::ProgramError::System(_) => {
                    ProbeFailure::Local(told)
                }
            }
        })?;
        let said = text::first_line(&finished.output.bytes);
        judge(
            finished.end,
            said.or_else(|| text::first_line(&finished.errors.bytes)),
        )
    }
}

fn seconds(duration: Duration) -> String {
    let text = format!("{:.3}", duration.as_secs_f64());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn judge(end: ExitReason, said: Option<String>) -> Result<Passed, ProbeFailure> {
    let ExitReason::Exit(status) = end else {
        return Err(end.to_string().into());
    };
    let note = said.unwrap_or_else(|| end.to_string());
    match u32::try_from(status).unwrap_or(1) {
        0 => Ok(Passed::new(note)),
        1 => Err(note.into()),
        status => Ok(Passed {
            note,
            advice: AgentReply {
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
    async fn there_is_no_second_program_while_the_last_has_not_ended() {
        let probe = ExecProbe {
            run: vec!["/bin/true".to_owned()],
        };
        let watched = CheckTarget {
            target: "192.0.2.1:80".parse().unwrap(),
            check: Check {
                probe: Probe::Exec(probe.clone()),
                target: Target::default(),
                source: Source::default(),
                timing: Timing::default(),
            },
        };
        let exec = Exec::new(&watched, &probe).unwrap();
        let last = exec.turn.clone().acquire_owned().await.unwrap();
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
