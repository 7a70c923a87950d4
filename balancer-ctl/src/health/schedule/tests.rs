use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn pace(milliseconds: u32) -> Pace {
    Pace {
        interval: milliseconds * MS,
        fast: None,
    }
}

/// Runs a schedule like a loop with exact timers; each probe takes `latency`.
struct Simulation {
    schedule: Schedule,
    begin: Instant,
    now: Instant,
    /// Running checkers, by when they end.
    ends: BTreeSet<(Instant, CheckerId)>,
    starts: Vec<(Duration, CheckerId)>,
}

impl Simulation {
    fn new() -> Self {
        let begin = Instant::now();
        Self {
            schedule: Schedule::new(begin),
            begin,
            now: begin,
            ends: BTreeSet::new(),
            starts: Vec::new(),
        }
    }

    fn add(&mut self, ids: std::ops::Range<u64>, pace: Pace) {
        for id in ids {
            self.schedule.add(CheckerId(id), pace, self.now);
        }
    }

    fn run(&mut self, length: Duration, latency: Duration, again: impl Fn(CheckerId) -> NextProbe) {
        self.run_with_room(length, latency, usize::MAX, again);
    }

    fn run_with_room(
        &mut self,
        length: Duration,
        latency: Duration,
        room: usize,
        again: impl Fn(CheckerId) -> NextProbe,
    ) {
        let end = self.now + length;
        loop {
            while let Some(&(ended, id)) = self.ends.first()
                && ended <= self.now
            {
                self.ends.pop_first();
                self.schedule.finish(id, again(id), ended);
            }
            let left = room - self.ends.len();
            for id in self.schedule.start(self.now, left) {
                assert!(
                    !self.ends.iter().any(|(_, running)| *running == id) || room > 1000,
                    "{id:?} runs twice"
                );
                self.starts.push((self.now - self.begin, id));
                self.ends.insert((self.now + latency, id));
            }
            assert_eq!(self.schedule.running(), self.ends.len());
            let deadline = self
                .schedule
                .next_deadline()
                .filter(|_| self.ends.len() < room);
            let next = deadline
                .into_iter()
                .chain(self.ends.first().map(|(ended, _)| *ended))
                .min();
            match next {
                Some(next) if next < end => self.now = next.max(self.now + Duration::from_nanos(1)),
                _ => break,
            }
        }
        self.now = end;
    }

    /// When a checker was started, counted from the beginning.
    fn starts_of(&self, id: u64) -> Vec<Duration> {
        let of_it = self.starts.iter().filter(|(_, who)| *who == CheckerId(id));
        of_it.map(|(time, _)| *time).collect()
    }

    /// Most starts in any 100 ms from `from` on.
    fn largest_burst(&self, from: Duration) -> usize {
        let times: Vec<Duration> = self.starts.iter().map(|(time, _)| *time).collect();
        let mut largest = 0;
        let mut first = 0;
        for last in 0..times.len() {
            while times[last] - times[first] >= 100 * MS {
                first += 1;
            }
            if times[first] >= from {
                largest = largest.max(last - first + 1);
            }
        }
        largest
    }
}

fn regular(_: CheckerId) -> NextProbe {
    NextProbe::Regular
}

#[test]
fn one_checker_starts_at_once_and_then_never_later_than_its_interval() {
    let mut simulation = Simulation::new();
    simulation.add(0..1, pace(5000));
    simulation.run(60 * SECOND, 3 * MS, regular);
    let starts = simulation.starts_of(0);
    assert_eq!(starts[0], Duration::ZERO);
    assert_eq!(starts.len(), 12, "{starts:?}");
    for pair in starts.windows(2) {
        assert_eq!(pair[1] - pair[0], 5 * SECOND);
    }
}

#[test]
fn a_few_checkers_start_within_milliseconds() {
    let mut simulation = Simulation::new();
    simulation.add(0..5, pace(5000));
    simulation.run(5 * SECOND, 3 * MS, regular);
    for id in 0..5 {
        assert_eq!(simulation.starts_of(id)[0], Duration::ZERO);
    }
}

#[test]
fn gaps_are_between_half_an_interval_and_one() {
    let mut simulation = Simulation::new();
    simulation.add(0..50, pace(5000));
    simulation.run(7 * SECOND, 3 * MS, regular);
    simulation.add(50..90, pace(5000));
    simulation.run(60 * SECOND, 3 * MS, regular);
    for id in 0..90 {
        let starts = simulation.starts_of(id);
        for (index, pair) in starts.windows(2).enumerate() {
            let gap = pair[1] - pair[0];
            let exact = index > 2;
            assert!(
                gap <= 5 * SECOND + MS && gap >= if exact { 5 * SECOND - MS } else { 2500 * MS },
                "{id}: gap {index} is {gap:?}"
            );
        }
    }
}

