//! The scenes that `cargo xtask run` shows, each of which has to hold.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{
    daemon::Ctl,
    network::{Network, Node, PORT, VIP},
};

/// Shows the lab at work.
#[derive(Clone, Copy, Debug)]
pub struct Demonstration<'lab> {
    /// Where.
    pub network: &'lab Network,
    /// With what.
    pub ctl: &'lab Ctl,
}

impl Demonstration<'_> {
    /// Shows all scenes.
    ///
    /// # Errors
    /// One of them did not hold; the error says what was seen instead.
    pub fn run(&self) -> Result<()> {
        let [first, second] = self.network.reals();
        let mut answered = Vec::new();

        scene(
            "A virtual service with two real servers. Where the old tutorials say ipvsadm, say balancer-ctl",
        );
        self.ctl.show(&format!("add-service {VIP}:{PORT} -s rr"))?;
        self.ctl
            .show(&format!("add-real {}:{PORT} -w 1", first.address))?;
        self.ctl
            .show(&format!("add-real {}:{PORT} -w 1", second.address))?;
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

        // Here is the place of the scene in which a real server dies and returns: it needs probes.

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

    /// Asks as the client and shows the answers.
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

/// What is read of `list --json`.
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
    counters: Counters,
}

#[derive(Deserialize)]
struct Counters {
    connections: u64,
}

/// Returns how many connections each real server is said to have had.
fn connections(list: &str) -> Result<BTreeMap<String, u64>> {
    let list: List =
        serde_json::from_str(list).context("`balancer-ctl list --json` printed something else")?;
    let reals = list.services.into_iter().flat_map(|service| service.reals);
    Ok(reals
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
    fn counted_connections_are_compared_by_real_server() {
        let list = r#"{"services":[{"name":null,"protocol":"tcp","reals":[
            {"address":"10.0.0.1:80","weight":1,"counters":{"connections":2,"packets_in":9}},
            {"address":"10.0.0.2:80","weight":1,"counters":{"connections":1,"packets_in":9}}]}]}"#;
        assert_eq!(connections(list).unwrap(), expected(&[A, B, A]));
        assert_ne!(connections(list).unwrap(), expected(&[A, B]));
        assert!(connections("[]").is_err());
    }
}
