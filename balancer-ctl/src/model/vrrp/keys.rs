//! A virtual router in the configuration file's keys, as TOML; keys that have their default are left out. Pure.

use std::net::IpAddr;

use toml_edit::{Array, InlineTable, Value};

use super::{
    Checksum, DEFAULT_ADVERTISEMENT_INTERVAL, DEFAULT_ANNOUNCE_INTERVAL, DEFAULT_FALL,
    DEFAULT_LINK_UP_DELAY, DEFAULT_PRIORITY, DEFAULT_RISE, DEFAULT_TRACK_INTERVAL, DEFAULT_WEIGHT,
    Failback, Probes, TrackExec, TrackPing, TrackService, VirtualRouter, default_timeout,
};
use crate::model::{
    duration,
    toml_table::{TableBuilder, lines, non_default, one_line},
};

/// A virtual router as an inline table.
#[must_use]
pub fn table(router: &VirtualRouter) -> InlineTable {
    let VirtualRouter {
        name,
        interface,
        router_id,
        priority,
        advertisement_interval,
        failback,
        link_up_delay,
        addresses,
        unicast_peers,
        group,
        track_interfaces,
        track_ping,
        track_services,
        track_exec,
        probes,
        checksum,
        announce_interval,
    } = router;
    let mut builder = TableBuilder::default();
    builder.put("name", name);
    builder.put("interface", interface);
    builder.put("router-id", i64::from(*router_id));
    let priority = non_default(*priority, DEFAULT_PRIORITY);
    builder.put_some("priority", priority.map(i64::from));
    let interval = non_default(*advertisement_interval, DEFAULT_ADVERTISEMENT_INTERVAL);
    builder.put_some("advertisement-interval", interval.map(duration::exact));
    let failback = non_default(*failback, Failback::default());
    builder.put_some("failback", failback.map(|failback| failback.to_string()));
    let delay = non_default(*link_up_delay, DEFAULT_LINK_UP_DELAY);
    builder.put_some("link-up-delay", delay.map(duration::exact));
    let addresses: Array = addresses.iter().map(ToString::to_string).collect();
    builder.put("addresses", addresses);
    builder.put_some("unicast-peers", list(shown(unicast_peers)));
    builder.put_some("group", group.as_ref());
    builder.put_some("track-interfaces", list(lines(track_interfaces)));
    builder.put_some("track-ping", track_ping.as_ref().map(ping));
    let services = track_services.iter().map(service);
    builder.put_some("track-services", list(services.collect()));
    builder.put_some("track-exec", exec(track_exec));
    let probes = non_default(*probes, Probes::default());
    builder.put_some("probes", probes.map(Probes::name));
    let checksum = non_default(*checksum, Checksum::default());
    builder.put_some("checksum", checksum.map(Checksum::name));
    let announce = non_default(*announce_interval, Some(DEFAULT_ANNOUNCE_INTERVAL));
    let announce = announce.map(|interval| interval.map_or("never".to_owned(), duration::exact));
    builder.put_some("announce-interval", announce);
    builder.0
}

/// The value of a key that is left out, for a sentence.
#[must_use]
pub fn left_out(key: &str) -> String {
    match key {
        "priority" => DEFAULT_PRIORITY.to_string(),
        "advertisement-interval" => duration::exact(DEFAULT_ADVERTISEMENT_INTERVAL),
        "failback" => Failback::default().to_string(),
        "link-up-delay" => duration::exact(DEFAULT_LINK_UP_DELAY),
        "probes" => Probes::default().name().to_owned(),
        "checksum" => Checksum::default().name().to_owned(),
        "announce-interval" => duration::exact(DEFAULT_ANNOUNCE_INTERVAL),
        _ => "none".to_owned(),
    }
}

/// A list, unless it is empty.
fn list(values: Array) -> Option<Array> {
    Some(values).filter(|values| !values.is_empty())
}

fn shown(addresses: &[IpAddr]) -> Array {
    addresses.iter().map(ToString::to_string).collect()
}

fn ping(tracked: &TrackPing) -> InlineTable {
    let TrackPing {
        targets,
        interval,
        timeout,
        fall,
        rise,
        weight,
    } = tracked;
    let mut builder = TableBuilder::default();
    builder.put("targets", shown(targets));
    let interval_key = non_default(*interval, DEFAULT_TRACK_INTERVAL);
    builder.put_some("interval", interval_key.map(duration::exact));
    let timeout = non_default(*timeout, default_timeout(*interval));
    builder.put_some("timeout", timeout.map(duration::exact));
    builder.counts(*fall, *rise);
    builder.weight(*weight);
    builder.0
}

/// A service by its name alone where its weight is the default.
fn service(tracked: &TrackService) -> Value {
    let TrackService { service, weight } = tracked;
    if *weight == DEFAULT_WEIGHT {
        return service.into();
    }
    let mut builder = TableBuilder::default();
    builder.put("service", service);
    builder.weight(*weight);
    builder.0.into()
}

/// A program as a table, several as a list of tables.
fn exec(tracked: &[TrackExec]) -> Option<Value> {
    match tracked {
        [] => None,
        [only] => Some(program(only).into()),
        several => {
            let programs: Array = several.iter().map(program).collect();
            Some(programs.into())
        }
    }
}

fn program(tracked: &TrackExec) -> InlineTable {
    let TrackExec {
        run,
        user,
        interval,
        timeout,
        fall,
        rise,
        weight,
    } = tracked;
    let mut builder = TableBuilder::default();
    builder.put("run", lines(run));
    builder.put_some("user", user.as_deref().map(one_line));
    let interval_key = non_default(*interval, DEFAULT_TRACK_INTERVAL);
    builder.put_some("interval", interval_key.map(duration::exact));
    let timeout = non_default(*timeout, default_timeout(*interval));
    builder.put_some("timeout", timeout.map(duration::exact));
    builder.counts(*fall, *rise);
    builder.weight(*weight);
    builder.0
}

impl TableBuilder {
    fn counts(&mut self, fall: u32, rise: u32) {
        self.put_some("fall", non_default(fall, DEFAULT_FALL).map(i64::from));
        self.put_some("rise", non_default(rise, DEFAULT_RISE).map(i64::from));
    }

    fn weight(&mut self, weight: u8) {
        self.put_some("weight", non_default(weight, DEFAULT_WEIGHT).map(i64::from));
    }
}
