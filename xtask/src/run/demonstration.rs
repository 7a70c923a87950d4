//! The steps that `cargo xtask run` shows; each is checked.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use xtask::lab::wait_until;

use super::{
    daemon::{Ctl, Daemon},
    network::{Network, Node, PORT, VIP},
};
use crate::interrupt;

/// The check of the real servers, as typed.
const CHECK: &str = r#"{type="http",interval="300ms",timeout="200ms",fall=3,rise=2}"#;
/// The longest time in which [`CHECK`] finds a dead server: `fall` intervals, since a port that nobody listens on answers at
/// once.
const NOTICED: Duration = Duration::from_millis(3 * 300);
/// Time for the web server to end, and for the daemon to start and evaluate a probe on a busy machine: less than another
/// interval.
const SLACK: Duration = Duration::from_millis(290);

/// Shows the lab at work.
#[derive(Clone, Copy, Debug)]
pub struct Demonstration<'lab> {
    /// The lab's network.
    pub network: &'lab Network,
    /// The lab's daemon.
    pub daemon: &'lab Daemon,
    /// The balancer-ctl for it.
    pub ctl: &'lab Ctl,
}

impl Demonstration<'_> {
    /// Shows all steps.
    ///
    /// # Errors
    /// A step had another result than it should; the error contains it.
    pub fn run(&self) -> Result<()> {
        let [first, second] = self.network.reals();
        let mut answered = Vec::new();

        scene(
            "A virtual service with two real servers. Where the old tutorials say ipvsadm, say balancer-ctl",
        );
        self.ctl
            .show(&format!("add-service {VIP}:{PORT} -s rr --check '{CHECK}'"))?;
        self.ctl
            .show(&format!("add-real {}:{PORT} -w 1", first.address))?;
        self.ctl
            .show(&format!("add-real {}:{PORT} -w 1", second.address))?;
        self.wait_for("both real servers to be up", &["up", "up"])?;
        self.ctl.show("list")?;

        scene("Scheduler rr: the answers alternate");
        let answers = self.ask(6)?;
        ensure!(
            alternate(&answers, &[first, second]),
            "the answers did not alternate: {}",
            listed(&answers)
        );
        answered.extend(answers);

        scene("Weight 0 drains a real server: its connections go on, it gets no new ones");
        self.ctl
            .show(&format!("edit-real {}:{PORT} -w 0", first.address))?;
        let answers = self.ask(4)?;
        ensure!(
            answers.iter().all(|node| *node == second),
            "{first} was not drained: {}",
            listed(&answers)
        );
        answered.extend(answers);

        scene("And back");
        self.ctl
            .show(&format!("edit-real {}:{PORT} -w 1", first.address))?;
        let answers = self.ask(4)?;
        ensure!(
            alternate(&answers, &[first, second]),
            "{first} did not come back: {}",
            listed(&answers)
        );
        answered.extend(answers);

        self.failover(&mut answered)?;

        scene("What was counted");
        self.ctl.show("list --stats")?;
        let counted = connections(&self.ctl.call("list --json")?)?;
        let expected = expected(&answered);
        ensure!(
            counted == expected,
            "counted were {counted:?} connections, made were {expected:?}"
        );
        Ok(())
    }

    /// Stops a real server's web server, which the probes find down, and starts it again.
    fn failover(&self, answered: &mut Vec<Node>) -> Result<()> {
        let [first, second] = self.network.reals();
        scene("A web server dies: the probes notice, and its share goes to the other");
        println!("  (its process is stopped; the machine goes on)");
        let (died, deadline) = (SystemTime::now(), Instant::now() + 5 * NOTICED);
        self.network.stop(first)?;
        let (mut failed, mut ours) = (0_u32, Vec::new());
        while self.states()?[0] != "down" {
            ensure!(Instant::now() < deadline, "{first} does not go down");
            match self.network.ask() {
                Ok(node) => ours.push(node),
                // Until then, a request may go to the dead server.
                Err(error) => {
                    interrupt::check()?;
                    ensure!(failed < 1000, "no request succeeds any more: {error}");
                    failed += 1;
                    ours.push(first);
                }
            }
            interrupt::sleep(Duration::from_millis(50))?;
        }
        // By the daemon's log, without the time that this program takes to see it.
        let noticed = time(&self.log_line("real down")?)?.duration_since(died)?;
        ensure!(
            noticed <= NOTICED + SLACK,
            "{first} was down {noticed:?} after its web server was stopped, and should have been after {NOTICED:?}"
        );
        println!(
            "  down after {:.2} s; until then {failed} of {} requests failed",
            noticed.as_secs_f64(),
            ours.len()
        );
        answered.extend(ours);
        self.show_log("real down")?;
        self.ctl.show("list")?;
        println!("  From now on not one request fails:");
        let answers = self.ask(6)?;
        ensure!(
            answers.iter().all(|node| *node == second),
            "a dead real server got a request: {}",
            listed(&answers)
        );
        answered.extend(answers);

        scene("It returns: two passed probes, and it has its share again");
        println!("  (its process is started again)");
        self.network.start(first)?;
        self.wait_for("the real server to be up again", &["up", "up"])?;
        self.show_log("real up")?;
        let answers = self.ask(4)?;
        ensure!(
            alternate(&answers, &[first, second]),
            "{first} did not get its share again: {}",
            listed(&answers)
        );
        answered.extend(answers);
        Ok(())
    }

    /// The real servers' states, in the order in which they were added.
    fn states(&self) -> Result<Vec<String>> {
        states(&self.ctl.call("list --json")?)
    }

    fn wait_for(&self, what: &str, wanted: &[&str]) -> Result<()> {
        wait_until(what, 5 * NOTICED, || {
            interrupt::check()?;
            Ok(self.states()? == wanted)
        })
    }

    /// Prints the last line of the daemon's log that contains `what`.
    fn show_log(&self, what: &str) -> Result<()> {
        println!("  balancerd's log: {}", self.log_line(what)?);
        Ok(())
    }

    fn log_line(&self, what: &str) -> Result<String> {
        let log = self.daemon.log();
        let line = log.lines().rfind(|line| line.contains(what));
        let line = line.with_context(|| format!("the log does not say `{what}`"))?;
        Ok(line.trim().to_owned())
    }

    /// Sends requests as the client and prints the answers.
    fn ask(&self, times: usize) -> Result<Vec<Node>> {
        let mut answers = Vec::new();
        for _ in 0..times {
            let node = self.network.ask()?;
            println!("  client$ curl http://{VIP}/      {}", node.page());
            answers.push(node);
        }
        Ok(answers)
    }
}

