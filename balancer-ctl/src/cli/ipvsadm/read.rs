//! Reads the lines of `ipvsadm -S -n`. What IPVS has and this program has not is refused by name, in every line.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use crate::{
    api::{EditService, NewReal, NewService, WholeService},
    model::{
        HashKey, PersistenceSettings, Protocol, RealSettings, Scheduler, ServiceKey,
        address::{RealRef, service_address},
        argument::{named, number},
        limits::{MAX_THRESHOLD, MAX_TIMEOUT, MAX_WEIGHT},
        persistence::Netmask,
        real::DEFAULT_WEIGHT,
    },
};

/// Seconds of a persistence without a number.
const PERSISTENT: u32 = 300;

/// What cannot be restored, and is told.
const MAX_PROBLEMS: usize = 100;

/// Reads lines. What a line leaves out has the default that it has in ipvsadm.
///
/// # Errors
/// A sentence for each thing that cannot be restored, in the order of the lines, with the line's number.
pub fn read(text: &str) -> Result<Vec<WholeService>, Vec<String>> {
    let mut table = Table::default();
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut found = Problems::default();
        table.take(line, &mut found);
        let number = index + 1;
        problems.extend(
            found
                .0
                .into_iter()
                .map(|problem| format!("line {number}: {problem}")),
        );
    }
    if problems.is_empty() {
        return Ok(table.services);
    }
    if problems.len() > MAX_PROBLEMS {
        let more = problems.len() - MAX_PROBLEMS;
        problems.truncate(MAX_PROBLEMS);
        problems.push(format!("and {more} more"));
    }
    Err(problems)
}

/// What is wrong with a line.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, sentence: impl Into<String>) {
        self.0.push(sentence.into());
    }

    /// The value, or its sentence behind the words that it is about.
    fn value<T, E: ToString>(&mut self, words: &str, value: Result<T, E>) -> Option<T> {
        value
            .map_err(|sentence| self.add(format!("`{words}`: {}", sentence.to_string())))
            .ok()
    }
}

/// The services of the lines so far.
#[derive(Default)]
struct Table {
    services: Vec<WholeService>,
    /// Where each service stands among them, and which real servers it has; also those whose lines cannot be restored.
    found: HashMap<ServiceKey, (Option<usize>, HashSet<SocketAddr>)>,
}

impl Table {
    fn take(&mut self, line: &str, problems: &mut Problems) {
        let words = line.split_whitespace();
        let mut words = words.take_while(|word| !word.starts_with('#')).peekable();
        // Scripts have whole commands.
        words.next_if(|word| *word == "ipvsadm" || word.ends_with("/ipvsadm"));
        let Some(command) = words.next() else { return };
        let words: Vec<_> = words.collect();
        match command {
            "-A" | "--add-service" => self.add_service(&words, problems),
            "-a" | "--add-server" => self.add_real(&words, problems),
            other => problems.add(format!(
                "`{other}` is no line that `ipvsadm -S -n` prints: it begins with -A or -a"
            )),
        }
    }

    fn add_service(&mut self, words: &[&str], problems: &mut Problems) {
        let options = Options::of(words, problems);
        for (word, is_given) in [
            ("-r", options.real.is_some()),
            ("-m", options.is_nat),
            ("-w", options.weight.is_some()),
            ("-x", options.upper.is_some()),
            ("-y", options.lower.is_some()),
        ] {
            if is_given {
                problems.add(format!(
                    "`{word}` belongs to a real server, in a line with -a"
                ));
            }
        }
        let Some(key) = options.service(problems) else {
            return;
        };
        let persistence = options.persistence(&key, problems);
        if self.found.contains_key(&key) {
            problems.add(format!("service {key} is added twice"));
            return;
        }
        let index = problems.0.is_empty().then_some(self.services.len());
        self.found.insert(key, (index, HashSet::new()));
        if index.is_none() {
            return;
        }
        let scheduler = options.scheduler.unwrap_or(Scheduler::Wlc);
        let settings = EditService {
            scheduler: Some(scheduler),
            hash: scheduler.hashes_client().then_some(options.hash),
            persistence: Some(persistence),
            ..EditService::default()
        };
        self.services.push(WholeService {
            service: NewService {
                address: key.address.to_string(),
                protocol: Some(key.protocol),
                settings,
            },
            reals: Vec::new(),
        });
    }

