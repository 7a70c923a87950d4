//! `cargo xtask run --pair`: two balancers share their addresses. The Active one is killed while a client asks all the time, the
//! other takes over, and gives the addresses back by hand.

mod client;
mod network;
mod view;

use std::{
    env,
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use xtask::lab::wait_until;

use self::{
    client::{Client, PACE, counted},
    network::{NODES, Network},
    view::{Router, sections},
};
use super::{
    LabOptions,
    daemon::Daemon,
    live,
    network::{INSIDE, PORT, REALS, VIP},
};
use crate::interrupt;

/// Advertisement interval.
const INTERVAL: Duration = Duration::from_millis(100);
/// Priorities: the first balancer is preferred, but does not take the addresses back by itself.
const PRIORITIES: [u8; 2] = [150, 100];
/// The longest gap that the client may see. A Backup balancer that is told nothing waits three intervals and its skew time: a
/// shorter gap shows that it was told, by the guard of the killed daemon or by the one that gives up.
const BOUND: Duration = Duration::from_millis(3 * 100);
/// How long the client goes on to ask before and after each event.
const LOOK: Duration = Duration::from_secs(1);
/// How long the balancers may take to agree: several times as long as they wait for each other.
const AGREE: Duration = Duration::from_secs(10);

/// Builds the lab, shows the steps, then a live view.
///
/// # Errors
/// A step had another result than it should; the error contains it.
pub fn show(options: &LabOptions) -> Result<ExitCode> {
    let network = Network::new()?;
    network.explain();
    let prepare = |node: usize| Daemon::prepare(NODES[node], &config(node), &options.programs);
    let mut pair = Pair {
        daemons: [prepare(0)?, prepare(1)?],
        network: &network,
        programs: &options.programs,
    };
    if let Err(error) = pair.run(options.once) {
        if !interrupt::happened() {
            for (daemon, name) in pair.daemons.iter().zip(NODES) {
                eprintln!("\n{name}'s log:\n{}", daemon.log());
            }
        }
        return Err(error);
    }
    if options.once {
        println!("\nAll of it held. Cleaning up.");
    }
    Ok(ExitCode::SUCCESS)
}

/// The configuration of a balancer.
fn config(node: usize) -> String {
    let (name, priority) = (NODES[node], PRIORITIES[node]);
    let router = |interface: &str, router_id: u8, vip| {
        format!(
            "\n[[vrrp]]\nname = \"{interface}\"\ninterface = \"{interface}\"\nrouter-id = {router_id}\ngroup = \"pair\"\n\
             priority = {priority}\nadvertisement-interval = \"{}ms\"\naddresses = [\"{vip}/24\"]\n",
            INTERVAL.as_millis()
        )
    };
    let reals: String = REALS
        .iter()
        .map(|real| {
            format!(
                "\n[[service.real]]\naddress = \"{}:{PORT}\"\n",
                real.address
            )
        })
        .collect();
    format!(
        "# Written by `cargo xtask run --pair`.\n[node]\nname = \"{name}\"\n\n[dataplane]\ninterfaces = [\"outside\", \"inside\"]\n\
         {}{}\n[[service]]\nname = \"web\"\naddress = \"{VIP}:{PORT}\"\nscheduler = \"rr\"\n{reals}",
        router("outside", 51, VIP),
        router("inside", 52, INSIDE),
    )
}

/// The lab at work.
struct Pair<'lab> {
    daemons: [Daemon; 2],
    network: &'lab Network,
    /// The folder with balancer-ctl.
    programs: &'lab Path,
}

