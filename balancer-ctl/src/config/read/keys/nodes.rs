//! The keys of `[peers]`, of `[[vrrp]]` and of what a virtual router tracks.

use super::Keys;
use crate::model::key::{Key, key};

pub const PEERS: Keys = Keys {
    known: &[
        key(
            "listen",
            "address and port for other nodes; on a network of the pair's own, if there is one",
            "`0.0.0.0:4446`",
        ),
        key(
            "interface",
            "the interface over which alone the node listens and dials",
            "all",
        ),
        key(
            "key-file",
            "the key, in a file that only root can read; then nodes are named in `nodes` instead of joining",
            "what `node key` made",
        ),
        key(
            "nodes",
            "the other nodes, by address and port, where they do not join; this node may be among them, so that all have the same list",
            "those that joined",
        ),
        key(
            "sync",
            "who keeps services alike: `manual` (`balancer-ctl push`), or `active-pushes`: the Active node sends its services to the others whenever theirs differ. They validate them, take all or none, and write them to their file",
            "`manual`",
        ),
    ],
    planned: &[],
};
pub const VRRP: Keys = Keys {
    known: &[
        key(
            "name",
            "a name for the virtual router: a letter, then up to 62 letters, digits, `.`, `_` or `-`",
            "must be named",
        ),
        key(
            "interface",
            "the interface that advertisements are sent on and that carries the addresses",
            "must be named",
        ),
        key(
            "router-id",
            "what both nodes know it by, 1 to 255; on one interface another for each virtual router of a family",
            "must be named",
        ),
        key(
            "priority",
            "the node with the highest is preferred, 1 to 254; 255 = this node owns the addresses, whatever it tracks",
            "100",
        ),
        key(
            "advertisement-interval",
            "time from one advertisement to the next, 10ms to 40s950ms, a multiple of 10ms",
            "`1s`",
        ),
        key(
            "failback",
            "when the node takes the addresses back from an Active node of lower priority: `never`, `immediate`, `after 10m` (1s to 7days) or `when-stable` (once it could have them for a minute, twice as long for each failure within an hour); not with priority 255",
            "`never`",
        ),
        key(
            "link-up-delay",
            "how long the node listens for an Active one after `interface` has come up, 0s to 5m; it ends early when something is received there",
            "`30s`",
        ),
        key(
            "addresses",
            "the VIPs with the lengths of their networks' prefixes, 1 to 64 of one family; without a length, /32 or /128",
            "must be named",
        ),
        key(
            "unicast-peers",
            "addresses of the other nodes, where advertisements go to each of them",
            "the multicast group",
        ),
        key(
            "group",
            "virtual routers with the same group are Active together or not at all; they have one `priority` and one `failback`",
            "none",
        ),
        key(
            "track-interfaces",
            "interfaces without whose link it is in fault, beside its own",
            "none",
        ),
        key(
            "track-ping",
            "addresses that are pinged: a table, of the keys below",
            "none",
        ),
        key(
            "track-services",
            "services that must be able to answer: a list of their names, or of tables",
            "none",
        ),
        key(
            "track-exec",
            "programs that are run: a table, or a list of tables",
            "none",
        ),
        key(
            "probes",
            "which nodes probe the services on its VIPs: `every-node` or `active-only`",
            "`every-node`",
        ),
        key(
            "checksum",
            "of advertisements over IPv4: `pseudo-header`, as keepalived has it, or `plain`, as RFC 9568 says",
            "`pseudo-header`",
        ),
        key(
            "announce-interval",
            "time from one gratuitous ARP (unsolicited neighbour advertisement) of the addresses to the next while Active, 1s to 1day, or `never`",
            "`1m`",
        ),
    ],
    planned: &[],
};
pub const TRACK_PING: Keys = Keys {
    known: &[
        key(
            "targets",
            "the addresses, of either family; down while none of them answers",
            "must be named",
        ),
        INTERVAL,
        TIMEOUT,
        FALL,
        RISE,
        WEIGHT,
    ],
    planned: &[],
};
pub const TRACK_SERVICE: Keys = Keys {
    known: &[
        key(
            "service",
            "the service by name or `tcp/ADDRESS:PORT`; it must be there",
            "must be named",
        ),
        WEIGHT,
    ],
    planned: &[],
};
pub const TRACK_EXEC: Keys = Keys {
    known: &[
        key(
            "run",
            "the program by its absolute path, and its arguments; only status 0 is a success. Only root may be able to change it, as with checks",
            "must be named",
        ),
        key(
            "user",
            "the user of this host that the program runs as, with that user's groups",
            "root",
        ),
        INTERVAL,
        TIMEOUT,
        FALL,
        RISE,
        WEIGHT,
    ],
    planned: &[],
};

const INTERVAL: Key = key(
    "interval",
    "time from one try to the next, 10ms (programs: 100ms) to 1day",
    "`1s`",
);
const TIMEOUT: Key = key(
    "timeout",
    "time that a try may take, 1ms to 1day; at most `interval`",
    "`1s`, or less where the interval is shorter",
);
const FALL: Key = key("fall", "failures in a row until it is down, 1 to 100", "3");
const RISE: Key = key(
    "rise",
    "successes in a row until it is up again, 1 to 100",
    "2",
);
const WEIGHT: Key = key(
    "weight",
    "how much lower the priority is while it is down, 0 to 253; 0 = the virtual router is in fault; with priority 255 it must be 0",
    "50",
);
