//! list: services and their real servers.

use super::{
    CommandError, Context,
    arguments::List,
    encoded, problems,
    render::{Numbers, Tone},
    table::{Column, is_fitting, table},
};
use balancer_common::verdict::Discard;

use crate::model::{
    Hairpin, HashKey, NoReal, ServiceKey,
    counters::Counters,
    duration,
    persistence::write_details,
    view::{Persistence, Real, RealState, Service, Services},
};

/// Which columns the table has.
#[derive(Clone, Copy)]
enum Columns {
    State,
    Stats,
    Rate,
    Filters,
    Discards,
}

pub async fn list(context: &Context, arguments: &List) -> Result<(), CommandError> {
    let columns = if arguments.filters {
        Columns::Filters
    } else if arguments.discards {
        Columns::Discards
    } else {
        match (arguments.stats, arguments.rate) {
            (true, _) => Columns::Stats,
            (_, true) => Columns::Rate,
            (false, false) => Columns::State,
        }
    };
    let mut target = format!("/v1/services?rate={}", arguments.rate);
    if let Some(service) = arguments.service.named()? {
        target.push_str(&format!("&service={}", encoded(&service.to_string())));
    }
    let mut services: Services = context.client.get(&target).await?;
    if arguments.problems {
        services = problems::of_services(services);
    }
    let numbers = if arguments.exact {
        Numbers::Exact
    } else {
        Numbers::Scaled
    };
    context.print(&services, |services| {
        if arguments.problems && services.services.is_empty() {
            return problems::NONE_OF_SERVICES.to_owned();
        }
        rendered(services, columns, numbers, context.width)
    })
}

fn rendered(
    services: &Services,
    columns: Columns,
    numbers: Numbers,
    width: Option<usize>,
) -> String {
    if services.services.is_empty() {
        return "there is no service: add one with `balancer-ctl add-service`\n".to_owned();
    }
    match columns {
        Columns::State => states(services, numbers, width),
        Columns::Stats => counters(
            services,
            ["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"],
            (numbers, width),
            |service| service.counters,
            |real| real.counters,
        ),
        Columns::Rate => counters(
            services,
            ["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"],
            (numbers, width),
            |service| service.rates.unwrap_or_default(),
            |real| real.rates.unwrap_or_default(),
        ),
        Columns::Filters => filters(services, numbers, width),
        Columns::Discards => discards(services, numbers, width),
    }
}

/// The discards of the services that have any.
fn discards(services: &Services, numbers: Numbers, width: Option<usize>) -> String {
    const COLUMNS: [Column; 3] = [Column::Named, Column::Right, Column::Text];
    let mut rows = vec![row(&["Service", "Packets", "Meaning"]), row(&["  Reason"])];
    let titles = rows.len();
    for service in &services.services {
        if service.discards.is_empty() {
            continue;
        }
        rows.push(vec![service_title(service)]);
        rows.extend(service.discards.iter().map(|(name, packets)| {
            let sentence = Discard::named(name).map_or("", Discard::sentence);
            vec![
                format!("  {name}"),
                numbers.write(*packets),
                sentence.to_owned(),
            ]
        }));
    }
    if rows.len() == titles {
        return "no packet to a service was dropped or answered in its stead\n".to_owned();
    }
    table(&COLUMNS, &rows, width)
}

/// The rules of the services that have any.
fn filters(services: &Services, numbers: Numbers, width: Option<usize>) -> String {
    const COLUMNS: [Column; 2] = [Column::Named, Column::Right];
    let mut rows = vec![row(&["Service", "Packets"]), row(&["  Rule"])];
    let titles = rows.len();
    for service in &services.services {
        let rules = rules(service);
        if rules.is_empty() {
            continue;
        }
        rows.push(vec![service_title(service)]);
        let rules = rules.into_iter();
        rows.extend(rules.map(|(rule, packets)| vec![format!("  {rule}"), numbers.write(packets)]));
    }
    if rows.len() == titles {
        return "no service has a filter: `edit-service` sets one with --allow, --deny or --rate\n"
            .to_owned();
    }
    table(&COLUMNS, &rows, width)
}