impl Pair<'_> {
    /// Shows all steps, and if not `once` then the live view, while the client asks.
    fn run(&mut self, once: bool) -> Result<()> {
        scene("Two daemons with the same virtual routers, in one group");
        self.daemons[0].explain()?;
        println!(
            "\n  {}: the same with a name and a priority of its own, {}",
            NODES[1], PRIORITIES[1]
        );
        for (daemon, namespace) in self.daemons.iter_mut().zip(&self.network.nodes) {
            daemon.start(namespace)?;
        }
        self.wait_for_active(0)?;
        self.show_view()?;

        let (client, network) = (Client::default(), self.network);
        thread::scope(|scope| {
            let asking = scope.spawn(|| client.run(&network.client));
            let shown = self.steps(&client).and_then(|()| match once {
                true => Ok(()),
                false => self.live(&client),
            });
            client.stop();
            let asked = asking.join();
            shown?;
            asked.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
        })
    }

    fn steps(&mut self, client: &Client) -> Result<()> {
        scene("A client asks all the time, and both real servers answer");
        println!(
            "  client$ curl http://{VIP}/      (again and again, every {} ms)",
            PACE.as_millis()
        );
        let start = Instant::now();
        interrupt::sleep(LOOK)?;
        let requests = client.since(start);
        let counts = counted(&requests);
        ensure!(
            REALS.iter().all(|real| counts.contains_key(real.name)),
            "not both real servers answered: {counts:?} of {} requests",
            requests.len()
        );
        let counts: Vec<String> = counts
            .iter()
            .map(|(name, count)| format!("{count} by {name}"))
            .collect();
        println!(
            "  {} requests in {LOOK:?}: answered {}",
            requests.len(),
            counts.join(", ")
        );

        scene("The Active daemon is killed: its guard removes the VIPs and tells the other");
        let id = self.daemons[0].id().context("it does not run")?;
        println!("  {}# kill -9 {id}", NODES[0]);
        let event = Instant::now();
        self.daemons[0].kill()?;
        self.wait_for_active(1)?;
        show_gap(client, event)?;
        self.show_view()?;

        scene("It is started again, and stays Backup: failback is \"never\"");
        println!("  {}$ balancerd --config balancer.toml", NODES[0]);
        self.daemons[0].start(&self.network.nodes[0])?;
        wait_until("the daemon to be Backup", AGREE, || {
            interrupt::check()?;
            let routers = self.routers(0)?;
            Ok(routers.iter().all(Router::is_backup_of_another))
        })?;
        interrupt::sleep(LOOK)?;
        self.ensure_active(1)?;
        self.show_view()?;

        scene("Back by hand: the Active one keeps the VIPs until the other has announced itself");
        let event = Instant::now();
        self.daemons[1].ctl().show("failover")?;
        self.wait_for_active(0)?;
        show_gap(client, event)?;
        self.show_view()
    }

    /// Waits until this balancer is Active for all VIPs, and alone has them.
    fn wait_for_active(&self, node: usize) -> Result<()> {
        let what = format!("{} to be Active", NODES[node]);
        wait_until(&what, AGREE, || {
            interrupt::check()?;
            Ok(self.ensure_active(node).is_ok())
        })
        .and_then(|()| self.ensure_active(node))
    }

    /// Fails unless this balancer is Active for all VIPs, and alone has them.
    fn ensure_active(&self, node: usize) -> Result<()> {
        for (number, name) in NODES.iter().enumerate() {
            let vips = self.network.vips(number)?;
            let expected = if number == node { 2 } else { 0 };
            ensure!(
                vips.len() == expected,
                "{} should be Active, and {name} has these VIPs: {vips:?}",
                NODES[node]
            );
        }
        let routers = self.routers(node)?;
        ensure!(
            routers.len() == 2 && routers.iter().all(Router::is_active),
            "{} is not Active: {routers:?}",
            NODES[node]
        );
        Ok(())
    }

    fn routers(&self, node: usize) -> Result<Vec<Router>> {
        view::routers(&self.daemons[node].ctl().call("status --json")?)
    }

    /// Prints what each balancer says of its virtual routers, and which VIPs its kernel has.
    fn show_view(&self) -> Result<()> {
        print!("{}", self.view()?);
        Ok(())
    }

    fn view(&self) -> Result<String> {
        let mut text = String::new();
        for ((number, name), daemon) in NODES.iter().enumerate().zip(&self.daemons) {
            if daemon.id().is_some() {
                text += &format!(
                    "  {name}$ balancer-ctl status      (of it, the role and the virtual routers)\n"
                );
                for line in sections(&daemon.ctl().call("status")?, &["role", "vrrp"]) {
                    text += &format!("      {line}\n");
                }
            } else {
                text += &format!("  {name}: no daemon runs there\n");
            }
            let vips = self.network.vips(number)?;
            let vips = match vips.is_empty() {
                true => "none".to_owned(),
                false => vips.join(" "),
            };
            text += &format!("      VIPs on its interfaces: {vips}\n");
        }
        Ok(text)
    }

    /// Shows the view again and again until Ctrl-C.
    fn live(&self, client: &Client) -> Result<()> {
        let sudo = env::var_os("SUDO_UID").map_or("", |_| "sudo ");
        println!("\nThe lab keeps running until Ctrl-C. In another terminal:");
        for (daemon, name) in self.daemons.iter().zip(NODES) {
            println!(
                "  {sudo}{}/balancer-ctl --socket {} failover      # gives up on {name}",
                self.programs.display(),
                daemon.ctl().socket().display()
            );
        }
        println!("\n== Live; Ctrl-C ends it\n");
        live::repeat(|| {
            let start = Instant::now();
            interrupt::sleep(LOOK)?;
            let requests = client.since(start);
            let failed = requests.iter().filter(|one| one.answered.is_none());
            let gap = client.gap(start).map_or_else(
                || "nobody answers".to_owned(),
                |gap| format!("longest gap {:.1} ms", milliseconds(gap.length)),
            );
            client.forget_before(start);
            Ok(format!(
                "{}\n  client: {} requests in {LOOK:?}, {} failed, {gap}\n",
                self.view()?,
                requests.len(),
                failed.count(),
            ))
        })
    }
}

/// Waits for answers after the takeover, and prints the gap that the client saw.
fn show_gap(client: &Client, event: Instant) -> Result<()> {
    interrupt::sleep(LOOK)?;
    let gap = client
        .gap(event)
        .context("the client gets no answer any more")?;
    let failed = match gap.failed {
        0 => "no request failed".to_owned(),
        1 => "1 request failed".to_owned(),
        failed => format!("{failed} requests failed"),
    };
    println!(
        "  client: a gap of {:.1} ms from one answer to the next, in which {failed}",
        milliseconds(gap.length)
    );
    ensure!(
        gap.length < BOUND,
        "the gap was {:?}, and should have been less than {BOUND:?}: three advertisement intervals",
        gap.length
    );
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    1e3 * duration.as_secs_f64()
}

fn scene(title: &str) {
    println!("\n== {title}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_less_than_a_backup_waits_that_is_told_nothing() {
        for priority in PRIORITIES {
            let skew = INTERVAL * (256 - u32::from(priority)) / 256;
            assert!(BOUND < 3 * INTERVAL + skew);
        }
    }

    #[test]
    fn the_configurations_differ_by_name_and_priority_alone() {
        let first = config(0)
            .replace("\"lb1\"", "\"lb2\"")
            .replace("priority = 150", "priority = 100");
        assert_eq!(first, config(1));
        assert_eq!(first.matches("[[vrrp]]").count(), 2);
        assert_eq!(first.matches("[[service.real]]").count(), 2);
    }
}
