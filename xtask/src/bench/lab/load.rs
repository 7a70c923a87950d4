//! The load: wrk and iperf3, run by the client.

use std::{
    io::Read as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::lab::Process;

use super::scene::{BULK, HTTP, Scene};

/// wrk's open connections.
const CONNECTIONS: u32 = 64;
/// wrk's threads.
const THREADS: u32 = 2;

/// The client's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Many requests per connection.
    KeepAlive,
    /// One request per connection.
    NewConnections,
    /// One long download.
    Bulk,
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::KeepAlive, Self::NewConnections, Self::Bulk];

    /// Name of the row.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::NewConnections => "new-connections",
            Self::Bulk => "bulk",
        }
    }

    /// Unit of its figures.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::KeepAlive => "requests/s",
            Self::NewConnections => "connections/s",
            Self::Bulk => "Gbit/s",
        }
    }

    /// Runs the load with an equal share of the connections to each of `addresses`, and returns the total rate.
    ///
    /// # Errors
    /// A request failed: such a measurement is void.
    pub fn run(self, scene: &Scene, addresses: &[Ipv4Addr], seconds: u32) -> Result<f64> {
        let parts = u32::try_from(addresses.len())?;
        let part = |address| {
            let mut command = match self {
                Self::KeepAlive => wrk(scene, address, seconds, parts, &[]),
                Self::NewConnections => wrk(
                    scene,
                    address,
                    seconds,
                    parts,
                    &["--header", "Connection: close"],
                ),
                Self::Bulk => iperf3(scene, address, seconds),
            };
            finish(&mut command, seconds)
        };
        let printed = thread::scope(|scope| {
            let running: Vec<_> = addresses
                .iter()
                .map(|address| scope.spawn(|| part(*address)))
                .collect();
            let join = |part: thread::ScopedJoinHandle<'_, Result<String>>| {
                part.join()
                    .unwrap_or_else(|_| bail!("the load generator's thread panicked"))
            };
            running.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        let rate = match self {
            Self::KeepAlive | Self::NewConnections => requests,
            Self::Bulk => gigabits,
        };
        printed.iter().map(|printed| rate(printed)).sum()
    }
}

fn wrk(scene: &Scene, address: Ipv4Addr, seconds: u32, parts: u32, more: &[&str]) -> Command {
    let mut command = scene.client.command("wrk");
    command
        .args([
            "--threads",
            &(THREADS / parts).to_string(),
            "--connections",
            &(CONNECTIONS / parts).to_string(),
        ])
        .args(["--duration", &format!("{seconds}s"), "--timeout", "2s"])
        .args(more)
        .arg(format!("http://{address}:{HTTP}/"));
    command
}

fn iperf3(scene: &Scene, address: Ipv4Addr, seconds: u32) -> Command {
    let mut command = scene.client.command("iperf3");
    command
        .args([
            "--client",
            &address.to_string(),
            "--port",
            &BULK.to_string(),
        ])
        .args(["--time", &seconds.to_string(), "--reverse", "--json"]);
    command
}

/// Reads the rate in what wrk prints.
fn requests(printed: &str) -> Result<f64> {
    for complaint in ["Socket errors:", "Non-2xx or 3xx responses:"] {
        if let Some(line) = printed.lines().find(|line| line.contains(complaint)) {
            bail!("the measurement is void: {}", line.trim());
        }
    }
    let rate = printed
        .lines()
        .find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    rate.and_then(|rate| rate.trim().parse().ok())
        .with_context(|| format!("wrk printed no rate:\n{printed}"))
}

/// Reads the rate in what iperf3 prints.
fn gigabits(printed: &str) -> Result<f64> {
    let printed: serde_json::Value =
        serde_json::from_str(printed).context("reading what iperf3 prints")?;
    let bits = printed["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.map(|bits| bits / 1e9)
        .with_context(|| format!("iperf3 printed no rate: {}", printed["error"]))
}

/// Runs a program to its end and returns what it printed; Ctrl-C ends it early.
fn finish(command: &mut Command, seconds: u32) -> Result<String> {
    let name = &command.get_program().to_string_lossy().into_owned();
    let mut process = Process::spawn(name, command.stdout(Stdio::piped()))?;
    let mut stdout = process
        .child()
        .stdout
        .take()
        .context("the program has no output")?;
    let reader = thread::spawn(move || {
        let mut printed = String::new();
        stdout.read_to_string(&mut printed).map(|_| printed)
    });
    let mut patience = 50 * (seconds + 10);
    let status = loop {
        crate::interrupt::check()?;
        if let Some(status) = process.ended()? {
            break status;
        }
        ensure!(patience > 0, "{name} does not end");
        patience -= 1;
        thread::sleep(Duration::from_millis(20));
    };
    let Ok(printed) = reader.join() else {
        bail!("reading what {name} prints failed")
    };
    let printed = printed.with_context(|| format!("reading what {name} prints"))?;
    ensure!(
        status.success(),
        "{name} failed ({status}): {}",
        printed.trim()
    );
    Ok(printed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "Running 2s test @ http://192.0.2.80:80/\n  2 threads and 64 connections\n  \
                           91234 requests in 2.00s, 13.57MB read\nRequests/sec:  45617.12\nTransfer/sec:      6.78MB\n";

    #[test]
    fn the_rate_is_read_from_what_wrk_prints() {
        assert!((requests(PRINTED).unwrap() - 45617.12).abs() < 1e-9);
        assert!(requests("nothing").is_err());
    }

    #[test]
    fn the_rate_is_read_from_what_iperf3_prints() {
        let printed = r#"{"end":{"sum_received":{"seconds":2.0,"bits_per_second":4.75e9}}}"#;
        assert!((gigabits(printed).unwrap() - 4.75).abs() < 1e-9);
        assert!(gigabits(r#"{"error":"unable to connect"}"#).is_err());
    }

    #[test]
    fn a_run_with_errors_is_void() {
        for line in [
            "  Socket errors: connect 0, read 1, write 0, timeout 0",
            "  Non-2xx or 3xx responses: 7",
        ] {
            let printed = format!("{PRINTED}{line}\n");
            let error = requests(&printed).unwrap_err().to_string();
            assert!(error.contains("void"), "{error}");
        }
    }
}