#[test]
fn ten_thousand_begin_at_once_and_never_in_a_burst() {
    let mut simulation = Simulation::new();
    simulation.add(0..10_000, pace(5000));
    simulation.run(30 * SECOND, 3 * MS, regular);
    let mut started = std::collections::HashSet::new();
    let mut half = None;
    let mut all = None;
    for (time, id) in &simulation.starts {
        started.insert(*id);
        if started.len() == 5000 {
            half.get_or_insert(*time);
        }
        if started.len() == 10_000 {
            all.get_or_insert(*time);
        }
    }
    assert_eq!(simulation.starts[0].0, Duration::ZERO);
    assert!(half.unwrap() < 2 * SECOND, "{half:?}");
    assert!(all.unwrap() <= 5 * SECOND, "{all:?}");
    // The mean is 200 in 100 ms.
    let largest = simulation.largest_burst(Duration::ZERO);
    assert!(largest <= 400, "{largest}");
    let largest = simulation.largest_burst(12 * SECOND);
    assert!(largest <= 210, "{largest}");
}

#[test]
fn checkers_of_several_intervals_are_spread_too() {
    let mut simulation = Simulation::new();
    for group in 0..1000 {
        simulation.add(group * 5..group * 5 + 3, pace(5000));
        simulation.add(group * 5 + 3..group * 5 + 5, pace(2000));
    }
    simulation.run(30 * SECOND, 3 * MS, regular);
    // 3000 / 5 s + 2000 / 2 s = 160 in 100 ms.
    let largest = simulation.largest_burst(Duration::ZERO);
    assert!(largest <= 320, "{largest}");
    let largest = simulation.largest_burst(12 * SECOND);
    assert!(largest <= 180, "{largest}");
}

#[test]
fn a_checker_added_to_many_starts_within_milliseconds() {
    let mut simulation = Simulation::new();
    simulation.add(0..10_000, pace(5000));
    simulation.run(20 * SECOND, 3 * MS, regular);
    simulation.add(10_000..10_001, pace(5000));
    simulation.run(SECOND, 3 * MS, regular);
    assert_eq!(simulation.starts_of(10_000)[0], 20 * SECOND);
}

#[test]
fn after_its_fast_interval_a_checker_returns_to_its_phase() {
    let mut simulation = Simulation::new();
    let fast = Pace {
        interval: 5 * SECOND,
        fast: Some(500 * MS),
    };
    simulation.add(0..1, fast);
    simulation.run(11 * SECOND, 3 * MS, |_| NextProbe::Fast);
    let starts = simulation.starts_of(0);
    assert_eq!(starts.len(), 22);
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == 500 * MS));
    simulation.run(60 * SECOND, 3 * MS, regular);
    let starts = simulation.starts_of(0);
    let last: Vec<_> = starts.windows(2).rev().take(8).collect();
    assert!(last.iter().all(|pair| pair[1] - pair[0] == 5 * SECOND));
    assert_eq!(starts.last().unwrap().as_millis() % 5000, 0, "its phase");
    let simulation = {
        let mut simulation = Simulation::new();
        simulation.add(0..1, pace(5000));
        simulation.run(11 * SECOND, 3 * MS, |_| NextProbe::Fast);
        simulation
    };
    assert_eq!(
        simulation.starts.len(),
        3,
        "without a fast interval as ever"
    );
}

#[test]
fn inconclusive_probes_are_repeated_at_once_but_not_in_a_burst() {
    let mut simulation = Simulation::new();
    simulation.add(0..2000, pace(5000));
    simulation.run(20 * SECOND, 3 * MS, regular);
    simulation.run(MS * 50, 3 * MS, |_| NextProbe::Soon);
    let before = simulation.starts.len();
    simulation.run(10 * SECOND, 3 * MS, regular);
    let soon = simulation.starts[before..]
        .iter()
        .take_while(|(time, _)| *time < 20_300 * MS)
        .count();
    assert!(soon > 100, "{soon}");
    let largest = simulation.largest_burst(12 * SECOND);
    assert!(largest <= 80, "{largest}");
}

#[test]
fn after_a_stop_of_the_process_overdue_checkers_do_not_start_all_at_once() {
    let mut simulation = Simulation::new();
    simulation.add(0..10_000, pace(5000));
    simulation.run(20 * SECOND, 3 * MS, regular);
    simulation.now += 60 * SECOND;
    simulation.run(20 * SECOND, 3 * MS, regular);
    let largest = simulation.largest_burst(80 * SECOND);
    assert!(largest <= 400, "{largest}");
    for id in 0..10_000 {
        let starts = simulation.starts_of_after(id, 80 * SECOND);
        assert!(starts <= 85 * SECOND, "{id}: {starts:?}");
    }
}

