//! What nodes have to have alike: their services, as one sends them to another, compares them, and takes them over. Pure.

use blake2::{Blake2s256, Digest as _};

use crate::{
    config::{read, write},
    model::{
        Model, PeerSettings, VirtualRouter, VirtualService,
        change::Change,
        diff::{Event, model_diff},
        duration,
    },
};

/// This node's services as the text of a configuration, which other nodes read.
#[must_use]
pub fn services_text(model: &Model) -> String {
    let mut services = model.services.clone();
    for service in &mut services {
        service.runtime = false;
        for real in &mut service.reals {
            real.runtime = false;
        }
    }
    write::text(&Model {
        services,
        notify: Vec::new(),
        vrrp: Vec::new(),
        peers: PeerSettings::default(),
        ..model.clone()
    })
}

/// The services in such a text.
///
/// # Errors
/// A sentence: it is not such a text.
pub fn services_of(text: &str) -> Result<Vec<VirtualService>, String> {
    let model = read::model(text, "peer").map_err(|errors| {
        let sentences: Vec<_> = errors.iter().map(|error| error.message.clone()).collect();
        sentences.join("; ")
    })?;
    Ok(model.services)
}

/// The changes that a push makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushChanges {
    /// Of what runs.
    pub running: Vec<Change>,
    /// Of the file, if there is one.
    pub saved: Vec<Change>,
}

impl PushChanges {
    /// Whether there is nothing to change.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.running.is_empty() && self.saved.is_empty()
    }
}

/// The changes that turn the services of the file, or of what runs if there is none, into `wanted`: those that differ are deleted and
/// added again, and what runs follows. What was changed with `--runtime` stays where the file's service is the same as before, or where
/// it has none and `wanted` neither.
#[must_use]
pub fn push_changes(
    running: &Model,
    file: Option<&Model>,
    wanted: &[VirtualService],
) -> PushChanges {
    let same = |one: &VirtualService, other: &VirtualService| saved(one) == saved(other);
    let is_in = |services: &[VirtualService], service| {
        services.iter().any(|present| same(present, service))
    };
    let mut changes = PushChanges::default();
    let base = &file.unwrap_or(running).services;
    let gone = base.iter().filter(|service| !is_in(wanted, service));
    let gone: Vec<_> = gone.map(|service| service.key).collect();
    changes.saved = gone.iter().copied().map(Change::DelService).collect();
    let added: Vec<_> = wanted
        .iter()
        .filter(|service| !is_in(base, service))
        .collect();
    for service in &running.services {
        let is_replaced =
            added.iter().any(|other| other.key == service.key) && !is_in(wanted, service);
        if is_replaced || gone.contains(&service.key) && !is_in(wanted, service) {
            changes.running.push(Change::DelService(service.key));
        }
    }
    for service in added {
        let add = Change::AddService(service.key, service.settings_beside_defaults());
        let reals = service.reals.iter().map(|real| {
            Change::AddReal(service.key, real.address, real.settings_beside_defaults())
        });
        let adding: Vec<_> = [add].into_iter().chain(reals).collect();
        if !is_in(&running.services, service) {
            changes.running.extend(adding.iter().cloned());
        }
        changes.saved.extend(adding);
    }
    if file.is_none() {
        changes.saved.clear();
    }
    changes
}

/// A service as the file has it.
fn saved(service: &VirtualService) -> VirtualService {
    let mut service = service.clone();
    service.runtime = false;
    for real in &mut service.reals {
        real.runtime = false;
    }
    service
}

/// What another node's services, given as text, have other than this node's: a line each.
///
/// # Errors
/// A sentence: it is not such a text.
pub fn differences(model: &Model, text: &str) -> Result<Vec<String>, String> {
    let own = Model {
        services: model.services.iter().map(saved).collect(),
        ..model.clone()
    };
    let theirs = Model {
        services: services_of(text)?,
        ..own.clone()
    };
    let events = model_diff(&own, &theirs).into_iter();
    Ok(events.map(Event::line).collect())
}

