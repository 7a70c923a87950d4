//! Packets on two CPUs at once.

use std::{sync::Barrier, thread};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::dataplane::{Dataplane, Side, test_run};

/// Frames, each with the side by which it enters.
pub type Frames = Vec<(Side, Vec<u8>)>;

/// How two CPUs go through their frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The first frames of both at the same moment, then the second ones, and so on.
    Together,
    /// Each as fast as it can.
    Free,
}

impl Dataplane {
    /// Runs frames on two CPUs at once. Returns of each the verdict's number and the frame afterwards.
    ///
    /// # Panics
    /// The machine has only one CPU.
    #[must_use]
    pub fn on_two_cpus(&self, pace: Pace, frames: [&Frames; 2]) -> [Vec<(u32, Vec<u8>)>; 2] {
        assert_eq!(frames[0].len(), frames[1].len());
        let program = self.program();
        let barrier = &Barrier::new(2);
        thread::scope(|scope| {
            let runners = [0, 1].map(|cpu| {
                scope.spawn(move || {
                    let mut cpus = CpuSet::new();
                    cpus.set(cpu).expect("a CPU number");
                    sched_setaffinity(Pid::from_raw(0), &cpus).expect("two CPUs");
                    barrier.wait();
                    let frames = frames[cpu].iter();
                    frames
                        .map(|(side, frame)| {
                            if pace == Pace::Together {
                                barrier.wait();
                            }
                            test_run(program, self.ifindex(*side), frame)
                        })
                        .collect()
                })
            });
            runners.map(|runner| runner.join().expect("a runner"))
        })
    }
}
