//! The comparison with IPVS: guest instructions for a connection and for a round trip, with Debian's stock kernel in QEMU. On an
//! emulated CPU times have no meaning; numbers of instructions do, and repeat to a few per cent also on a busy machine.
//!
//! ```text
//!  direct      client ─ real server                      taken off the others: what is left is the balancer's machine
//!  routing     plain forwarding to one real server
//!  ipvs        IPVS, NAT, round robin over two
//!  (ours)      the release build of balancerd, round robin over two, native XDP; the daemon is stopped meanwhile
//! ```

pub mod guest;
mod traffic;

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};

use self::{
    guest::{CABLES, Link, mac},
    traffic::Load,
};
use super::{
    Options,
    report::{Row, median, minimum},
};
use crate::{
    cargo::target,
    kernel::{
        self, Parts,
        guest::{Guest, Line, strip},
        machine::{self, Hardware},
    },
    setup,
};

/// Number of runs whose median is taken.
const RUNS: usize = 9;

/// Time after which the guest is stopped.
const TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Unit of all figures.
const UNIT: &str = "1000 instr.";

/// Debian's package with the tool for IPVS, and where the tool is in it.
const IPVSADM: (&str, &str) = ("ipvsadm", "sbin/ipvsadm");

/// Kernel modules of the measurement; no others, which would look at packets.
const MODULES: [&str; 9] = [
    "crc32c_generic",
    "crc32c-intel",
    "veth",
    "ip_vs_rr",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "net_failover",
    "virtio_net",
];

/// A way from the client to a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Without the balancer's machine.
    Direct,
    /// Plain routing.
    Routing,
    /// IPVS.
    Ipvs,
    /// This project.
    Balancer,
}

impl Way {
    /// All, in the order in which they are measured.
    const ALL: [Self; 4] = [Self::Direct, Self::Routing, Self::Ipvs, Self::Balancer];

    const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Routing => "routing",
            Self::Ipvs => "ipvs",
            Self::Balancer => "balancer",
        }
    }
}

/// Names of all rows.
pub fn rows() -> Vec<String> {
    all()
        .map(|(link, load, way)| row(link, load, way))
        .collect()
}

fn all() -> impl Iterator<Item = (Link, Load, Way)> {
    Link::ALL.into_iter().flat_map(|link| {
        Load::ALL.into_iter().flat_map(move |load| {
            [Way::Routing, Way::Ipvs, Way::Balancer].map(|way| (link, load, way))
        })
    })
}

fn row(link: Link, load: Load, way: Way) -> String {
    let name = format!("{}-{}", link.name(), load.name());
    match way {
        Way::Balancer => name,
        Way::Direct | Way::Routing | Way::Ipvs => format!("{name}/{}", way.name()),
    }
}

/// The aim for the ratio of IPVS to this project, if there is one.
const fn aim(link: Link, load: Load) -> Option<f64> {
    match (link, load) {
        (Link::Virtio, Load::Short) => Some(1.5),
        (Link::Virtio, Load::KeepAlive) => Some(1.8),
        (Link::Veth, Load::Short) => Some(1.2),
        (Link::Veth, Load::KeepAlive) => None,
    }
}

/// Connections that a way carries at least: those of the short load, without the warm-up.
const fn connections() -> u64 {
    RUNS as u64 * Load::Short.operations() as u64
}

/// A run's figure.
#[derive(Clone, Debug, PartialEq)]
struct Figure {
    link: String,
    load: String,
    way: String,
    instructions: f64,
}

/// Measures the rows that are wanted.
///
/// # Errors
/// The kernel or QEMU cannot be downloaded, or something failed in the guest.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let _lock = kernel::lock(kernel::PARTS)?;
    let parts = kernel::provide(options.kernel, &[IPVSADM], setup::consent(false))?;
    let mut figures = Vec::new();
    for link in Link::ALL {
        let is_wanted =
            all().any(|(of, load, way)| of == link && options.wants(&row(link, load, way)));
        if is_wanted {
            figures.extend(measure(&parts, link)?);
        }
    }
    report(options, &parts, &figures)
}

fn measure(parts: &Parts, link: Link) -> Result<Vec<Figure>> {
    let mut guest = Guest::new(parts, &MODULES)?;
    let folder = parts.folder.join("stripped-release");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let own = std::env::current_exe().context("cannot find this program")?;
    let release = |name: &str| target().join("release").join(name);
    for (name, program) in [
        ("xtask", own),
        ("balancerd", release("balancerd")),
        ("balancer-ctl", release("balancer-ctl")),
    ] {
        let stripped = strip(&program, name, &folder)?;
        guest.add(&format!("programs.d/{name}"), &stripped)?;
    }
    guest.add("usr/bin/ipvsadm", &parts.unpacked.join(IPVSADM.1))?;
    guest.run(
        "ipvs",
        &format!("/programs.d/xtask measure-ipvs {}", link.name()),
    );
    let initramfs = parts.folder.join(format!("ipvs-{}.img", link.name()));
    guest.write(&initramfs)?;
    eprintln!(
        "measuring over {} on Linux {}: a few minutes",
        link.name(),
        parts.kernel.version
    );
    let mut figures = Vec::new();
    let mut said = Vec::new();
    let mut status = None;
    machine::run(
        &parts.emulator,
        &parts.kernel,
        &initramfs,
        &Hardware {
            cpus: 1,
            counts_instructions: true,
            devices: match link {
                Link::Virtio => cards(),
                Link::Veth => Vec::new(),
            },
        },
        TIMEOUT,
        |line| match (Line::parse(line), parse(line)) {
            (Line::Ended(_, of_program), _) => status = Some(of_program),
            (Line::Text(_), Some(figure)) => figures.push(figure),
            (Line::Text(text), None) => said.push(text.to_owned()),
            (Line::Starts(_) | Line::Done, _) => {}
        },
    )?;
    ensure!(
        status == Some(0),
        "the measurement over {} failed in the guest:\n{}\n{}",
        link.name(),
        said.join("\n"),
        machine::last_messages(&initramfs.with_extension("console"))
    );
    Ok(figures)
}

