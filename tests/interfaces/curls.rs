//! Ten requests by curl through a service with two real servers, as the README shows it: the answers alternate.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use balancer_tests::{daemon::binary, privileged};
use tempfile::TempDir;
use xtask::lab::{Namespace, Process, wait_until};

/// The addresses of one family.
struct Family {
    vip: IpAddr,
    inside: IpAddr,
    client: IpAddr,
    reals: [IpAddr; 2],
    prefix: u8,
}

const V4: Family = Family {
    vip: IpAddr::V4(Ipv4Addr::new(192, 168, 1, 35)),
    inside: IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1)),
    client: IpAddr::V4(Ipv4Addr::new(192, 168, 1, 100)),
    reals: [
        IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2)),
        IpAddr::V4(Ipv4Addr::new(192, 168, 0, 3)),
    ],
    prefix: 24,
};

const V6: Family = Family {
    vip: IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x35)),
    inside: IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
    client: IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x100)),
    reals: [
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3)),
    ],
    prefix: 64,
};

#[test]
fn ten_requests_over_ipv4_alternate_between_two_real_servers() {
    alternates(&V4);
}

#[test]
fn ten_requests_over_ipv6_alternate_between_two_real_servers() {
    alternates(&V6);
}

fn alternates(family: &Family) {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new(family).unwrap_or_else(|error| panic!("{error:#}"));
    let [first, second] = family.reals.map(|real| format!("This is {real}.\n"));
    let mut answers = Vec::new();
    for _ in 0..10 {
        let answer = scene.ask(family.vip);
        answers.push(answer.unwrap_or_else(|error| panic!("{error:#}\n{}", scene.log())));
    }
    // Which one is first depends on what was asked while the scene was made.
    let turns: Vec<&str> = if answers[0] == first {
        [first.as_str(), second.as_str()].repeat(5)
    } else {
        [second.as_str(), first.as_str()].repeat(5)
    };
    assert_eq!(answers, turns, "{}", scene.log());
    let status = scene
        .ctl(&["list", "--json"])
        .unwrap_or_else(|error| panic!("{error:#}"));
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let connections: Vec<_> = status["services"][0]["reals"]
        .as_array()
        .expect("real servers")
        .iter()
        .map(|real| &real["counters"]["connections"])
        .collect();
    assert_eq!(connections, [5, 5], "{status:#}");
}

/// A client, a balancer and two real servers. Fields are dropped from the top.
struct Scene {
    _daemon: Process,
    instance: Instance,
    folder: TempDir,
    client: Namespace,
    _balancer: Namespace,
    _switch: Namespace,
    _reals: Vec<Namespace>,
}

impl Scene {
    fn new(family: &Family) -> Result<Self> {
        let make = |name: &str| Namespace::new(&format!("curls-{name}"));
        let (client, balancer, switch) = (make("client")?, make("balancer")?, make("switch")?);
        client.connect("eth0", &balancer, "outside")?;
        balancer.connect("inside", &switch, "balancer")?;
        let with_prefix = |address: IpAddr| format!("{address}/{}", family.prefix);
        balancer.address("outside", &with_prefix(family.vip))?;
        balancer.address("inside", &with_prefix(family.inside))?;
        client.address("eth0", &with_prefix(family.client))?;
        client.gateway(&family.vip.to_string())?;
        client.plain_frames("eth0")?;
        // Both face an interface with the packet program.
        client.polling("eth0")?;
        switch.polling("balancer")?;
        let mut reals = Vec::new();
        for (number, address) in (1..).zip(family.reals) {
            let name = format!("real{number}");
            let real = make(&name)?;
            real.connect("eth0", &switch, &name)?;
            real.address("eth0", &with_prefix(address))?;
            real.gateway(&family.inside.to_string())?;
            real.plain_frames("eth0")?;
            serve(&real, address)?;
            reals.push(real);
        }
        switch.switch("bridge", &["balancer", "real1", "real2"])?;

        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let config = folder.path().join("balancer.toml");
        let real = |address: IpAddr| {
            let address = SocketAddr::new(address, 80);
            format!("  [[service.real]]\n  address = \"{address}\"\n")
        };
        let text = format!(
            "[dataplane]\ninterfaces = [\"outside\", \"inside\"]\n\n[[service]]\nname = \"web\"\n\
             address = \"{}\"\nscheduler = \"rr\"\n{}{}",
            SocketAddr::new(family.vip, 80),
            real(family.reals[0]),
            real(family.reals[1]),
        );
        fs::write(&config, text).context("cannot write the configuration")?;
        let instance = Instance(balancer.name().to_owned());
        let log = File::create(folder.path().join("log")).context("cannot make the log")?;
        let mut command = balancer.command(binary("balancerd"));
        command
            .arg("--config")
            .arg(&config)
            .args(["--instance", &instance.0])
            .stdout(log.try_clone()?)
            .stderr(log);
        let daemon = Process::spawn("balancerd", &mut command)?;
        let mut scene = Self {
            _daemon: daemon,
            instance,
            folder,
            client,
            _balancer: balancer,
            _switch: switch,
            _reals: reals,
        };
        let answers = wait_until("balancerd to answer", Duration::from_secs(60), || {
            ensure!(scene._daemon.ended()?.is_none(), "balancerd ended");
            Ok(scene.ctl(&["status"]).is_ok())
        });
        answers.with_context(|| scene.log())?;
        Ok(scene)
    }

    /// Asks the service once.
    fn ask(&self, vip: IpAddr) -> Result<String> {
        let url = format!("http://{}/", SocketAddr::new(vip, 80));
        let arguments = ["--silent", "--show-error", "--globoff", "--max-time", "10"];
        self.client
            .output("curl", &[&arguments[..], &[&url]].concat())
    }

    fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(binary("balancer-ctl"))
            .args(["--instance", &self.instance.0])
            .args(arguments)
            .output()
            .context("cannot run balancer-ctl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "balancer-ctl: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        format!("the daemon's log:\n{log}")
    }
}

/// Serves a page on port 80 until the process ends. Its sockets stay in the real server's namespace.
fn serve(real: &Namespace, address: IpAddr) -> Result<()> {
    let listener = real
        .run(|| TcpListener::bind((address, 80)))?
        .with_context(|| format!("cannot listen on {address}"))?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that went away is no reason to end.
            let _ = stream.and_then(|stream| answer(&stream, address));
        }
    });
    Ok(())
}

fn answer(mut stream: &TcpStream, address: IpAddr) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    for line in BufReader::new(stream).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let page = format!("This is {address}.\n");
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    )
}

/// The daemon's instance; dropped, what it keeps under that name goes.
struct Instance(String);

impl Drop for Instance {
    fn drop(&mut self) {
        for folder in ["/sys/fs/bpf/balancer", "/run/balancer", "/var/lib/balancer"] {
            // Not every instance gets as far as to make each.
            let _ = fs::remove_dir_all(Path::new(folder).join(&self.0));
        }
    }
}
