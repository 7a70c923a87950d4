//! Writes a model as the text of a configuration file, which [`super::read`] reads as the same model. Settings that have their
//! default are left out. Pure.

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value};

use super::read::{self, notify::DEFAULT_TIMEOUT};
use crate::model::{
    AdminState, Check, DataplaneSettings, Mode, Model, Notify, PeerSettings, PersistenceSettings,
    Protocol, RealSettings, ServiceKey, ServiceSettings, StrayReplies, Timeouts, VirtualRouter,
    VirtualService,
    check::keys,
    duration,
    limits::max_connections_ipv6,
    notify::Stdin,
    peers::Sync,
    persistence::PERSISTENCE_SETTINGS,
    real::REAL_SETTINGS,
    service::SERVICE_SETTINGS,
    setting::{self, Setting},
    toml_table::{TableBuilder, lines, non_default, one_line},
    vrrp::keys as vrrp_keys,
};

/// The text of a whole file for `model`.
#[must_use]
pub fn text(model: &Model) -> String {
    let Model {
        node,
        dataplane,
        services,
        notify,
        peers,
        vrrp,
    } = model;
    let mut root = DocumentMut::new();
    let mut name = Table::new();
    name.insert("name", toml_edit::value(node));
    root.insert("node", Item::Table(name));
    root.insert("dataplane", Item::Table(below(dataplane_keys(dataplane))));
    let timeouts = timeout_keys(&dataplane.timeouts);
    if !timeouts.is_empty() {
        root.insert("timeouts", Item::Table(below(timeouts)));
    }
    put_blocks(&mut root, "service", services.iter().map(whole_service));
    put_blocks(&mut root, "notify", notify.iter().map(notify_block));
    put_blocks(&mut root, "vrrp", vrrp.iter().map(virtual_router_block));
    let peers = peer_keys(peers);
    if !peers.is_empty() {
        root.insert("peers", Item::Table(below(peers)));
    }
    root.to_string()
}

/// A service with its checks and real servers, as the file has it.
#[must_use]
pub fn service_text(service: &VirtualService) -> String {
    let mut root = DocumentMut::new();
    put_blocks(
        &mut root,
        "service",
        std::iter::once(whole_service(service)),
    );
    root.to_string()
}

/// The block of a service without real servers.
pub(super) fn service(key: &ServiceKey, settings: &ServiceSettings) -> Table {
    let mut table = Table::new();
    // The name stands in front of the address.
    if let Some(name) = &settings.name {
        table.insert("name", toml_edit::value(name));
    }
    table.insert("address", toml_edit::value(key.address.to_string()));
    if key.protocol != Protocol::Tcp {
        table.insert("protocol", toml_edit::value(key.protocol.name()));
    }
    put_settings(&mut table, &SERVICE_SETTINGS, settings);
    if let Some(settings) = settings.persistence.as_ref().filter(|one| !one.is_off()) {
        table.insert("persistence", toml_edit::value(persistence(settings)));
    }
    match settings.checks.as_deref() {
        None | Some([]) => {}
        Some([only]) => {
            table.insert("check", Item::Table(check(only)));
        }
        Some(several) => put_blocks(&mut table, "check", several.iter().map(check)),
    }
    below(table)
}

/// The persistence of a service.
pub(super) fn persistence(settings: &PersistenceSettings) -> InlineTable {
    let mut builder = TableBuilder::default();
    for setting in &PERSISTENCE_SETTINGS {
        builder.put_some(setting.key, (setting.written)(settings).and_then(value));
    }
    builder.0
}

/// The block of a real server.
pub(super) fn real(address: &SocketAddr, settings: RealSettings) -> Table {
    let mut table = Table::new();
    table.insert("address", toml_edit::value(address.to_string()));
    // `ready` is the default.
    let state = settings.state.filter(|state| *state != AdminState::Ready);
    put_settings(
        &mut table,
        &REAL_SETTINGS,
        &RealSettings { state, ..settings },
    );
    below(table)
}

/// The block of a check.
pub(super) fn check(check: &Check) -> Table {
    below(keys::table(check).into_table())
}

/// A setting's value as the file has it.
pub(super) fn value(value: setting::Value<'_>) -> Option<Value> {
    match value {
        setting::Value::Text(text) => Some(text.into_owned().into()),
        setting::Value::Number(number) => Some(number.into()),
        setting::Value::Flag(flag) => Some(flag.into()),
        setting::Value::List(texts) => Some(list(&texts).into()),
        setting::Value::Unset | setting::Value::Other => None,
    }
}