    fn add_real(&mut self, words: &[&str], problems: &mut Problems) {
        let options = Options::of(words, problems);
        for (word, is_given) in [
            ("-s", options.scheduler.is_some()),
            ("-p", options.timeout.is_some()),
            ("-M", options.netmask.is_some()),
        ] {
            if is_given {
                problems.add(format!("`{word}` belongs to a service, in a line with -A"));
            }
        }
        if !options.is_nat && !options.has_method {
            problems.add(
                "without a forwarding method it means direct routing, and real servers are reached by NAT only: write -m",
            );
        }
        let key = options.service(problems);
        let Some(real) = options.real else {
            if !options.has_bad_real {
                problems.add("there is no real server: -r ADDRESS:PORT");
            }
            return;
        };
        let Some(key) = key else { return };
        let address = real.within(&key);
        let Some((index, reals)) = self.found.get_mut(&key) else {
            problems.add(format!("no line above adds service {key}"));
            return;
        };
        if address.is_ipv4() != key.address.is_ipv4() {
            problems.add(format!(
                "real {address} is not of the family of service {key}: both must be IPv4 or both IPv6"
            ));
            return;
        }
        if !reals.insert(address) {
            problems.add(format!("real {address} of service {key} is added twice"));
            return;
        }
        let service = index.and_then(|index| self.services.get_mut(index));
        let (Some(service), true) = (service, problems.0.is_empty()) else {
            return;
        };
        service.reals.push(NewReal {
            address: address.to_string(),
            protocol: None,
            settings: RealSettings {
                weight: Some(options.weight.unwrap_or(DEFAULT_WEIGHT)),
                upper: Some(options.upper.unwrap_or_default()),
                lower: Some(options.lower.unwrap_or_default()),
                ..RealSettings::default()
            },
        });
    }
}

/// The options of a line.
#[derive(Default)]
struct Options {
    key: Option<ServiceKey>,
    /// Whether a service is named, if only one that there cannot be here.
    has_service: bool,
    is_ipv6: bool,
    scheduler: Option<Scheduler>,
    hash: HashKey,
    timeout: Option<u32>,
    netmask: Option<Netmask>,
    real: Option<RealRef>,
    has_bad_real: bool,
    is_nat: bool,
    /// Whether another forwarding method is named, which is a problem already.
    has_method: bool,
    weight: Option<u32>,
    upper: Option<u32>,
    lower: Option<u32>,
}

impl Options {
    fn of(words: &[&str], problems: &mut Problems) -> Self {
        let mut options = Self::default();
        let mut seen = Vec::new();
        let mut words = words.iter().copied().peekable();
        while let Some(word) = words.next() {
            if seen.contains(&word) {
                problems.add(format!("`{word}` is given twice"));
            }
            seen.push(word);
            let takes_value = !matches!(
                word,
                "-6" | "--ipv6"
                    | "-m"
                    | "--masquerading"
                    | "-g"
                    | "--gatewaying"
                    | "-i"
                    | "--ipip"
                    | "-o"
                    | "--ops"
                    | "ops"
                    | "-n"
                    | "--numeric"
                    | "--tun-nocsum"
                    | "--tun-csum"
                    | "--tun-remcsum"
            );
            let value = words.next_if(|next| takes_value && !next.starts_with('-'));
            options.take(word, value, problems);
        }
        options
    }