/// When a line of the log was written.
fn time(line: &str) -> Result<SystemTime> {
    let (time, _) = line.split_once(' ').unwrap_or((line, ""));
    humantime::parse_rfc3339(time)
        .with_context(|| format!("the log's line begins without a time: {line}"))
}

fn scene(title: &str) {
    println!("\n== {title}\n");
}

/// Tells whether every node answered, and none twice in a row.
fn alternate(answers: &[Node], nodes: &[Node]) -> bool {
    answers
        .windows(nodes.len())
        .all(|window| nodes.iter().all(|node| window.contains(node)))
        && answers.len() >= nodes.len()
}

fn listed(answers: &[Node]) -> String {
    answers
        .iter()
        .map(|node| node.name)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Returns how many connections each real server must have had, by address.
fn expected(answers: &[Node]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for node in answers {
        *counts
            .entry(format!("{}:{PORT}", node.address))
            .or_default() += 1;
    }
    counts
}

/// The parts of `list --json` that are read.
#[derive(Deserialize)]
struct List {
    services: Vec<Service>,
}

#[derive(Deserialize)]
struct Service {
    reals: Vec<Real>,
}

#[derive(Deserialize)]
struct Real {
    address: String,
    state: String,
    counters: Counters,
}

#[derive(Deserialize)]
struct Counters {
    connections: u64,
}

fn reals(list: &str) -> Result<impl Iterator<Item = Real>> {
    let list: List =
        serde_json::from_str(list).context("`balancer-ctl list --json` printed something else")?;
    Ok(list.services.into_iter().flat_map(|service| service.reals))
}

fn states(list: &str) -> Result<Vec<String>> {
    Ok(reals(list)?.map(|real| real.state).collect())
}

/// Returns how many connections `list --json` shows for each real server.
fn connections(list: &str) -> Result<BTreeMap<String, u64>> {
    Ok(reals(list)?
        .map(|real| (real.address, real.counters.connections))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const A: Node = Node {
        name: "a",
        address: Ipv4Addr::new(10, 0, 0, 1),
    };
    const B: Node = Node {
        name: "b",
        address: Ipv4Addr::new(10, 0, 0, 2),
    };

    #[test]
    fn only_strict_alternation_is_alternation() {
        assert!(alternate(&[A, B, A, B], &[A, B]));
        assert!(alternate(&[B, A, B], &[A, B]));
        for wrong in [&[A, B, B, A][..], &[A, A, A], &[A, B, A, A], &[A], &[]] {
            assert!(!alternate(wrong, &[A, B]), "{wrong:?}");
        }
    }

    #[test]
    fn a_line_of_the_log_tells_when() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_000_250);
        let line = "1970-01-01T00:00:01.000250Z  WARN real down service=\"web\"";
        assert_eq!(time(line).unwrap(), at);
        assert!(time("WARN real down").is_err());
    }

    #[test]
    fn counted_connections_are_compared_by_real_server() {
        let list = r#"{"services":[{"name":null,"protocol":"tcp","reals":[
            {"address":"10.0.0.1:80","weight":1,"state":"up","counters":{"connections":2,"packets_in":9}},
            {"address":"10.0.0.2:80","weight":1,"state":"up","counters":{"connections":1,"packets_in":9}}]}]}"#;
        assert_eq!(connections(list).unwrap(), expected(&[A, B, A]));
        assert_ne!(connections(list).unwrap(), expected(&[A, B]));
        assert!(connections("[]").is_err());
    }
}