/// A list: on one line if it is short, else an entry a line.
fn list(texts: &[Cow<'_, str>]) -> Array {
    let mut array: Array = texts.iter().map(|text| one_line(text)).collect();
    if texts.len() > LONGEST_ON_ONE_LINE {
        for entry in array.iter_mut() {
            entry.decor_mut().set_prefix("\n  ");
        }
        array.set_trailing_comma(true);
        array.set_trailing("\n");
    }
    array
}

/// Entries of a list that stand on one line.
const LONGEST_ON_ONE_LINE: usize = 4;

fn put_settings<S>(table: &mut Table, settings: &[Setting<S>], set: &S) {
    for setting in settings {
        if let Some(value) = (setting.written)(set).and_then(value) {
            table.insert(setting.key, Item::Value(value));
        }
    }
}

/// The same block with a blank line above it.
fn below(mut table: Table) -> Table {
    table.decor_mut().set_prefix("\n");
    table
}

fn put_blocks(parent: &mut Table, name: &str, blocks: impl Iterator<Item = Table>) {
    let blocks: ArrayOfTables = blocks.collect();
    if !blocks.is_empty() {
        parent.insert(name, Item::ArrayOfTables(blocks));
    }
}

fn whole_service(virtual_service: &VirtualService) -> Table {
    let settings = virtual_service.settings_beside_defaults();
    let mut table = service(&virtual_service.key, &settings);
    let reals = virtual_service.reals.iter();
    let reals = reals.map(|server| real(&server.address, server.settings_beside_defaults()));
    put_blocks(&mut table, "real", reals);
    table
}

fn dataplane_keys(settings: &DataplaneSettings) -> Table {
    let DataplaneSettings {
        interfaces,
        mode,
        max_connections,
        max_connections_ipv6: of_ipv6,
        max_persistence,
        stray_replies,
        snat_addresses,
        snat_ports,
        timeouts: _,
    } = settings;
    let of_ipv6 = non_default(*of_ipv6, max_connections_ipv6(*max_connections));
    let max_connections = non_default(*max_connections, read::DEFAULT_MAX_CONNECTIONS);
    let max_persistence = non_default(*max_persistence, read::DEFAULT_MAX_PERSISTENCE);
    let mut builder = TableBuilder::default();
    builder.put("interfaces", lines(interfaces));
    builder.put_some("mode", non_default(*mode, Mode::default()).map(Mode::name));
    builder.put_some("max-connections", max_connections.map(i64::from));
    builder.put_some("max-connections-ipv6", of_ipv6.map(i64::from));
    builder.put_some("max-persistence", max_persistence.map(i64::from));
    let stray_replies = non_default(*stray_replies, StrayReplies::default());
    builder.put_some("stray-replies", stray_replies.map(StrayReplies::name));
    if !snat_addresses.is_empty() {
        let addresses: Vec<_> = snat_addresses.iter().map(ToString::to_string).collect();
        builder.put("snat-addresses", lines(&addresses));
    }
    let snat_ports = non_default(*snat_ports, read::DEFAULT_SNAT_PORTS);
    builder.put_some("snat-ports", snat_ports.map(|ports| ports.to_string()));
    builder.0.into_table()
}

fn peer_keys(settings: &PeerSettings) -> Table {
    let PeerSettings {
        listen,
        interface,
        key_file,
        nodes,
        sync,
    } = settings;
    let usual = PeerSettings::default();
    let mut builder = TableBuilder::default();
    builder.put_some(
        "listen",
        non_default(*listen, usual.listen).map(|one| one.to_string()),
    );
    builder.put_some("interface", interface.as_deref().map(one_line));
    let key_file = key_file.as_ref().map(|path| path.display().to_string());
    builder.put_some("key-file", key_file.as_deref().map(one_line));
    let nodes: Array = nodes.iter().map(ToString::to_string).collect();
    builder.put_some("nodes", Some(nodes).filter(|nodes| !nodes.is_empty()));
    builder.put_some("sync", non_default(*sync, Sync::default()).map(Sync::name));
    builder.0.into_table()
}

fn timeout_keys(timeouts: &Timeouts) -> Table {
    let Timeouts { tcp, tcp_fin, udp } = *timeouts;
    let usual = read::DEFAULT_TIMEOUTS;
    let mut builder = TableBuilder::default();
    for (key, timeout, usual) in [
        ("tcp", tcp, usual.tcp),
        ("tcp-fin", tcp_fin, usual.tcp_fin),
        ("udp", udp, usual.udp),
    ] {
        builder.put_some(key, non_default(timeout, usual).map(duration::exact));
    }
    builder.0.into_table()
}

fn notify_block(notify: &Notify) -> Table {
    let Notify {
        on,
        services,
        run,
        user,
        timeout,
        alert_after,
        alert_every,
        always_up,
        stdin,
    } = notify;
    let shown = duration::exact;
    let mut builder = TableBuilder::default();
    let events: Array = on.iter().map(|event| event.name()).collect();
    builder.put("on", events);
    builder.put("run", lines(run));
    builder.put_some("user", user.as_deref().map(one_line));
    let services = Some(services).filter(|services| !services.is_empty());
    builder.put_some("services", services.map(|services| lines(services)));
    builder.put_some("timeout", non_default(*timeout, DEFAULT_TIMEOUT).map(shown));
    builder.put_some(
        "alert-after",
        non_default(*alert_after, Duration::ZERO).map(shown),
    );
    builder.put_some("alert-every", alert_every.map(shown));
    builder.put_some("always-up", non_default(*always_up, false));
    builder.put_some(
        "stdin",
        non_default(*stdin, Stdin::default()).map(Stdin::name),
    );
    below(builder.0.into_table())
}

fn virtual_router_block(router: &VirtualRouter) -> Table {
    below(vrrp_keys::table(router).into_table())
}

#[cfg(test)]
pub(crate) mod tests;
