//! What the manual says of the file's keys: the tables by which it is read, in the order of the page.

use super::read::{
    check::keys::{ALL, KEYS},
    keys::{
        DATAPLANE, FILE, NODE, NOTIFY, PEERS, PERSISTENCE, REAL, SERVICE, TIMEOUTS, TRACK_EXEC,
        TRACK_PING, TRACK_SERVICE, VRRP,
    },
};
use crate::model::key::Key;

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// What the table is.
    pub about: &'static str,
    /// Its keys, each with the types of checks that have it; empty = there are no types.
    pub keys: Vec<(Key, Vec<&'static str>)>,
}

/// The schedulers, and the real server that a new connection goes to.
pub const SCHEDULERS: [(&str, &str); 12] = [
    ("rr", "each in turn, whatever its weight"),
    (
        "wrr",
        "each in turn, in proportion to its weight and spread evenly: weights 3 and 1 give A A B A",
    ),
    ("lc", "the one with the least load, whatever its weight"),
    ("wlc", "the one with the least load for its weight"),
    (
        "sed",
        "the one with the fewest active connections for its weight, the new one included; no use for UDP, which has no active ones",
    ),
    (
        "nq",
        "one without active connections, else as `sed`; no use for UDP either",
    ),
    (
        "sh",
        "by a hash of the client (`hash`), in proportion to weight",
    ),
    (
        "dh",
        "by a hash of the VIP: all of a service's connections to one real server, as long as it takes them",
    ),
    (
        "mh",
        "by a hash of the client (`hash`) in a Maglev table of 65,537 slots, in proportion to weight: few clients move when a real server is added or removed, and every balancer with this configuration chooses alike",
    ),
    ("fo", "the one with the highest weight"),
    (
        "ovf",
        "the one with the highest weight whose active connections are not above its weight, or none; no use for UDP, which has no active ones",
    ),
    (
        "twos",
        "of two that are picked by chance in proportion to weight, the one with the least load for its weight",
    ),
];

/// All tables.
#[must_use]
pub fn sections() -> Vec<Section> {
    let mut sections = vec![
        plain("The file", "The tables of the file.", FILE.known),
        plain("[node]", "This node.", NODE.known),
        plain(
            "[dataplane]",
            "Where and how the packet program runs. A changed size needs a restart of `balancerd`.",
            DATAPLANE.known,
        ),
        plain(
            "[timeouts]",
            "How long a connection may be idle until it is forgotten.",
            TIMEOUTS.known,
        ),
        plain("[[service]]", "A virtual service.", SERVICE.known),
        plain(
            "[[service.real]]",
            "A real server of the service above.",
            REAL.known,
        ),
        plain(
            "Persistence",
            "The value of `persistence`, as in `persistence = { timeout = \"10m\" }`: a client that comes again goes to the real server that it had.",
            PERSISTENCE.known,
        ),
    ];
    sections.push(Section {
        title: "Health",
        about: "How the real servers of the service above are probed: `[service.check]`, or several blocks `[[service.check]]`, which must all pass.",
        keys: KEYS
            .iter()
            .map(|(key, kinds)| {
                let kinds = if *kinds == ALL { &[][..] } else { kinds };
                (*key, kinds.iter().map(|kind| kind.name()).collect())
            })
            .collect(),
    });
    sections.extend([
        plain(
            "[[notify]]",
            "A program that is run for events. Only root and the user that it runs as may be able to change it.",
            NOTIFY.known,
        ),
        plain(
            "[[vrrp]]",
            "A virtual router of VRRP (RFC 9568): VIPs that nodes share, one of which is Active.",
            VRRP.known,
        ),
        plain("track-ping", "A table in `[[vrrp]]`.", TRACK_PING.known),
        plain(
            "track-services",
            "Tables in `[[vrrp]]`, in place of names of services.",
            TRACK_SERVICE.known,
        ),
        plain(
            "track-exec",
            "A table in `[[vrrp]]`, or several.",
            TRACK_EXEC.known,
        ),
        plain(
            "[peers]",
            "The encrypted channel between nodes.",
            PEERS.known,
        ),
    ]);
    sections
}

fn plain(title: &'static str, about: &'static str, keys: &[Key]) -> Section {
    Section {
        title,
        about,
        keys: keys.iter().map(|key| (*key, Vec::new())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Scheduler, names::Named as _};

    #[test]
    fn each_scheduler_is_in_the_manual() {
        assert_eq!(SCHEDULERS.map(|(name, _)| name), Scheduler::NAMES);
    }
}