    fn take(&mut self, word: &str, value: Option<&str>, problems: &mut Problems) {
        let words = value.map_or_else(|| word.to_owned(), |value| format!("{word} {value}"));
        let text = value.unwrap_or_default();
        match word {
            "-t" | "--tcp-service" => self.named(Protocol::Tcp, &words, text, problems),
            "-u" | "--udp-service" => self.named(Protocol::Udp, &words, text, problems),
            "-f" | "--fwmark-service" => {
                self.has_service = true;
                problems.add(format!(
                    "`{words}`: a service has an address and a port here, and no firewall mark"
                ));
            }
            "--sctp-service" => {
                self.has_service = true;
                problems.add(format!("`{words}`: only TCP and UDP are balanced"));
            }
            "-6" | "--ipv6" => self.is_ipv6 = true,
            "-s" | "--scheduler" => {
                self.scheduler = problems.value(&words, named::<Scheduler>(text));
            }
            "-b" | "--sched-flags" => self.flags(&words, text, problems),
            "-p" | "--persistent" => {
                let max = u32::try_from(MAX_TIMEOUT.as_secs()).unwrap_or(u32::MAX);
                let seconds = value.map_or(Ok(PERSISTENT), |text| number(text, 1..=max));
                self.timeout = problems.value(&words, seconds);
            }
            "-M" | "--netmask" => {
                self.netmask = problems.value(&words, Netmask::from_argument(text));
            }
            "-r" | "--real-server" => {
                self.real = problems.value(&words, text.parse::<RealRef>());
                self.has_bad_real = self.real.is_none();
            }
            "-m" | "--masquerading" => self.is_nat = true,
            "-g" | "--gatewaying" | "-i" | "--ipip" => {
                self.has_method = true;
                let method = match word {
                    "-g" | "--gatewaying" => "direct routing",
                    _ => "tunnelling",
                };
                problems.add(format!(
                    "`{word}`: {method} is not offered, real servers are reached by NAT (-m) only"
                ));
            }
            "-w" | "--weight" => {
                self.weight = problems.value(&words, number(text, 0..=MAX_WEIGHT));
            }
            "-x" | "--u-threshold" => {
                self.upper = problems.value(&words, number(text, 0..=MAX_THRESHOLD));
            }
            "-y" | "--l-threshold" => {
                self.lower = problems.value(&words, number(text, 0..=MAX_THRESHOLD));
            }
            "-n" | "--numeric" => {}
            "-o" | "--ops" | "ops" => {
                problems.add(format!("`{word}`: one-packet scheduling is not offered"));
            }
            "--pe" => problems.add(format!("`{words}`: no persistence engine is offered")),
            _ => problems.add(format!("`{words}` is not known")),
        }
    }

    fn named(&mut self, protocol: Protocol, words: &str, text: &str, problems: &mut Problems) {
        if self.has_service {
            problems.add(format!("`{words}` is a second service in one line"));
        }
        self.has_service = true;
        let address = problems.value(words, service_address(text));
        self.key = address.map(|address| ServiceKey { protocol, address });
    }

    /// The flags of the schedulers that hash; that clients of a real server that is down go to another is always so here.
    fn flags(&mut self, words: &str, text: &str, problems: &mut Problems) {
        for flag in text.split(',') {
            match flag {
                "sh-port" | "mh-port" => self.hash = HashKey::ClientPort,
                "sh-fallback" | "mh-fallback" => {}
                _ => problems.add(format!(
                    "`{words}`: flag `{flag}` is not known: expected `sh-port`, `sh-fallback`, `mh-port` or `mh-fallback`"
                )),
            }
        }
    }

    fn service(&self, problems: &mut Problems) -> Option<ServiceKey> {
        if !self.has_service {
            problems.add("there is no service: -t ADDRESS:PORT or -u ADDRESS:PORT");
        }
        if self.is_ipv6 && self.key.is_some_and(|key| key.address.is_ipv4()) {
            problems.add("`-6`: the service has an IPv4 address");
        }
        if self.hash == HashKey::ClientPort
            && self
                .scheduler
                .is_none_or(|scheduler| !scheduler.hashes_client())
        {
            problems.add("`-b`: only the schedulers `sh` and `mh` hash the client's port");
        }
        self.key
    }

    /// What a line says of persistence: all of it, or that there is none.
    fn persistence(&self, key: &ServiceKey, problems: &mut Problems) -> PersistenceSettings {
        let Some(seconds) = self.timeout else {
            if self.netmask.is_some() {
                problems.add("`-M` without -p: a netmask is part of persistence");
            }
            return PersistenceSettings::off();
        };
        let settings = PersistenceSettings {
            timeout: Some(Duration::from_secs(seconds.into())),
            netmask: self.netmask,
            ..PersistenceSettings::default()
        };
        problems.0.extend(
            settings
                .unfit(key.address.ip())
                .map(|why| format!("`-M`: {why}")),
        );
        let netmask = match self.netmask {
            Some(Netmask::Dotted(length) | Netmask::Prefix(length)) => Netmask::Prefix(length),
            Some(Netmask::Whole) | None => Netmask::Whole,
        };
        PersistenceSettings {
            netmask: Some(netmask),
            ..settings
        }
    }
}