fn digest(text: &str) -> String {
    let bytes = Blake2s256::digest(text);
    bytes
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What all nodes have to have alike in their virtual routers.
fn routers_text(routers: &[VirtualRouter]) -> String {
    let mut lines: Vec<_> = routers
        .iter()
        .map(|router| {
            let addresses: Vec<_> = router.addresses.iter().map(ToString::to_string).collect();
            format!(
                "{} {} {} {}",
                router.router_id,
                addresses.join(" "),
                duration::exact(router.advertisement_interval),
                router.group.as_deref().unwrap_or_default(),
            )
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

/// The digests of a model's services, in whatever order, and of its virtual routers: of what nodes have to have alike.
#[must_use]
pub fn digests(model: &Model) -> [String; 2] {
    let mut services: Vec<_> = model
        .services
        .iter()
        .map(|service| write::service_text(&saved(service)))
        .collect();
    services.sort();
    [
        digest(&services.concat()),
        digest(&routers_text(&model.vrrp)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::change::tests::model;

    const SERVICES: &str = r#"
        [[service]]
        name = "web"
        address = "192.0.2.80:80"
        scheduler = "mh"
        check = { type = "http" }
        [[service.real]]
        address = "10.0.0.2:80"
        state = "drain"
        [[service]]
        address = "192.0.2.80:443"
        [[service.real]]
        address = "10.0.0.2:443"
    "#;

    #[test]
    fn services_arrive_as_they_are_sent() {
        let mut sent = model(SERVICES);
        sent.services[0].runtime = true;
        let services = services_of(&services_text(&sent)).unwrap();
        let own: Vec<_> = sent.services.iter().map(saved).collect();
        assert_eq!(services, own);
        let mut present = model("");
        for change in push_changes(&present.clone(), None, &services).running {
            change.apply(&mut present.services).unwrap();
        }
        assert_eq!(present.services, services);
        assert!(push_changes(&present, None, &services).is_empty());
        assert!(push_changes(&present, Some(&present), &services).is_empty());
        assert!(services_of("interfaces = 1").is_err());
    }

    #[test]
    fn only_services_that_differ_are_replaced() {
        let present = model(SERVICES);
        let wanted = model(&SERVICES.replace("\"mh\"", "\"rr\"")).services;
        let web = wanted[0].key;
        let changes = push_changes(&present, Some(&present), &wanted);
        assert_eq!(changes.running, changes.saved);
        let changes = changes.running;
        assert_eq!(changes[0], Change::DelService(web));
        assert!(changes.iter().all(|change| change.service() == Some(&web)));
        // They stand in another order then, which is no difference.
        let mut pushed = present.clone();
        for change in &changes {
            change.apply(&mut pushed.services).unwrap();
        }
        let sender = Model {
            services: wanted.clone(),
            ..present.clone()
        };
        assert_ne!(pushed.services, sender.services);
        assert_eq!(digests(&pushed), digests(&sender));
        let text = services_text(&Model {
            services: wanted,
            ..present.clone()
        });
        assert_eq!(
            differences(&present, &text).unwrap(),
            ["service-changed tcp/192.0.2.80:80 scheduler mh -> rr"]
        );
    }

    #[test]
    fn filters_are_pushed_and_compared() {
        let present = model(SERVICES);
        let filtered = SERVICES.replacen(
            "\"mh\"",
            "\"mh\"\nallow = [\"10.0.0.0/8\"]\ndeny = [\"10.1.0.0/16\", \"10.2.0.0/16\"]\nrate = \"5/s per /24\"",
            1,
        );
        let sender = model(&filtered);
        assert_ne!(digests(&sender)[0], digests(&present)[0]);
        let text = services_text(&sender);
        assert_eq!(services_of(&text).unwrap(), sender.services);
        assert_eq!(
            differences(&present, &text).unwrap(),
            [
                "service-changed tcp/192.0.2.80:80 allow +10.0.0.0/8, deny +10.1.0.0/16 +10.2.0.0/16, rate none -> 5/s per /24"
            ]
        );
        let mut pushed = present.clone();
        for change in &push_changes(&present, Some(&present), &sender.services).running {
            change.apply(&mut pushed.services).unwrap();
        }
        assert_eq!(digests(&pushed), digests(&sender));
    }

    #[test]
    fn digests_are_of_what_nodes_have_to_have_alike() {
        let one = model(SERVICES);
        let mut other = one.clone();
        other.node = "lb2".to_owned();
        other.dataplane.interfaces = vec!["ens1".to_owned()];
        other.dataplane.max_connections = 4096;
        other.services.reverse();
        other.services[1].runtime = true;
        assert_eq!(digests(&one), digests(&other));
        let [same, _] = digests(&other);
        other.services[0].reals[0].weight = 7;
        assert_ne!(digests(&other)[0], same);
        other.services[0].reals[0].weight = 1;
        let checked = other
            .services
            .iter_mut()
            .find(|service| !service.checks.is_empty());
        checked.unwrap().checks.clear();
        assert_ne!(digests(&other)[0], same);
        other.services.pop();
        assert_ne!(digests(&one)[0], digests(&other)[0]);
        let mut router = VirtualRouter::new("outside", "eth0", 51);
        router.addresses = vec!["192.0.2.80/24".parse().unwrap()];
        let mut backup = router.clone();
        backup.priority = 50;
        backup.interface = "ens1".to_owned();
        backup.name = "out".to_owned();
        let with = |router: &VirtualRouter| Model {
            vrrp: vec![router.clone()],
            ..one.clone()
        };
        assert_eq!(digests(&with(&router)), digests(&with(&backup)));
        backup.addresses = vec!["192.0.2.81/24".parse().unwrap()];
        assert_ne!(digests(&with(&router))[1], digests(&with(&backup))[1]);
    }
}
