//! What virtual routers track beside interfaces: addresses that are pinged, services, programs. Pings and programs are checks like those
//! of real servers. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{availability::Availability, report::service_name};
use crate::{
    health::{CheckStart, CheckTarget, CheckUpdate},
    model::{
        Check, Model, VirtualService,
        check::{ExecProbe, Initial, Probe, Source, Target, Timing},
        view::{self, RealState},
        vrrp::{TrackExec, TrackPing, VirtualRouter},
    },
    vrrp::engine::Tracked,
};

/// The last results of what is pinged and run.
#[derive(Debug, Default)]
pub struct Tracking {
    /// Whether it is up. What is not there has no result yet, and counts as up.
    states: HashMap<CheckTarget, bool>,
}

/// What is tracked at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrackedNow {
    /// For each virtual router by name.
    pub routers: BTreeMap<String, Tracked>,
    /// A sentence for each thing that is down.
    pub problems: Vec<String>,
    /// All that is tracked, each once.
    pub things: Vec<view::Tracked>,
}

/// Something tracked that is down.
struct Down {
    sentence: String,
    /// 0 = the virtual router is in fault.
    weight: u8,
}

impl Tracking {
    /// The checkers to run beside those of real servers.
    #[must_use]
    pub fn checkers(model: &Model) -> Vec<CheckStart> {
        let mut routers: BTreeMap<CheckTarget, Vec<&str>> = BTreeMap::new();
        for router in &model.vrrp {
            for (target, _) in check_targets(router) {
                routers.entry(target).or_default().push(&router.name);
            }
        }
        let start = |(target, routers): (CheckTarget, Vec<&str>)| CheckStart {
            name: Some(name(&target, &routers)),
            target: Arc::new(target),
            from: None,
            paused: false,
        };
        routers.into_iter().map(start).collect()
    }

    /// Takes new states over; returns whether something is up that was down, or the other way round.
    pub fn update(&mut self, updates: &[CheckUpdate]) -> bool {
        let mut is_new = false;
        for update in updates {
            let up = update.check_state.up;
            let known = self.states.insert(update.target.clone(), up);
            is_new |= known.unwrap_or(true) != up;
        }
        is_new
    }

    /// Forgets what the model does not track.
    pub fn retain(&mut self, model: &Model) {
        let routers = model.vrrp.iter();
        let wanted: BTreeSet<_> = routers
            .flat_map(check_targets)
            .map(|(target, _)| target)
            .collect();
        self.states.retain(|target, _| wanted.contains(target));
    }

    /// What is down for each virtual router.
    #[must_use]
    pub fn now(&self, model: &Model, availability: &Availability) -> TrackedNow {
        let mut now = TrackedNow::default();
        for router in &model.vrrp {
            let mut tracked = Tracked {
                noticed_within: noticed_within(router, model),
                ..Tracked::default()
            };
            for Down { sentence, weight } in self.down(router, model, availability) {
                if weight == 0 {
                    tracked.fault.get_or_insert_with(|| sentence.clone());
                }
                tracked.penalty = tracked.penalty.saturating_add(weight);
                let what = match weight {
                    0 => "is in fault".to_owned(),
                    weight => format!("has a priority lower by {weight}"),
                };
                now.problems
                    .push(format!("{} {what}: {sentence}", router.name));
            }
            now.routers.insert(router.name.clone(), tracked);
            for thing in self.things(router, model, availability) {
                if !now.things.contains(&thing) {
                    now.things.push(thing);
                }
            }
        }
        now
    }

    /// What a virtual router tracks.
    fn things(
        &self,
        router: &VirtualRouter,
        model: &Model,
        availability: &Availability,
    ) -> Vec<view::Tracked> {
        let thing = |name: String, up| view::Tracked { name, up };
        let pings = router.track_ping.iter().flat_map(|ping| {
            let targets = ping_targets(router, ping);
            let named = targets.map(|target| (format!("ping {}", target.target.ip()), target));
            named.map(|(name, target)| thing(name, self.is_up(&target)))
        });
        let services = router.track_services.iter().map(|tracked| {
            let mut services = model.services.iter();
            let service = services.find(|service| service.is_called(&tracked.service));
            let up = service.is_some_and(|service| can_answer(service, availability));
            thing(format!("service {}", tracked.service), up)
        });
        let programs = router.track_exec.iter().map(|exec| {
            let up = self.is_up(&exec_target(router, exec));
            thing(format!("program {}", exec.run.join(" ")), up)
        });
        pings.chain(services).chain(programs).collect()
    }