impl Simulation {
    fn starts_of_after(&self, id: u64, from: Duration) -> Duration {
        self.starts_from(from)
            .find(|(_, who)| *who == CheckerId(id))
            .unwrap()
            .0
    }

    fn starts_from(&self, from: Duration) -> impl Iterator<Item = &(Duration, CheckerId)> {
        let first = self.starts.partition_point(|(time, _)| *time < from);
        self.starts[first..].iter()
    }
}

#[test]
fn without_free_slots_checkers_wait_and_each_gets_its_turn() {
    let mut simulation = Simulation::new();
    simulation.add(0..100, pace(1000));
    // Room for 20 probes of 400 ms: 50 a second of the 100 that are due.
    simulation.run_with_room(40 * SECOND, 400 * MS, 20, regular);
    let counts: Vec<usize> = (0..100).map(|id| simulation.starts_of(id).len()).collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*least >= 10, "{counts:?}");
    assert!(*most <= 41, "{counts:?}");
}

#[test]
fn a_removed_checker_is_not_started_again() {
    let mut simulation = Simulation::new();
    simulation.add(0..20, pace(1000));
    simulation.run(10 * SECOND, 300 * MS, regular);
    // Some of them are running.
    assert!(simulation.schedule.running() > 0);
    for id in 0..20 {
        simulation.schedule.remove(CheckerId(id), simulation.now);
        simulation.schedule.remove(CheckerId(id), simulation.now);
    }
    simulation.ends.clear();
    let before = simulation.starts.len();
    simulation
        .schedule
        .finish(CheckerId(3), NextProbe::Soon, simulation.now);
    simulation.run(10 * SECOND, 300 * MS, regular);
    assert_eq!(simulation.starts.len(), before);
    assert_eq!(simulation.schedule.running(), 0);
    simulation.schedule.start(simulation.now, 1);
    assert_eq!(simulation.schedule.next_deadline(), None);
}

proptest! {
    #[test]
    fn the_next_phase_is_within_an_interval(
        interval in 1_u64..20_000,
        phase in 0.0_f64..1.0,
        now in 0_u64..10_000_000,
    ) {
        let epoch = Instant::now();
        let (interval, now) = (Duration::from_millis(interval), epoch + Duration::from_micros(now * 7));
        let after = phase_after(epoch, interval, phase, now);
        prop_assert!(after >= now && after <= now + interval);
        let again = phase_after(epoch, interval, phase, after);
        prop_assert!(again - after + MS >= interval || after == epoch + interval.mul_f64(phase));
        let regular = regular_after(epoch, interval, phase, now);
        prop_assert!(regular - now <= interval);
        prop_assert!(regular - now + MS >= interval / 2);
    }

    #[test]
    fn no_checker_is_forgotten_or_runs_twice(
        steps in prop::collection::vec((0_u64..30, 0_u8..5, 1_u64..400), 1..300),
    ) {
        let mut schedule = Schedule::new(Instant::now());
        let mut now = Instant::now();
        let mut known = BTreeSet::new();
        let mut running = BTreeSet::new();
        for (id, what, pass) in steps {
            now += Duration::from_millis(pass);
            let id = CheckerId(id);
            match what {
                0 => {
                    schedule.add(id, Pace { interval: 300 * MS, fast: Some(50 * MS) }, now);
                    known.insert(id);
                    running.remove(&id);
                }
                1 => {
                    schedule.remove(id, now);
                    known.remove(&id);
                    running.remove(&id);
                }
                2 => {
                    let again = [NextProbe::Regular, NextProbe::Fast, NextProbe::Soon][(pass % 3) as usize];
                    schedule.finish(id, again, now);
                    running.remove(&id);
                }
                _ => {
                    let room = (pass % 7) as usize;
                    let started = schedule.start(now, room);
                    prop_assert!(started.len() <= room);
                    for id in started {
                        prop_assert!(known.contains(&id));
                        prop_assert!(running.insert(id), "{id:?} runs twice");
                    }
                }
            }
            prop_assert_eq!(schedule.running(), running.len());
            prop_assert_eq!(schedule.next_deadline().is_some() || schedule.early.is_empty(), true);
            prop_assert!(known.len() == running.len() || schedule.next_deadline().is_some());
        }
        // In the end all are started.
        for id in std::mem::take(&mut running) {
            schedule.finish(id, NextProbe::Regular, now);
        }
        let mut started = BTreeSet::new();
        for _ in 0..2000 {
            now += MS;
            started.extend(schedule.start(now, usize::MAX));
        }
        prop_assert_eq!(started, known);
    }
}
