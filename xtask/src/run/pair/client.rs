//! The client: it asks the virtual service all the time, so that it notices when nobody answers.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use xtask::lab::Namespace;

use super::super::network::{Node, PORT, VIP};

/// Time from the start of one request to the start of the next.
pub const PACE: Duration = Duration::from_millis(5);
/// Time after which a request is given up. It is short, since the next one finds out sooner whether somebody answers.
pub const PATIENCE: Duration = Duration::from_millis(40);

/// What has become of the client's requests.
#[derive(Debug, Default)]
pub struct Client {
    requests: Mutex<Vec<Request>>,
    is_over: AtomicBool,
}

/// A request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it ended.
    pub ended: Instant,
    /// Who answered; `None` = nobody in time.
    pub answered: Option<Node>,
}

/// The longest time without an answer around an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// From the last answer before to the first after.
    pub length: Duration,
    /// Requests within it that failed.
    pub failed: usize,
}

impl Client {
    /// Asks from `namespace` until [`Self::stop`].
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn run(&self, namespace: &Namespace) -> Result<()> {
        namespace.run(|| {
            while !self.is_over.load(Ordering::Relaxed) {
                let start = Instant::now();
                let answered = ask().ok().and_then(|page| Node::by_page(&page));
                self.requests().push(Request {
                    ended: Instant::now(),
                    answered,
                });
                thread::sleep(PACE.saturating_sub(start.elapsed()));
            }
        })
    }

    /// Ends it.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// What has become of the requests that ended since `start`.
    pub fn since(&self, start: Instant) -> Vec<Request> {
        let requests = self.requests();
        let first = requests.partition_point(|request| request.ended < start);
        requests[first..].to_vec()
    }

    /// The gap around `event`, up to now. `None` = nobody answered before, or since.
    pub fn gap(&self, event: Instant) -> Option<Gap> {
        gap(&self.requests(), event)
    }

    /// Forgets the requests that ended before `start`.
    pub fn forget_before(&self, start: Instant) {
        self.requests().retain(|request| request.ended >= start);
    }

    fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many answers each real server gave, by its name.
pub fn counted(requests: &[Request]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for node in requests.iter().filter_map(|request| request.answered) {
        *counts.entry(node.name).or_default() += 1;
    }
    counts
}

/// The longest time from one answer to the next, from the last answer before `event` on: the balancer that was killed may go on to
/// forward until the other takes over, so that the first answer after the event says little. What still lasts is no gap yet.
fn gap(requests: &[Request], event: Instant) -> Option<Gap> {
    let is_answer = |request: &&Request| request.answered.is_some();
    let after = requests.partition_point(|request| request.ended < event);
    let before = requests[..after]
        .iter()
        .rposition(|request| is_answer(&request))?;
    let answers: Vec<&Request> = requests[before..].iter().filter(is_answer).collect();
    let length = |pair: &[&Request]| pair[1].ended - pair[0].ended;
    let longest = answers.windows(2).max_by_key(|pair| length(pair))?;
    let within = longest[0].ended..longest[1].ended;
    let failed = requests
        .iter()
        .filter(|request| request.answered.is_none() && within.contains(&request.ended));
    Some(Gap {
        length: length(longest),
        failed: failed.count(),
    })
}

/// Sends one request, and returns the page.
fn ask() -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((VIP, PORT)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {VIP}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, page) = text.split_once("\r\n\r\n").unwrap_or_default();
    Ok(page.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::network::REALS;

    /// Requests that ended after these milliseconds; a negative one failed.
    fn requests(start: Instant, ends: &[i64]) -> Vec<Request> {
        let of = |end: &i64| Request {
            ended: start + Duration::from_millis(end.unsigned_abs()),
            answered: (*end > 0).then_some(REALS[0]),
        };
        ends.iter().map(of).collect()
    }

    fn found(ends: &[i64], event: u64) -> Option<(u128, usize)> {
        let start = Instant::now();
        let event = start + Duration::from_millis(event);
        let gap = gap(&requests(start, ends), event)?;
        Some((gap.length.as_millis(), gap.failed))
    }

    #[test]
    fn the_gap_is_the_longest_time_between_two_answers() {
        assert_eq!(found(&[1, 6, 11, -51, -91, 96, 101], 12), Some((85, 2)));
        // The killed balancer goes on to forward.
        assert_eq!(found(&[1, 6, 11, 16, -56, 61, 66], 7), Some((45, 1)));
        // What was before the event does not count.
        assert_eq!(found(&[1, 100, 105, 110], 106), Some((5, 0)));
        // Failures before the event that reach into it do.
        assert_eq!(found(&[5, -45, 60, 65], 50), Some((55, 1)));
    }

    #[test]
    fn without_answers_on_both_sides_there_is_no_gap() {
        for (ends, event) in [
            (&[][..], 10),
            (&[20, 25], 10),
            (&[1, 5], 10),
            (&[1, 5, -45, -85], 10),
        ] {
            assert_eq!(found(ends, event), None, "{ends:?}");
        }
    }

    #[test]
    fn answers_are_counted_by_who_gave_them() {
        let start = Instant::now();
        let counts = counted(&requests(start, &[1, 2, -3, 4]));
        assert_eq!(counts, BTreeMap::from([("real1", 3)]));
    }
}
