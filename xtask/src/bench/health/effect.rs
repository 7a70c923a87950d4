//! Measures the time from the last failed probe to the new ring. One server begins to refuse connections. The report of its last probe
//! says when that began and how long it took; the event `real-down` follows the change of the ring in the kernel, so the time
//! between both is an upper bound. Both times are the daemon's own, in whole milliseconds.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use xtask::lab::Process;

use super::{
    FALL, INTERVAL,
    peer::service_of,
    scene::{PORT, Scene, target},
};
use crate::cargo;

/// The target that begins to refuse connections.
const REFUSING: u32 = 4321;

#[derive(Deserialize)]
struct Event {
    time: String,
    event: String,
    real: Option<String>,
}

#[derive(Deserialize)]
struct Health {
    checkers: Vec<Checker>,
}

#[derive(Deserialize)]
struct Checker {
    target: String,
    last: Option<Last>,
}

#[derive(Deserialize)]
struct Last {
    time: String,
    passed: bool,
    latency_us: u64,
    in_a_row: u32,
}

/// Lets one target refuse connections, and returns the milliseconds; afterwards it answers again.
pub fn measure(scene: &Scene) -> Result<f64> {
    let (mut follower, lines) = follow(scene)?;
    let _refusing = scene.refuse(target(REFUSING))?;
    let refusing = format!("{}:{PORT}", target(REFUSING));
    let down_at = down_time(&lines, &refusing)?;
    follower.stop()?;
    let health: Health = serde_json::from_str(&answer(
        scene,
        &["health", &service_of(REFUSING), "--json"],
    )?)?;
    let checker = health
        .checkers
        .into_iter()
        .find(|checker| checker.target == refusing);
    let last = checker
        .and_then(|checker| checker.last)
        .context("it was never asked")?;
    ensure!(
        !last.passed && last.in_a_row == FALL,
        "the measurement is void: it was asked again since it is down"
    );
    let decided = time(&last.time)? + Duration::from_micros(last.latency_us);
    Ok(1e3
        * time(&down_at)?
            .duration_since(decided)
            .unwrap_or_default()
            .as_secs_f64())
}

/// Waits for the event that a real server is down, and returns its time.
fn down_time(lines: &Receiver<String>, real: &str) -> Result<String> {
    let deadline = Instant::now() + INTERVAL * (FALL + 1) + Duration::from_secs(5);
    while Instant::now() < deadline {
        crate::interrupt::check()?;
        let Ok(line) = lines.recv_timeout(Duration::from_millis(100)) else {
            continue;
        };
        let event: Event =
            serde_json::from_str(&line).with_context(|| format!("reading {line}"))?;
        if event.event == "real-down" && event.real.as_deref() == Some(real) {
            return Ok(event.time);
        }
    }
    bail!("{real} refuses and is not down")
}

fn time(text: &str) -> Result<SystemTime> {
    humantime::parse_rfc3339(text).with_context(|| format!("`{text}` is no time"))
}

/// Follows the events from now on.
fn follow(scene: &Scene) -> Result<(Process, Receiver<String>)> {
    let mut command = ctl(scene);
    command
        .args(["events", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = Process::spawn("balancer-ctl", &mut command)?;
    let child = process.child();
    let (events, said) = (child.stdout.take(), child.stderr.take());
    let (events, said) = events.zip(said).context("a program without pipes")?;
    let ready = BufReader::new(said).lines().next();
    let ready = ready.context("balancer-ctl events said nothing")??;
    ensure!(
        ready.starts_with("events from now on"),
        "balancer-ctl events: {ready}"
    );
    let (sender, lines) = channel();
    // This thread ends with the program.
    thread::spawn(move || {
        for line in BufReader::new(events).lines().map_while(Result::ok) {
            // The receiver may have been dropped.
            let _ = sender.send(line);
        }
    });
    Ok((process, lines))
}

fn answer(scene: &Scene, arguments: &[&str]) -> Result<String> {
    let output = ctl(scene)
        .args(arguments)
        .output()
        .context("running balancer-ctl")?;
    ensure!(
        output.status.success(),
        "balancer-ctl {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn ctl(scene: &Scene) -> Command {
    let mut command = scene
        .asker
        .command(cargo::target().join("release/balancer-ctl"));
    command.args(["--instance", scene.asker.name()]);
    command
}
