//! A virtual service and what may be set on it: the one place that lists the settings. The file's reader and writer, the
//! API's bodies, the options of `add-service` and `edit-service` and the events all follow from [`ServiceSettings`] and
//! [`SERVICE_SETTINGS`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Backups, Check, Filter, ForwardMethod, Hairpin, HashKey, HealthPolicy, NoReal, OnDown,
    Persistence, PersistenceSettings, RealServer, Scheduler, ServiceKey,
    argument::{named, number, time},
    duration,
    filter::{self, Prefixes, RateSetting},
    key::{Key, key},
    limits::MAX_QUORUM,
    persistence,
    setting::{self, Setting, setting},
};

/// A virtual service and its real servers, in the order in which they were added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    /// VIP, port, protocol.
    pub key: ServiceKey,
    /// The operator's name for it.
    pub name: Option<String>,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// What its scheduler hashes, where that is `sh` or `mh`; `None` = the default.
    pub hash: Option<HashKey>,
    /// Whether a client's later connections go to the real server of its first, and for how long.
    pub persistence: Option<Persistence>,
    /// What a client gets while no real server takes new connections.
    pub no_real: NoReal,
    /// How packets reach those of its real servers that have no method of their own.
    pub forwarding: ForwardMethod,
    /// What becomes of clients whom their real server would answer past the balancer.
    pub hairpin: Hairpin,
    /// How its real servers are probed: all checks must pass. Empty = they count as up.
    pub checks: Vec<Check>,
    /// How it reacts to the results of its checks.
    pub health: HealthPolicy,
    /// Which clients may open connections to it, and how many.
    pub filter: Filter,
    /// Its real servers; addresses are unique and of the VIP's family.
    pub reals: Vec<RealServer>,
    /// Whether it (or its last change) is not in the configuration file.
    pub runtime: bool,
}

/// What may be set on a virtual service; what is `None` has the default or keeps its value. `C` is how checks are given:
/// read, or as the JSON of a request. The comments are the help of the options.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
#[command(next_display_order = 10)]
pub struct ServiceSettings<C = Vec<Check>> {
    /// A name for the service
    #[arg(long, display_order = 6)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How new connections are distributed: rr, wrr, lc, wlc, sed, nq, sh, dh, mh, fo, ovf, twos [default of a new service: wrr]
    #[arg(short, long, value_parser = named::<Scheduler>, display_order = 5)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// What sh and mh hash: client, client-port [default of a new service: client]
    #[arg(long, value_name = "KEY", value_parser = named::<HashKey>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<HashKey>,
    /// Its persistence; JSON's `null` is none.
    #[command(flatten)]
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "persistence::or_off"
    )]
    pub persistence: Option<PersistenceSettings>,
    /// With no real server: reject, drop [default of a new service: reject]
    #[arg(long, value_name = "ANSWER", value_parser = named::<NoReal>, display_order = 7)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_real: Option<NoReal>,
    /// How packets reach its reals, unless these have their own: nat, full-nat [default of a new service: nat]
    #[arg(long, value_name = "METHOD", value_parser = named::<ForwardMethod>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<ForwardMethod>,
    /// Clients that a real would answer past the balancer: full-nat, refuse [default of a new service: full-nat]
    #[arg(long, value_name = "ANSWER", value_parser = named::<Hairpin>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hairpin: Option<Hairpin>,
    /// Connections of a real that went down: keep, reset, 'reset-after TIME' [default of a new service: reset]
    #[arg(long, value_name = "WHEN")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_down: Option<OnDown>,
    /// How long a real's weight grows after it came back, as in 30s [default of a new service: 0s]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = time)]
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "duration::option"
    )]
    pub slow_start: Option<Duration>,
    /// Least live weight that the service needs [default of a new service: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = |text: &str| number(text, 1..=MAX_QUORUM))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u32>,
    /// Quorum is lost at this much below, and regained at this much above [default of a new service: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = |text: &str| number(text, 0..=MAX_QUORUM))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hysteresis: Option<u32>,
    /// Backups that step in when they are needed: first, all [default of a new service: first]
    #[arg(long, value_name = "WHICH", value_parser = named::<Backups>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<Backups>,
    /// Clients that may open connections, as in 10.0.0.0/8,192.0.2.7, all others may not; none = all may [default of a new service: none]
    #[arg(long, value_name = "PREFIX,...", value_parser = Prefixes::from_argument)]
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "filter::prefixes"
    )]
    pub allow: Option<Prefixes>,
    /// Clients that may not open connections; of --allow and --deny the longest prefix decides [default of a new service: none]
    #[arg(long, value_name = "PREFIX,...", value_parser = Prefixes::from_argument)]
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "filter::prefixes"
    )]
    pub deny: Option<Prefixes>,
    /// New connections of a client in a second, as in 100/s or '100/s per /24' [default of a new service: none]
    #[arg(long, value_name = "RATE", allow_hyphen_values = true, value_parser = RateSetting::from_argument)]
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "filter::rate"
    )]
    pub rate: Option<RateSetting>,
    /// All its checks; empty = none.
    #[arg(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "check")]
    pub checks: Option<C>,
}

