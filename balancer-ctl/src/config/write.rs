//! Writes a model as the text of a configuration file, which [`super::read`] reads as the same model. Settings that have their
//! default are left out. Pure.

use std::net::SocketAddr;

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value};

use super::read::{self, notify::DEFAULT_TIMEOUT};
use crate::model::{
    AdminState, Check, DataplaneSettings, Mode, Model, Notify, Protocol, RealSettings, ServiceKey,
    ServiceSettings, StrayReplies, Timeouts, VirtualService,
    check::keys::{self, one_line},
    duration,
    limits::max_connections_ipv6,
    notify::Stdin,
    real::REAL_SETTINGS,
    service::SERVICE_SETTINGS,
    setting::{self, Setting},
};

/// The text of a whole file for `model`.
#[must_use]
pub fn text(model: &Model) -> String {
    let Model {
        node,
        dataplane,
        services,
        notify,
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
    match settings.checks.as_deref() {
        None | Some([]) => {}
        Some([only]) => {
            table.insert("check", Item::Table(check(only)));
        }
        Some(several) => put_blocks(&mut table, "check", several.iter().map(check)),
    }
    below(table)
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
        setting::Value::Other => None,
    }
}

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
        stray_replies,
        timeouts: _,
    } = settings;
    let mut table = Table::new();
    table.insert("interfaces", toml_edit::value(words(interfaces)));
    if *mode != Mode::default() {
        table.insert("mode", toml_edit::value(mode.name()));
    }
    if *max_connections != read::DEFAULT_MAX_CONNECTIONS {
        let number = i64::from(*max_connections);
        table.insert("max-connections", toml_edit::value(number));
    }
    if *of_ipv6 != max_connections_ipv6(*max_connections) {
        let number = i64::from(*of_ipv6);
        table.insert("max-connections-ipv6", toml_edit::value(number));
    }
    if *stray_replies != StrayReplies::default() {
        table.insert("stray-replies", toml_edit::value(stray_replies.name()));
    }
    table
}

fn timeout_keys(timeouts: &Timeouts) -> Table {
    let Timeouts { tcp, tcp_fin, udp } = *timeouts;
    let usual = read::DEFAULT_TIMEOUTS;
    let mut table = Table::new();
    for (key, timeout, usual) in [
        ("tcp", tcp, usual.tcp),
        ("tcp-fin", tcp_fin, usual.tcp_fin),
        ("udp", udp, usual.udp),
    ] {
        if timeout != usual {
            table.insert(key, toml_edit::value(duration::exact(timeout)));
        }
    }
    table
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
    let mut table = Table::new();
    let events: Array = on.iter().map(|event| event.name()).collect();
    table.insert("on", toml_edit::value(events));
    table.insert("run", toml_edit::value(words(run)));
    if let Some(user) = user {
        table.insert("user", toml_edit::value(one_line(user)));
    }
    if !services.is_empty() {
        table.insert("services", toml_edit::value(words(services)));
    }
    if *timeout != DEFAULT_TIMEOUT {
        table.insert("timeout", toml_edit::value(duration::exact(*timeout)));
    }
    if !alert_after.is_zero() {
        table.insert(
            "alert-after",
            toml_edit::value(duration::exact(*alert_after)),
        );
    }
    if let Some(every) = alert_every {
        table.insert("alert-every", toml_edit::value(duration::exact(*every)));
    }
    if *always_up {
        table.insert("always-up", toml_edit::value(true));
    }
    if *stdin != Stdin::default() {
        table.insert("stdin", toml_edit::value(stdin.name()));
    }
    below(table)
}

fn words(words: &[String]) -> Array {
    words.iter().map(|word| one_line(word)).collect()
}

#[cfg(test)]
mod tests;
