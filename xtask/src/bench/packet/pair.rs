//! The same work on two CPUs, one after the other or at once.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{
    cpus,
    runner::{Delivery, Front},
};

/// Least share of the time in which both must run; below it a warning is printed.
const TOLERABLE: f64 = 0.9;

/// Two front programs, each for a CPU of its own.
pub type Fronts = [Front; 2];

/// Runs each front program alone on its CPU, one after the other, and returns the mean of both in nanoseconds per
/// packet.
///
/// # Errors
/// A CPU is not there, or the kernel refused a run.
pub fn one_by_one(fronts: &Fronts, cpus: [usize; 2], ifindex: u32, packets: u32) -> Result<f64> {
    let mut sum = 0.0;
    for (front, cpu) in fronts.iter().zip(cpus) {
        sum += on(cpu, || front.measure(ifindex, packets, Delivery::Verdict))?;
    }
    Ok(sum / 2.0)
}

/// Runs both front programs at once and returns the mean of both in nanoseconds of CPU time per packet.
///
/// # Errors
/// A CPU is not there, or the kernel refused a run.
pub fn at_once(fronts: &Fronts, cpus: [usize; 2], ifindex: u32, packets: u32) -> Result<f64> {
    let barrier = Barrier::new(2);
    let run = |front: &Front, cpu| {
        let stays = cpus::stay_on(cpu);
        barrier.wait();
        stays?;
        let start = Instant::now();
        let time = front.measure(ifindex, packets, Delivery::Verdict)?;
        Ok((time, start, Instant::now()))
    };
    let [first, second] = fronts;
    let (first, second) = thread::scope(|scope| {
        let other = scope.spawn(|| run(second, cpus[1]));
        let here = scope.spawn(|| run(first, cpus[0]));
        (joined(here.join()), joined(other.join()))
    });
    let ((first, start, end), (second, other_start, other_end)) = (first?, second?);
    let common = overlap(
        (Duration::ZERO, end - start),
        (
            other_start.saturating_duration_since(start),
            other_end.saturating_duration_since(start),
        ),
    );
    if common < TOLERABLE {
        eprintln!(
            "warning: both CPUs were at it for {:.0} % of the time only: the row looks better than it is",
            100.0 * common
        );
    }
    Ok(f64::midpoint(first, second))
}

/// Runs `work` on a thread that stays on a CPU.
fn on(cpu: usize, work: impl FnOnce() -> Result<f64> + Send) -> Result<f64> {
    let work = || {
        cpus::stay_on(cpu)?;
        work()
    };
    thread::scope(|scope| joined(scope.spawn(work).join()))
}

fn joined<T>(result: thread::Result<Result<T>>) -> Result<T> {
    result.unwrap_or_else(|_| bail!("a measuring thread panicked"))
}

/// The share of the time covered by two spans that belongs to both.
fn overlap(one: (Duration, Duration), other: (Duration, Duration)) -> f64 {
    let all = one.1.max(other.1).saturating_sub(one.0.min(other.0));
    let both = one.1.min(other.1).saturating_sub(one.0.max(other.0));
    if all.is_zero() {
        return 0.0;
    }
    both.as_secs_f64() / all.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overlap_is_the_common_share_of_all_that_two_spans_cover() {
        let span = |from, to| (Duration::from_secs(from), Duration::from_secs(to));
        assert!((overlap(span(0, 4), span(0, 4)) - 1.0).abs() < 1e-9);
        assert!((overlap(span(0, 3), span(1, 4)) - 0.5).abs() < 1e-9);
        assert!(overlap(span(0, 1), span(2, 3)).abs() < 1e-9);
    }
}
