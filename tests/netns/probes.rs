//! Probes against the servers that they are made for, each in a network namespace of its own.

mod neighbours;
mod paths;
mod servers;

use std::{fs, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use balancer_ctl::{
    health::{
        AgentReply, CheckTarget, Outcome,
        probe::{Prober, SocketPool},
    },
    model::check::{Check, Exchange, ExecProbe, HttpProbe, Pattern, Probe, Source, Target, Timing},
};
use balancer_tests::{
    privileged,
    topology::{Arms, Topology, page, socket},
};

/// When a probe that is expected to be in vain is given up.
const SHORT: Duration = Duration::from_millis(300);
/// When one is given up that is not.
const LONG: Duration = Duration::from_secs(5);

/// One real server, and the balancer that asks it. Sockets go from one probe to the next, as in the daemon.
struct Scene(Topology, Arc<SocketPool>);

impl Scene {
    fn new() -> Self {
        Self(Topology::new(Arms::Two, 1), Arc::default())
    }

    fn target(&self, port: u16) -> SocketAddr {
        socket(&self.0.reals[0].address, port)
    }

    fn target6(&self, port: u16) -> SocketAddr {
        socket(&self.0.reals[0].address6, port)
    }

    /// Asks from the balancer; `None` = there is no answer in time.
    fn ask_from(
        &self,
        source: Source,
        target: SocketAddr,
        probe: Probe,
        limit: Duration,
    ) -> Option<Outcome> {
        let prober = self.prober_from(source, target, probe, limit);
        let asked = self
            .0
            .balancer
            .run(|| block_on(async { tokio::time::timeout(limit, prober.probe()).await.ok() }));
        asked.expect("enter the balancer")
    }

    fn prober_from(
        &self,
        source: Source,
        target: SocketAddr,
        probe: Probe,
        limit: Duration,
    ) -> Prober {
        let target = CheckTarget {
            target,
            check: Check {
                probe,
                target: Target::default(),
                source,
                timing: Timing {
                    timeout: limit,
                    ..Timing::default()
                },
            },
        };
        Prober::new(&target, &self.1).expect("a probe")
    }

    fn prober(&self, target: SocketAddr, probe: Probe) -> Prober {
        self.prober_from(Source::default(), target, probe, SHORT)
    }

    fn ask(&self, target: SocketAddr, probe: Probe) -> Outcome {
        self.ask_from(Source::default(), target, probe.clone(), LONG)
            .unwrap_or_else(|| panic!("{target} gave no answer to {probe:?}"))
    }

    fn asks_in_vain(&self, target: SocketAddr, probe: Probe) {
        let answer = self.ask_from(Source::default(), target, probe, SHORT);
        assert_eq!(answer, None);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

fn pass(note: &str) -> Outcome {
    Outcome::Passed {
        note: note.into(),
        agent_reply: AgentReply::default(),
    }
}

fn fail(reason: &str) -> Outcome {
    Outcome::Failed {
        reason: reason.into(),
    }
}

fn pattern(expression: &str) -> Option<Pattern> {
    Some(Pattern::new(expression).expect("an expression"))
}

fn exchange(send: &[u8], expect: &str) -> Exchange {
    Exchange {
        send: send.to_vec(),
        expect: pattern(expect),
    }
}

fn tcp() -> Probe {
    Probe::Tcp(Exchange::default())
}

fn http(probe: HttpProbe) -> Probe {
    Probe::Http(Box::new(probe))
}

/// Files and processes of this process.
fn possessions() -> (usize, usize) {
    let files = fs::read_dir("/proc/self/fd").expect("a list").count();
    let children = fs::read_dir("/proc/self/task")
        .expect("a list")
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .map(|children| children.split_whitespace().count())
        .sum();
    (files, children)
}

#[test]
fn hundreds_of_probes_leave_no_file_and_no_process_behind() {
    if privileged::skipped() {
        return;
    }
    let mut scene = Scene::new();
    scene.0.reals[0].start_nginx(&format!("listen 80; {}", page(1)));
    scene
        .0
        .balancer
        .ip("neighbour add 192.168.0.99 lladdr 02:00:00:00:00:99 dev inside nud permanent")
        .expect("a neighbour");
    let shell = |script: &str| {
        Probe::Exec(ExecProbe {
            user: None,
            is_monitor: true,
            run: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        })
    };
    let (good, silent) = (scene.target(80), socket("192.168.0.99", 80));
    let probes = [
        (good, tcp()),
        (good, http(HttpProbe::default())),
        (good, Probe::Tcp(exchange(b"x", "never"))),
        (good, Probe::Udp(Exchange::default())),
        (good, Probe::Ping),
        (good, shell("sleep 100 & exit 0")),
        (good, shell("trap '' TERM; sleep 100 & sleep 100")),
        (silent, tcp()),
        (silent, http(HttpProbe::default())),
        (silent, Probe::Udp(exchange(b"x", "x"))),
        (silent, Probe::Ping),
    ];
    let probers = || {
        let pool = Arc::default();
        let prober = |(target, probe): &(SocketAddr, Probe)| {
            let target = CheckTarget {
                target: *target,
                check: Check {
                    probe: probe.clone(),
                    target: Target::default(),
                    source: Source::default(),
                    timing: Timing::default(),
                },
            };
            Prober::new(&target, &pool)
        };
        probes
            .iter()
            .cycle()
            .take(probes.len() * 30)
            .map(|probe| prober(probe).expect("a probe"))
            .collect::<Vec<_>>()
    };
    let (before, after) = scene
        .0
        .balancer
        .run(|| {
            block_on(async {
                // The first lets the runtime open what it needs.
                let _ = tokio::time::timeout(LONG, probers()[5].probe()).await;
                let before = possessions();
                let local = tokio::task::LocalSet::new();
                for prober in probers() {
                    local.spawn_local(async move {
                        // Some answer, some do not: both must leave nothing.
                        let _ = tokio::time::timeout(SHORT, prober.probe()).await;
                    });
                }
                local.await;
                // tokio fetches the dead when another child ends.
                for _ in 0..100 {
                    let _ = tokio::time::timeout(LONG, probers()[5].probe()).await;
                    if possessions() == before {
                        break;
                    }
                }
                (before, possessions())
            })
        })
        .expect("enter the balancer");
    assert_eq!(after, before, "(files, children)");
}