/// The rules of a service's filter in words, each with its packets.
fn rules(service: &Service) -> Vec<(String, u64)> {
    let lists = [("allow", &service.allow), ("deny", &service.deny)];
    let rules = lists.into_iter().flat_map(|(verdict, list)| {
        let rules = list.iter();
        rules.map(move |rule| (format!("{verdict} {}", rule.prefix), rule.packets))
    });
    let others = service.not_allowed;
    let others = others.map(|packets| ("deny all others".to_owned(), packets));
    let limit = service.rate.as_ref();
    let limit = limit.map(|rate| (format!("rate {}, refused", rate.limit), rate.refused));
    rules.chain(others).chain(limit).collect()
}

fn states(services: &Services, numbers: Numbers, width: Option<usize>) -> String {
    const COLUMNS: [Column; 8] = [
        Column::Named,
        Column::Left,
        Column::Right,
        Column::Right,
        Column::Left,
        Column::Right,
        Column::Right,
        Column::Text,
    ];
    const TITLES: [&[&str]; 2] = [
        &["Service", "Scheduler"],
        &[
            "  -> Real",
            "Forwarding",
            "Weight",
            "Effective",
            "State",
            "Active",
            "Inactive",
        ],
    ];
    /// For terminals that are too narrow for the others.
    const SHORT_TITLES: [&[&str]; 2] = [
        &["Service", "Sched"],
        &["  -> Real", "Fwd", "Wgt", "Eff", "State", "Act", "Inact"],
    ];
    let mut rows = TITLES.map(row).to_vec();
    for service in &services.services {
        rows.push(vec![
            service_title(service),
            service.scheduler.name().to_owned(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            service_notes(service, numbers),
        ]);
        rows.extend(service.reals.iter().map(|real| {
            vec![
                format!("  -> {}", real.address),
                real.forwarding.name().to_owned(),
                real.weight.to_string(),
                real.effective_weight.to_string(),
                state_tone(real.state).paint(real.state.name()),
                numbers.write(real.active),
                numbers.write(real.inactive),
                real_notes(real),
            ]
        }));
    }
    if !is_fitting(&COLUMNS, &rows, width) {
        for (row, short) in rows.iter_mut().zip(SHORT_TITLES) {
            *row = self::row(short);
        }
    }
    table(&COLUMNS, &rows, width)
}

fn counters(
    services: &Services,
    titles: [&str; 5],
    (numbers, width): (Numbers, Option<usize>),
    of_service: impl Fn(&Service) -> Counters,
    of_real: impl Fn(&Real) -> Counters,
) -> String {
    const COLUMNS: [Column; 6] = [
        Column::Named,
        Column::Right,
        Column::Right,
        Column::Right,
        Column::Right,
        Column::Right,
    ];
    let line = |title: String, counters: Counters| {
        let Counters {
            connections,
            packets_in,
            bytes_in,
            packets_out,
            bytes_out,
        } = counters;
        let cells =
            [connections, packets_in, packets_out, bytes_in, bytes_out].map(|n| numbers.write(n));
        std::iter::once(title).chain(cells).collect::<Vec<_>>()
    };
    let mut rows = vec![
        std::iter::once("Service")
            .chain(titles)
            .map(str::to_owned)
            .collect(),
        row(&["  -> Real"]),
    ];
    for service in &services.services {
        rows.push(line(service_title(service), of_service(service)));
        rows.extend(
            service
                .reals
                .iter()
                .map(|real| line(format!("  -> {}", real.address), of_real(real))),
        );
    }
    table(&COLUMNS, &rows, width)
}

const fn state_tone(state: RealState) -> Tone {
    match state {
        RealState::Up => Tone::Good,
        RealState::Draining | RealState::Maintenance => Tone::Notable,
        RealState::Down => Tone::Bad,
    }
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn service_title(service: &Service) -> String {
    let key = ServiceKey {
        protocol: service.protocol,
        address: service.address,
    };
    match &service.name {
        Some(name) => format!("{key} ({name})"),
        None => key.to_string(),
    }
}

fn service_notes(service: &Service, numbers: Numbers) -> String {
    let mut notes = Vec::new();
    if service.hash != HashKey::default() {
        notes.push(format!("hash {}", service.hash.name()));
    }
    notes.extend(service.persistence.as_ref().map(persistence_note));
    match service.persistence_entries.unwrap_or_default() {
        0 => {}
        1 => notes.push("1 client kept".to_owned()),
        clients => notes.push(format!("{} clients kept", numbers.write(clients))),
    }
    if service.no_real == NoReal::Drop {
        notes.push(format!("no-real {}", service.no_real.name()));
    }
    if service.hairpin == Hairpin::Refuse {
        notes.push(format!("hairpin {}", service.hairpin.name()));
    }
    notes.extend(filter_notes(service, numbers));
    for check in &service.check {
        let kind = check["type"].as_str().unwrap_or_default();
        notes.push(format!("check {kind}"));
    }
    notes.extend(service.runtime.then(|| "runtime".to_owned()));
    notes.join(", ")
}

fn filter_notes(service: &Service, numbers: Numbers) -> Vec<String> {
    let mut notes = Vec::new();
    for (verdict, list) in [("allow", &service.allow), ("deny", &service.deny)] {
        match list.as_slice() {
            [] => {}
            [only] => notes.push(format!("{verdict} {}", only.prefix)),
            several => {
                let count = numbers.write(several.len() as u64);
                notes.push(format!("{verdict} {count} prefixes"));
            }
        }
    }
    let limit = service.rate.as_ref();
    notes.extend(limit.map(|rate| format!("rate {}", rate.limit)));
    let denied = service.deny.iter().map(|rule| rule.packets);
    let others = [service.not_allowed, limit.map(|rate| rate.refused)];
    match denied.chain(others.into_iter().flatten()).sum() {
        0 => {}
        1 => notes.push("1 packet refused".to_owned()),
        packets => notes.push(format!("{} packets refused", numbers.write(packets))),
    }
    notes
}

/// The persistence in the words of ipvsadm.
fn persistence_note(persistence: &Persistence) -> String {
    let Persistence {
        timeout,
        netmask,
        group,
        drain,
    } = persistence;
    let seconds = duration::parse(timeout).ok();
    let seconds = seconds.filter(|timeout| timeout.subsec_nanos() == 0);
    let mut note = match seconds {
        Some(timeout) => format!("persistent {}", timeout.as_secs()),
        None => format!("persistent {timeout}"),
    };
    // A text takes everything.
    let _ = write_details(&mut note, *netmask, group.as_deref(), *drain);
    note
}

fn real_notes(real: &Real) -> String {
    // The reason comes last, because it may contain commas.
    let reason = real.reason.as_deref();
    let names_backup = reason.is_some_and(|reason| reason.starts_with("backup, "));
    let upper = format!("upper {}", real.upper);
    let lower = format!("lower {}", real.lower);
    let marks = [
        (real.upper != 0, upper.as_str()),
        (real.lower != 0, lower.as_str()),
        (real.backup && !names_backup, "backup"),
        (real.runtime, "runtime"),
    ];
    let marks = marks
        .into_iter()
        .filter_map(|(set, mark)| set.then_some(mark));
    let notes: Vec<_> = marks.chain(reason).collect();
    notes.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{self, PersistenceDrain, VirtualService, address};

    #[test]
    fn the_notes_of_a_service_tell_what_is_not_the_default() {
        let mut service = VirtualService::new(address::service_key("192.0.2.80:80").unwrap());
        let notes =
            |service: &VirtualService| service_notes(&Service::from(service), Numbers::Scaled);
        assert_eq!(notes(&service), "");
        service.persistence = Some(model::Persistence::default());
        assert_eq!(notes(&service), "persistent 300");
        service.hash = Some(HashKey::ClientPort);
        service.no_real = NoReal::Drop;
        service.persistence = Some(model::Persistence {
            timeout: std::time::Duration::from_millis(1500),
            netmask: Some(24),
            group: Some("shop".to_owned()),
            drain: PersistenceDrain::Keep,
        });
        assert_eq!(
            notes(&service),
            "hash client-port, persistent 1s500ms netmask 24 group shop drain keep, no-real drop"
        );
        for (clients, note) in [
            (0, "persistent 300"),
            (1, "persistent 300, 1 client kept"),
            (12, "persistent 300, 12 clients kept"),
            (65_536, "persistent 300, 65.5K clients kept"),
        ] {
            let service = Service {
                persistence_entries: Some(clients),
                ..Service::from(&VirtualService {
                    persistence: Some(model::Persistence::default()),
                    ..VirtualService::new(service.key)
                })
            };
            assert_eq!(service_notes(&service, Numbers::Scaled), note);
        }
    }
}