/// The settings that are single values; the persistence and the checks have a reader and a writer of their own.
pub const SERVICE_SETTINGS: [Setting<ServiceSettings>; 14] = [
    setting!("name", name),
    setting!("scheduler", scheduler),
    setting!("hash", hash),
    setting!("no-real", no_real),
    setting!("forwarding", forwarding),
    setting!("hairpin", hairpin),
    setting!("on-down", on_down),
    setting!("slow-start", slow_start),
    setting!("quorum", quorum, 1..=MAX_QUORUM),
    setting!("hysteresis", hysteresis, 0..=MAX_QUORUM),
    setting!("backups", backups),
    setting!("allow", allow),
    setting!("deny", deny),
    setting!("rate", rate),
];

/// All keys of `[[service]]`, as messages and the manual list them.
pub const SERVICE_KEYS: [Key; 19] = [
    key(
        "name",
        "a name for the service: a letter, then up to 62 letters, digits, `.`, `_` or `-`",
        "none",
    ),
    key(
        "address",
        "the VIP and the port; port 0 = every port",
        "must be named",
    ),
    key("protocol", "`tcp` or `udp`", "`tcp`"),
    key(
        "scheduler",
        "how new connections are distributed: see Schedulers",
        "`wrr`",
    ),
    key(
        "hash",
        "what the schedulers `sh` and `mh` hash: `client` (its address) or `client-port` (address and port)",
        "`client`",
    ),
    key(
        "persistence",
        "a client's later connections go to the real server of its first: see Persistence",
        "none",
    ),
    key(
        "no-real",
        "what a client gets while no real server takes connections: `reject` (TCP reset, ICMP port unreachable) or `drop`",
        "`reject`",
    ),
    key(
        "forwarding",
        "how packets reach real servers that have no `forwarding` of their own: `nat` or `full-nat`",
        "`nat`",
    ),
    key(
        "hairpin",
        "clients whom their real server would answer past the balancer (those in its network, and itself): `full-nat` serves them so, `refuse` resets them",
        "`full-nat`",
    ),
    key(
        "check",
        "how the real servers are probed: see Health",
        "they count as up",
    ),
    key(
        "on-down",
        "connections of a real server that went down: `keep`, `reset` or `reset-after 30s`",
        "`reset`",
    ),
    key(
        "slow-start",
        "how long the weight of a real server that came back grows, 0s to 1day; not with `lc`, `fo`, `ovf` and those that hash",
        "`0s`",
    ),
    key(
        "quorum",
        "live weight that the service needs, 1 to 1000000000",
        "1",
    ),
    key(
        "hysteresis",
        "quorum is lost this far below it, and regained this far above; less than `quorum`",
        "0",
    ),
    key(
        "backups",
        "which backups step in: `first` (the first that is up) or `all`",
        "`first`",
    ),
    key(
        "allow",
        "clients that may open connections, a list of prefixes as in `[\"10.0.0.0/8\", \"192.0.2.7\"]`; all others may not: see Filters in `balancer-services`(7)",
        "all may",
    ),
    key(
        "deny",
        "clients that may not open connections, a list of prefixes; of all in `allow` and `deny` the longest that contains a client decides",
        "none",
    ),
    key(
        "rate",
        "new connections of a client in a second, 1/s to 1000000/s, as in `\"100/s\"`; with `per /24` clients whose addresses agree in so many bits count as one, by default those of one address, or of one /64 of IPv6",
        "no limit",
    ),
    key(
        "real",
        "its real servers, each in a block `[[service.real]]`",
        "none",
    ),
];

impl VirtualService {
    /// A service with all defaults and without real servers.
    #[must_use]
    pub fn new(key: ServiceKey) -> Self {
        Self {
            key,
            name: None,
            scheduler: Scheduler::default(),
            hash: None,
            persistence: None,
            no_real: NoReal::default(),
            forwarding: ForwardMethod::default(),
            hairpin: Hairpin::default(),
            checks: Vec::new(),
            health: HealthPolicy::default(),
            filter: Filter::default(),
            reals: Vec::new(),
            runtime: false,
        }
    }