    /// Whether what is pinged or run is up; it counts as up before there is a result.
    fn is_up(&self, target: &CheckTarget) -> bool {
        self.states.get(target).copied().unwrap_or(true)
    }

    fn down(
        &self,
        router: &VirtualRouter,
        model: &Model,
        availability: &Availability,
    ) -> Vec<Down> {
        let mut down = Vec::new();
        if let Some(ping) = &router.track_ping
            && !ping_targets(router, ping).any(|target| self.is_up(&target))
        {
            let addresses: Vec<_> = ping.targets.iter().map(ToString::to_string).collect();
            let sentence = match &addresses[..] {
                [one] => format!("{one} does not answer a ping"),
                several => format!("none of {} answers a ping", several.join(", ")),
            };
            down.push(Down {
                sentence,
                weight: ping.weight,
            });
        }
        for exec in &router.track_exec {
            if !self.is_up(&exec_target(router, exec)) {
                let program = exec.run.first().map(String::as_str).unwrap_or_default();
                down.push(Down {
                    sentence: format!("{program} does not succeed"),
                    weight: exec.weight,
                });
            }
        }
        for tracked in &router.track_services {
            let mut services = model.services.iter();
            if let Some(service) = services.find(|service| service.is_called(&tracked.service))
                && !can_answer(service, availability)
            {
                down.push(Down {
                    sentence: format!(
                        "no real server of service {} takes new connections",
                        service_name(service)
                    ),
                    weight: tracked.weight,
                });
            }
        }
        down
    }
}

/// How long after another node this one may notice that something which both track is down, or up again.
fn noticed_within(router: &VirtualRouter, model: &Model) -> Duration {
    let own = check_targets(router).map(|(target, _)| noticed(&target.check.timing));
    let services = router.track_services.iter().filter_map(|tracked| {
        let mut services = model.services.iter();
        services.find(|service| service.is_called(&tracked.service))
    });
    let of_services = services
        .flat_map(|service| &service.checks)
        .map(|check| noticed(&check.timing));
    own.chain(of_services).max().unwrap_or_default()
}

/// How long a check may take to notice a change, once it is there.
fn noticed(timing: &Timing) -> Duration {
    timing.interval * timing.fall.max(timing.rise) + timing.timeout
}

/// Whether a real server takes new connections, or it is not known yet whether one does.
fn can_answer(service: &VirtualService, availability: &Availability) -> bool {
    let Some(status) = availability.service(&service.key) else {
        return true;
    };
    let waits = |real: &super::availability::RealStatus| {
        real.healthy.is_none() && real.state == RealState::Down
    };
    status
        .reals
        .values()
        .any(|real| real.weight > 0 || waits(real))
}

/// What sentences call a check of what these virtual routers track.
fn name(target: &CheckTarget, routers: &[&str]) -> String {
    let routers = format!("virtual router {}", routers.join(", "));
    match &target.check.probe {
        Probe::Ping => format!("{} for {routers}", target.target.ip()),
        _ => routers,
    }
}

/// What a virtual router pings and runs, each with whom it is for, as the health report names it.
pub fn check_targets(router: &VirtualRouter) -> impl Iterator<Item = (CheckTarget, String)> {
    let user = format!("vrrp {}", router.name);
    let pings = router
        .track_ping
        .iter()
        .flat_map(|ping| ping_targets(router, ping));
    let programs = router
        .track_exec
        .iter()
        .map(|exec| exec_target(router, exec));
    pings
        .chain(programs)
        .map(move |target| (target, user.clone()))
}

