//! list: services and their real servers.

use super::{
    CommandError, Context,
    arguments::List,
    encoded,
    render::{Align, Numbers, Tone, table},
};
use crate::model::{
    NoReal, ServiceKey,
    counters::Counters,
    view::{Real, RealState, Service, Services},
};

/// Which columns the table has.
#[derive(Clone, Copy)]
enum Columns {
    State,
    Stats,
    Rate,
}

pub async fn list(context: &Context, arguments: &List) -> Result<(), CommandError> {
    let columns = match (arguments.stats, arguments.rate) {
        (true, _) => Columns::Stats,
        (_, true) => Columns::Rate,
        (false, false) => Columns::State,
    };
    let mut target = format!("/v1/services?rate={}", arguments.rate);
    if let Some(service) = arguments.service.named()? {
        target.push_str(&format!("&service={}", encoded(&service.to_string())));
    }
    let services: Services = context.client.get(&target).await?;
    let numbers = if arguments.exact {
        Numbers::Exact
    } else {
        Numbers::Scaled
    };
    context.print(&services, |services| rendered(services, columns, numbers))
}

fn rendered(services: &Services, columns: Columns, numbers: Numbers) -> String {
    if services.services.is_empty() {
        return "there is no service: add one with `balancer-ctl add-service`\n".to_owned();
    }
    match columns {
        Columns::State => states(services, numbers),
        Columns::Stats => counters(
            services,
            ["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"],
            numbers,
            |service| service.counters,
            |real| real.counters,
        ),
        Columns::Rate => counters(
            services,
            ["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"],
            numbers,
            |service| service.rates.unwrap_or_default(),
            |real| real.rates.unwrap_or_default(),
        ),
    }
}

fn states(services: &Services, numbers: Numbers) -> String {
    const ALIGN: [Align; 8] = [
        Align::Left,
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Left,
    ];
    let mut rows = vec![
        row(&["Service", "Scheduler"]),
        row(&[
            "  -> Real",
            "Forwarding",
            "Weight",
            "Effective",
            "State",
            "Active",
            "Inactive",
        ]),
    ];
    for service in &services.services {
        rows.push(vec![
            service_title(service),
            service.scheduler.name().to_owned(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            service_notes(service),
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
    table(&ALIGN, &rows)
}

fn counters(
    services: &Services,
    titles: [&str; 5],
    numbers: Numbers,
    of_service: impl Fn(&Service) -> Counters,
    of_real: impl Fn(&Real) -> Counters,
) -> String {
    const ALIGN: [Align; 6] = [
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Right,
        Align::Right,
        Align::Right,
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
    table(&ALIGN, &rows)
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

fn service_notes(service: &Service) -> String {
    let mut notes = Vec::new();
    if service.no_real == NoReal::Drop {
        notes.push(format!("no-real {}", service.no_real.name()));
    }
    for check in &service.check {
        let kind = check["type"].as_str().unwrap_or_default();
        notes.push(format!("check {kind}"));
    }
    notes.extend(service.runtime.then(|| "runtime".to_owned()));
    notes.join(", ")
}

fn real_notes(real: &Real) -> String {
    // The reason comes last, because it may contain commas.
    let reason = real.reason.as_deref();
    let names_backup = reason.is_some_and(|reason| reason.starts_with("backup, "));
    let marks = [
        (real.backup && !names_backup, "backup"),
        (real.runtime, "runtime"),
    ];
    let marks = marks
        .into_iter()
        .filter_map(|(set, mark)| set.then_some(mark));
    let notes: Vec<_> = marks.chain(reason).collect();
    notes.join(", ")
}