    /// Whether an operator means it by this: its name, or `tcp/ADDRESS:PORT`.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name) || self.key.to_string() == name
    }

    /// Changes what is set in `settings`.
    pub fn set(&mut self, settings: ServiceSettings) {
        let ServiceSettings {
            name,
            scheduler,
            hash,
            persistence,
            no_real,
            forwarding,
            hairpin,
            on_down,
            slow_start,
            quorum,
            hysteresis,
            backups,
            allow,
            deny,
            rate,
            checks,
        } = settings;
        let health = &mut self.health;
        self.name = name.or_else(|| self.name.take());
        self.scheduler = scheduler.unwrap_or(self.scheduler);
        // A key goes with the scheduler that hashes it.
        let kept = self.hash.filter(|_| self.scheduler.hashes_client());
        self.hash = hash.or(kept);
        if let Some(settings) = persistence {
            let vip = self.key.address.ip();
            self.persistence = settings.applied(self.persistence.take(), vip);
        }
        self.no_real = no_real.unwrap_or(self.no_real);
        self.forwarding = forwarding.unwrap_or(self.forwarding);
        self.hairpin = hairpin.unwrap_or(self.hairpin);
        health.on_down = on_down.unwrap_or(health.on_down);
        health.slow_start = slow_start.unwrap_or(health.slow_start);
        health.quorum = quorum.unwrap_or(health.quorum);
        health.hysteresis = hysteresis.unwrap_or(health.hysteresis);
        health.backups = backups.unwrap_or(health.backups);
        if let Some(allow) = allow {
            self.filter.allow = allow;
        }
        if let Some(deny) = deny {
            self.filter.deny = deny;
        }
        if let Some(rate) = rate {
            self.filter.rate = rate.limit(self.key.address.ip());
        }
        if let Some(checks) = checks {
            self.checks = checks;
        }
    }

    /// All its settings.
    #[must_use]
    pub fn settings(&self) -> ServiceSettings {
        let Self {
            key: _,
            name,
            scheduler,
            hash,
            persistence,
            no_real,
            forwarding,
            hairpin,
            checks,
            health,
            filter,
            reals: _,
            runtime: _,
        } = self;
        let Filter { allow, deny, rate } = filter;
        let HealthPolicy {
            on_down,
            slow_start,
            quorum,
            hysteresis,
            backups,
        } = *health;
        ServiceSettings {
            name: name.clone(),
            scheduler: Some(*scheduler),
            hash: *hash,
            persistence: persistence.as_ref().map(Persistence::settings),
            no_real: Some(*no_real),
            forwarding: Some(*forwarding),
            hairpin: Some(*hairpin),
            on_down: Some(on_down),
            slow_start: Some(slow_start),
            quorum: Some(quorum),
            hysteresis: Some(hysteresis),
            backups: Some(backups),
            allow: Some(allow.clone()),
            deny: Some(deny.clone()),
            rate: Some((*rate).into()),
            checks: Some(checks.clone()),
        }
    }

    /// Whether two services differ at most in their real servers and in whether the file contains them.
    #[must_use]
    pub fn is_same_but_reals(&self, other: &Self) -> bool {
        let Self {
            key,
            name,
            scheduler,
            hash,
            persistence,
            no_real,
            forwarding,
            hairpin,
            checks,
            health,
            filter,
            reals: _,
            runtime: _,
        } = self;
        (
            key,
            name,
            scheduler,
            hash,
            persistence,
            no_real,
            forwarding,
            hairpin,
            checks,
            health,
            filter,
        ) == (
            &other.key,
            &other.name,
            &other.scheduler,
            &other.hash,
            &other.persistence,
            &other.no_real,
            &other.forwarding,
            &other.hairpin,
            &other.checks,
            &other.health,
            &other.filter,
        )
    }

    /// The lightest configured weight above 0 of its real servers without the backups; 1 if there is none. It stands for a
    /// configured weight of 0 where clients are hashed: see [`RealServer::hash_weight`].
    #[must_use]
    pub fn lightest_weight(&self) -> u32 {
        let reals = self.reals.iter().filter(|real| !real.backup);
        let weights = reals.map(|real| real.weight);
        weights.filter(|weight| *weight > 0).min().unwrap_or(1)
    }

    /// Those of its settings that are not the default.
    #[must_use]
    pub fn settings_beside_defaults(&self) -> ServiceSettings {
        ServiceSettings::default().or(self)
    }
}

impl ServiceSettings {
    /// Fills each unset setting with that of `service`, unless it has the default there.
    #[must_use]
    pub fn or(mut self, service: &VirtualService) -> Self {
        let all = service.settings();
        let default = VirtualService::new(service.key).settings();
        setting::fill(&SERVICE_SETTINGS, &mut self, &all, &default);
        if let Some(persistence) = &service.persistence {
            let own = self.persistence.unwrap_or_default();
            self.persistence = Some(own.or(persistence));
        }
        let checks = all.checks.filter(|checks| !checks.is_empty());
        self.checks = self.checks.or(checks);
        self
    }
}

impl<C> ServiceSettings<C> {
    /// The same with its checks read by `read`.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn with_checks<D, E>(
        self,
        read: impl FnOnce(C) -> Result<D, E>,
    ) -> Result<ServiceSettings<D>, E> {
        let Self {
            name,
            scheduler,
            hash,
            persistence,
            no_real,
            forwarding,
            hairpin,
            on_down,
            slow_start,
            quorum,
            hysteresis,
            backups,
            allow,
            deny,
            rate,
            checks,
        } = self;
        Ok(ServiceSettings {
            name,
            scheduler,
            hash,
            persistence,
            no_real,
            forwarding,
            hairpin,
            on_down,
            slow_start,
            quorum,
            hysteresis,
            backups,
            allow,
            deny,
            rate,
            checks: checks.map(read).transpose()?,
        })
    }
}
