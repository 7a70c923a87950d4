//! How the data plane begins: everything is created and filled first, and attached last.

use super::{KernelDataplane, OpenOptions, write_settings};
use crate::{
    dataplane::{
        attach, attachments::RetryNative, connections::ConnectionTables, detach::take_down,
        failover_reals::FailoverRealTable, host_addresses::HostAddresses, interfaces::Interfaces,
        jiffies::Tick, load, neighbours::Neighbours, packet_log, persistence::PersistenceTable,
        pins::Pins, redirect_errors::RedirectErrors, route_versions::RouteVersionTable, self_test,
        services::ServiceTables, watch::WatchThread,
    },
    netlink::{Netlink, link},
    os::clock,
};

/// Reuses what is pinned, or loads and fills a new data plane, and attaches it.
///
/// # Errors
/// As for [`KernelDataplane::open`].
pub fn open(options: OpenOptions) -> anyhow::Result<KernelDataplane> {
    let pins = Pins::of(options.instance.as_deref())?;
    load::check_prerequisites()?;
    let mut netlink = Netlink::open()?;
    // Refuses bad interfaces before anything is changed.
    let all = link::list(&mut netlink)?;
    attach::resolve(&options.settings.interfaces, &all, &pins.links()?)?;
    let ran_before = !pins.is_empty()?;
    let instance = options.instance.clone();
    build(options, pins.clone(), netlink).inspect_err(|_| {
        let cleared = if ran_before {
            pins.remove_staged()
        } else {
            take_down(&pins, instance.as_deref())
        };
        if let Err(error) = cleared {
            tracing::warn!("what the failed start created cannot be removed: {error:#}");
        }
    })
}

/// Creates and fills everything first, and attaches last.
fn build(options: OpenOptions, pins: Pins, netlink: Netlink) -> anyhow::Result<KernelDataplane> {
    let OpenOptions {
        instance,
        settings: configured,
        services: wanted,
        packet_log,
    } = options;
    let instance = instance.as_deref();
    let mut notes = Vec::from_iter(pins.prepare()?);
    let log_level = packet_log.map_or(0, |level| level as u8);
    let mut loaded = load::load(&pins, &configured, log_level)?;
    self_test::run_once(log_level)?;
    notes.append(&mut loaded.notes);
    let packet_log = match packet_log {
        Some(_) => packet_log::LogReader::start(&mut loaded.ebpf)?,
        None => None,
    };
    let directory = &loaded.directory;
    let tick = Tick::read()?;
    let mut services = ServiceTables::open(directory, tick)?;
    write_settings(&services, tick, &configured)?;
    let connections = ConnectionTables::open(directory, &services, tick, clock::now())?;
    let persistence = PersistenceTable::open(directory, services.tables()?, tick, clock::now())?;
    let failover_reals = FailoverRealTable::open(directory)?;
    let routes = RouteVersionTable::open(directory)?;
    let interfaces = Interfaces::open(directory, pins, routes.clone(), instance)?;
    let redirects = match RedirectErrors::start(&mut loaded.ebpf, interfaces.redirect_map()?) {
        Ok(redirects) => Some(redirects),
        Err(error) => {
            notes.push(format!(
                "frames that the kernel refuses to redirect are not counted: {error:#}"
            ));
            None
        }
    };
    let host_addresses = HostAddresses::open(directory)?;
    let watch = WatchThread::start(routes.clone(), host_addresses.clone(), clock::now())?;
    // Changes before the watch thread began were missed.
    routes.bump_all();
    let mut dataplane = KernelDataplane {
        ebpf: loaded.ebpf,
        configured: configured.clone(),
        interfaces,
        neighbours: Neighbours::open(instance)?,
        services,
        connections,
        persistence,
        failover_reals,
        host_addresses,
        addresses_changed: true,
        routes,
        tick,
        netlink,
        watch,
        redirects,
        source_warnings: Vec::new(),
        port_warning: None,
        notes,
        _packet_log: packet_log,
    };
    // After the watch thread began, and before packets arrive.
    dataplane.follow_addresses()?;
    if loaded.fresh {
        dataplane.reconcile(&wanted)?;
    }
    dataplane.attach(&configured, RetryNative::No)?;
    if loaded.fresh {
        dataplane.interfaces.adopt_staged()?;
    } else {
        dataplane.connections.count_now();
        let jiffies = dataplane.jiffies()?;
        let tables = dataplane.services.tables()?;
        dataplane.persistence.count_now(tables, jiffies)?;
    }
    dataplane.interfaces.remove_other_layouts()?;
    Ok(dataplane)
}