/// QEMU's arguments for the cards: two on each hub. No offloads, so that frames are as on a wire and XDP attaches.
fn cards() -> Vec<String> {
    const PLAIN: &str = "guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,csum=off,\
                         host_tso4=off,host_tso6=off,host_ufo=off,romfile=";
    let ends = (0..CABLES).flat_map(|cable| [(cable, 0), (cable, 1)]);
    ends.flat_map(|(cable, end)| {
        let id = format!("n{cable}x{end}");
        [
            "-netdev".into(),
            format!("hubport,id={id},hubid={cable}"),
            "-device".into(),
            format!("virtio-net-pci,netdev={id},mac={},{PLAIN}", mac(cable, end)),
        ]
    })
    .collect()
}

/// Reads a line of the guest's: `figure LINK LOAD WAY INSTRUCTIONS`.
fn parse(line: &str) -> Option<Figure> {
    let mut words = line.strip_prefix("figure ")?.split(' ');
    let mut word = || words.next().map(str::to_owned);
    Some(Figure {
        link: word()?,
        load: word()?,
        way: word()?,
        instructions: word()?.parse().ok()?,
    })
}

/// A way's figures without what the run past the balancer takes, in thousands.
fn beyond_direct(figures: &[Figure], link: Link, load: Load, way: Way) -> Vec<f64> {
    let of = |way: Way| -> Vec<f64> {
        figures
            .iter()
            .filter(|figure| {
                figure.link == link.name() && figure.load == load.name() && figure.way == way.name()
            })
            .map(|figure| figure.instructions / 1000.0)
            .collect()
    };
    let direct = median(&of(Way::Direct));
    of(way).iter().map(|figure| figure - direct).collect()
}

fn report(options: &Options, parts: &Parts, figures: &[Figure]) -> Result<Vec<Row>> {
    println!(
        "\n{:<26} {:>12} {:>9} {:>9} {:>8} {:>12} {:>6}",
        "row", "unit", "median", "minimum", "spread", "IPVS : this", "aim"
    );
    let mut rows = Vec::new();
    for (link, load, way) in all() {
        let name = row(link, load, way);
        let values = beyond_direct(figures, link, load, way);
        if !options.wants(&name) || values.is_empty() {
            continue;
        }
        ensure!(
            values.len() == RUNS,
            "the guest told {} of {RUNS} figures of {name}",
            values.len()
        );
        let ipvs = median(&beyond_direct(figures, link, load, Way::Ipvs));
        let middle = median(&values);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let aim = match way {
            Way::Balancer => aim(link, load).map(|aim| format!("{aim:.1}")),
            Way::Direct | Way::Routing | Way::Ipvs => None,
        };
        println!(
            "{name:<26} {UNIT:>12} {middle:>9.1} {:>9.1} {:>7.1}% {:>12.2} {:>6}",
            minimum(&values),
            100.0 * (most - minimum(&values)) / middle,
            ipvs / middle,
            aim.unwrap_or_default(),
        );
        rows.push(Row {
            suite: "ipvs",
            row: name,
            unit: UNIT,
            median: middle,
            minimum: minimum(&values),
            reference: ipvs,
            ratio: middle / ipvs,
        });
    }
    println!(
        "\nThousands of guest instructions for a connection with one request (short) and for a request and its answer on\n\
         an open connection (keep-alive), on Linux {} in QEMU; medians of {RUNS} runs, without what client and server take\n\
         when they are joined directly. Not time: no caches, no network card, one packet an interrupt.",
        parts.kernel.version
    );
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_its_name() {
        assert_eq!(
            rows(),
            [
                "virtio-short/routing",
                "virtio-short/ipvs",
                "virtio-short",
                "virtio-keep-alive/routing",
                "virtio-keep-alive/ipvs",
                "virtio-keep-alive",
                "veth-short/routing",
                "veth-short/ipvs",
                "veth-short",
                "veth-keep-alive/routing",
                "veth-keep-alive/ipvs",
                "veth-keep-alive",
            ]
        );
    }

    #[test]
    fn what_the_direct_way_takes_is_taken_off() {
        let lines = "figure veth short direct 100000\nfigure veth short direct 110000\nfigure veth short direct 105000\n\
                     figure veth short ipvs 155000\nfigure virtio short ipvs 900000\nfigure veth keep-alive ipvs 1\nelse\n";
        let figures: Vec<_> = lines.lines().filter_map(parse).collect();
        assert_eq!(figures.len(), 6);
        assert_eq!(
            beyond_direct(&figures, Link::Veth, Load::Short, Way::Ipvs),
            [50.0]
        );
        assert_eq!(parse("figure veth short"), None);
    }

    #[test]
    fn each_cable_has_two_cards_on_a_hub_of_its_own() {
        let cards = cards();
        assert_eq!(cards.len(), 4 * 2 * CABLES);
        assert_eq!(cards[1], "hubport,id=n0x0,hubid=0");
        assert!(cards[3].starts_with("virtio-net-pci,netdev=n0x0,mac=02:00:00:00:00:00,"));
        assert!(cards[31].starts_with("virtio-net-pci,netdev=n3x1,mac=02:00:00:00:03:01,"));
    }
}