fn ping_targets(router: &VirtualRouter, ping: &TrackPing) -> impl Iterator<Item = CheckTarget> {
    let timing = timing((ping.interval, ping.timeout), (ping.rise, ping.fall));
    let targets = ping.targets.iter();
    targets.map(move |address| CheckTarget {
        target: SocketAddr::new(*address, 0),
        check: Check {
            probe: Probe::Ping,
            target: Target::default(),
            source: Source {
                interface: is_link_local(*address).then(|| router.interface.clone()),
                ..Source::default()
            },
            timing: timing.clone(),
        },
    })
}

fn exec_target(router: &VirtualRouter, exec: &TrackExec) -> CheckTarget {
    let vip = router.addresses.first().map(|first| first.address);
    CheckTarget {
        target: SocketAddr::new(vip.unwrap_or(IpAddr::from([0, 0, 0, 0])), 0),
        check: Check {
            probe: Probe::Exec(ExecProbe {
                run: exec.run.clone(),
                user: exec.user.clone(),
                is_monitor: false,
            }),
            target: Target::default(),
            source: Source::default(),
            timing: timing((exec.interval, exec.timeout), (exec.rise, exec.fall)),
        },
    }
}

fn timing((interval, timeout): (Duration, Duration), (rise, fall): (u32, u32)) -> Timing {
    Timing {
        interval,
        fast_interval: None,
        timeout,
        rise,
        fall,
        initial: Initial::Up,
    }
}

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::read,
        health::{AgentReply, CheckState, UNKNOWN_TIME, fake::FakeCheckers},
        os::clock,
    };

    const FILE: &str = r#"
        [dataplane]
        interfaces = ["eth0"]
        [[service]]
        name = "web"
        address = "192.0.2.80:80"
        check = { type = "tcp" }
        [[service.real]]
        address = "10.0.0.2:80"
        [[vrrp]]
        name = "outside"
        interface = "eth0"
        router-id = 51
        priority = 150
        addresses = ["192.0.2.80/24"]
        track-ping = { targets = ["192.0.2.1", "fe80::1"], interval = "2s", fall = 4, rise = 1, weight = 60 }
        track-exec = { run = ["/bin/true"], weight = 0 }
        track-services = [{ service = "web", weight = 20 }]
    "#;

    fn model() -> Model {
        read::model(FILE, "lb1").unwrap()
    }

    /// What the virtual router is told: the check of the service is the slowest, with three times 5 s and 2 s.
    fn tracked(fault: Option<&str>, penalty: u8) -> Tracked {
        Tracked {
            fault: fault.map(str::to_owned),
            penalty,
            noticed_within: Duration::from_secs(17),
        }
    }

    /// Both pings, the service and the program, as far as they are up.
    fn things(up: [bool; 4]) -> Vec<view::Tracked> {
        let names = [
            "ping 192.0.2.1",
            "ping fe80::1",
            "service web",
            "program /bin/true",
        ];
        let things = names.into_iter().zip(up);
        let thing = |(name, up): (&str, bool)| view::Tracked {
            name: name.to_owned(),
            up,
        };
        things.map(thing).collect()
    }

    fn updated(target: CheckTarget, up: bool) -> CheckUpdate {
        CheckUpdate {
            target,
            check_state: CheckState {
                up,
                decided: true,
                reason: String::new(),
                agent_reply: AgentReply::default(),
                since: UNKNOWN_TIME,
            },
        }
    }

    #[test]
    fn pings_and_programs_are_checks_that_begin_as_up() {
        let model = model();
        let checkers = Tracking::checkers(&model);
        let shown: Vec<_> = checkers
            .iter()
            .map(|start| {
                let Check {
                    probe,
                    source,
                    timing,
                    ..
                } = &start.target.check;
                let interface = source.interface.clone();
                (
                    start.target.target.to_string(),
                    probe.name(),
                    interface,
                    timing.fall,
                    timing.initial,
                )
            })
            .collect();
        let expected = [
            ("192.0.2.1:0", "ping", None, 4),
            ("192.0.2.80:0", "exec", None, 3),
            ("[fe80::1]:0", "ping", Some("eth0"), 4),
        ];
        let expected = expected.map(|(target, probe, interface, fall)| {
            (
                target.to_owned(),
                probe,
                interface.map(str::to_owned),
                fall,
                Initial::Up,
            )
        });
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_down_lowers_the_priority_or_is_a_fault() {
        let model = model();
        let availability = Availability::at_start(&model, &FakeCheckers::default(), clock::now());
        let mut tracking = Tracking::default();
        let targets: Vec<_> = check_targets(&model.vrrp[0])
            .map(|(target, _)| target)
            .collect();
        let now = |tracking: &Tracking| tracking.now(&model, &availability);
        let fine = TrackedNow {
            routers: BTreeMap::from([("outside".to_owned(), tracked(None, 0))]),
            problems: Vec::new(),
            things: things([true; 4]),
        };
        assert_eq!(now(&tracking), fine, "nothing was probed yet");
        // One of two answers.
        let one_answers = TrackedNow {
            things: things([false, true, true, true]),
            ..fine.clone()
        };
        assert!(tracking.update(&[updated(targets[0].clone(), false)]));
        assert!(!tracking.update(&[updated(targets[1].clone(), true)]));
        assert_eq!(now(&tracking), one_answers);
        assert!(tracking.update(&[updated(targets[1].clone(), false)]));
        let none_answers =
            "outside has a priority lower by 60: none of 192.0.2.1, fe80::1 answers a ping";
        let lower = TrackedNow {
            routers: BTreeMap::from([("outside".to_owned(), tracked(None, 60))]),
            problems: vec![none_answers.to_owned()],
            things: things([false, false, true, true]),
        };
        assert_eq!(now(&tracking), lower);
        assert!(tracking.update(&[updated(targets[2].clone(), false)]));
        let fault = TrackedNow {
            routers: BTreeMap::from([(
                "outside".to_owned(),
                tracked(Some("/bin/true does not succeed"), 60),
            )]),
            problems: vec![
                none_answers.to_owned(),
                "outside is in fault: /bin/true does not succeed".to_owned(),
            ],
            things: things([false, false, true, false]),
        };
        assert_eq!(now(&tracking), fault);
        tracking.retain(&Model {
            vrrp: Vec::new(),
            ..model.clone()
        });
        assert_eq!(now(&tracking), fine);
    }

    #[test]
    fn a_service_without_living_real_servers_lowers_the_priority() {
        let model = model();
        let checkers = FakeCheckers::default();
        let mut availability = Availability::at_start(&model, &checkers, clock::now());
        let check = availability.checkers()[0].target.as_ref().clone();
        availability.update(&model, vec![updated(check, false)], clock::now());
        let now = Tracking::default().now(&model, &availability);
        let expected = TrackedNow {
            routers: BTreeMap::from([("outside".to_owned(), tracked(None, 20))]),
            problems: vec![
                "outside has a priority lower by 20: no real server of service web takes new connections"
                    .to_owned(),
            ],
            things: things([true, true, false, true]),
        };
        assert_eq!(now, expected);
    }

    #[test]
    fn a_node_waits_for_its_own_checks_before_it_relieves_another() {
        let within = |ping: &str, check: &str| {
            let file = FILE
                .replace("interval = \"2s\", fall = 4, rise = 1", ping)
                .replace("type = \"tcp\"", check);
            let model = read::model(&file, "lb1").unwrap();
            noticed_within(&model.vrrp[0], &model).as_millis()
        };
        // The ping, by its failures or its successes; the program is faster.
        let fast = "type = \"tcp\", interval = \"100ms\", timeout = \"50ms\"";
        assert_eq!(within("interval = \"2s\", fall = 4, rise = 1", fast), 9000);
        assert_eq!(
            within("interval = \"2s\", fall = 1, rise = 5", fast),
            11_000
        );
        assert_eq!(
            within("interval = \"200ms\", fall = 1, rise = 1", fast),
            4000
        );
        // The service's check.
        let slow = "type = \"tcp\", interval = \"10s\", timeout = \"1s\", rise = 6, fall = 2";
        assert_eq!(
            within("interval = \"2s\", fall = 4, rise = 1", slow),
            61_000
        );
        let mut untracked = model();
        untracked.vrrp[0].track_services.clear();
        assert_eq!(noticed_within(&untracked.vrrp[0], &untracked).as_secs(), 9);
    }
}
