//! Interfaces: refused, attached, changed; and the host's settings.

use std::time::Duration;

use balancer_ctl::{
    dataplane::kernel::{self, KernelDataplane, OpenOptions},
    dataplane::{Dataplane, DataplaneStatus},
    model::{DataplaneSettings, Mode, Timeouts},
};
use xtask::lab::wait_until;

use crate::scene::{Scene, all, both, connect, maintain_within, settings, start_reals};

#[test]
fn another_program_is_refused_and_stays() {
    let scene = Scene::new();
    let mut other = aya::Ebpf::load(balancer_ctl::dataplane::object::OBJECT).unwrap();
    let program: &mut aya::programs::Xdp = other.program_mut("clock").unwrap().try_into().unwrap();
    program.load().unwrap();
    let id = program.info().unwrap().id();
    let index = scene.balancer.index("port1").unwrap();
    scene
        .balancer
        .run(|| {
            program
                .attach_to_if_index(index, aya::programs::XdpMode::Driver)
                .map(drop)
                .unwrap()
        })
        .unwrap();
    let error = scene.open_error(all(), Vec::new());
    assert_eq!(
        error,
        format!(
            "the interface port1 carries another XDP program (id {id}): it is not replaced; detach it first (`ip link set dev port1 xdp off`, \
             or stop what attached it)"
        )
    );
    assert!(!xdp(&scene, "outside").contains("xdp"));
    assert!(xdp(&scene, "port1").contains(&format!("id {id}")));
    // A reload changes nothing either.
    scene.with(settings(&["outside", "port2"]), |dataplane| {
        let error = dataplane.configure(&all()).unwrap_err().to_string();
        assert!(
            error.starts_with("the interface port1 carries another XDP program"),
            "{error}"
        );
        let names: Vec<_> = dataplane
            .status()
            .unwrap()
            .interfaces
            .into_iter()
            .map(|i| i.name)
            .collect();
        assert_eq!(names, ["outside", "port2"]);
    });
}

#[test]
fn an_interface_of_another_instance_is_refused_with_its_name() {
    let scene = Scene::new();
    let second = format!("{}-b", scene.instance);
    let open_second = |interfaces: &[&str]| {
        let options = OpenOptions {
            instance: Some(second.clone()),
            settings: settings(interfaces),
            services: Vec::new(),
            packet_log: None,
        };
        let opened = scene
            .balancer
            .run(|| KernelDataplane::open(options).map(drop));
        opened.unwrap().map_err(|error| error.to_string())
    };
    let sentence = Err(format!(
        "the interface port1 carries the packet program of instance `{}` of balancerd: one instance has an interface; leave port1 to \
         it, or stop that instance and take its data plane down with `balancerd --instance {} --detach`",
        scene.instance, scene.instance
    ));
    let pins = std::path::Path::new("/sys/fs/bpf/balancer").join(&second);
    let state = std::path::Path::new("/var/lib/balancer").join(&second);
    scene.with(settings(&["port1"]), |_| {
        let before = xdp(&scene, "port1");
        assert_eq!(open_second(&["outside", "port1"]), sentence);
        assert_eq!(xdp(&scene, "port1"), before);
    });
    // Its daemon has gone, and what it does goes on.
    assert_eq!(open_second(&["outside", "port1"]), sentence);
    assert!(!xdp(&scene, "outside").contains("xdp"));
    assert!(!pins.exists() && !state.exists());
    // Another interface is free.
    assert_eq!(open_second(&["outside"]), Ok(()));
    let down = scene.balancer.run(|| kernel::detach(Some(&second)));
    assert!(down.unwrap().unwrap());
    assert!(!pins.exists() && !state.exists());
}

/// What `ip link` shows of an interface of the balancer.
fn xdp(scene: &Scene, interface: &str) -> String {
    scene
        .balancer
        .output("ip", &["link", "show", "dev", interface])
        .unwrap()
}

#[test]
fn a_missing_interface_is_refused_by_name() {
    let scene = Scene::new();
    let error = scene.open_error(settings(&["outside", "eth7"]), Vec::new());
    assert_eq!(
        error,
        "the interface eth7 does not exist: see `ip link` for the names there are"
    );
    assert!(!xdp(&scene, "outside").contains("xdp"));
}

#[test]
fn interfaces_come_and_go_with_the_configuration() {
    let scene = Scene::new();
    scene.with(settings(&["outside", "port1"]), |dataplane| {
        assert!(
            xdp(&scene, "port1").contains("prog/xdp") && !xdp(&scene, "port2").contains("prog/xdp")
        );
        dataplane
            .configure(&settings(&["outside", "port2"]))
            .unwrap();
        assert!(
            !xdp(&scene, "port1").contains("prog/xdp") && xdp(&scene, "port2").contains("prog/xdp")
        );
        let generic = DataplaneSettings {
            mode: Mode::Generic,
            ..settings(&["outside", "port2"])
        };
        dataplane.configure(&generic).unwrap();
        assert!(xdp(&scene, "outside").contains("xdpgeneric"));
        assert!(
            dataplane
                .status()
                .unwrap()
                .interfaces
                .iter()
                .all(|interface| !interface.native)
        );
    });
}

#[test]
fn what_was_changed_on_the_host_is_restored() {
    let scene = Scene::new();
    let values = || {
        let names = [
            "ipv4/conf/outside/forwarding",
            "ipv6/conf/port1/forwarding",
            "ipv4/conf/port2/accept_local",
            "ipv4/conf/all/send_redirects",
        ];
        scene
            .balancer
            .run(|| {
                names
                    .map(|name| {
                        std::fs::read_to_string(format!("/proc/sys/net/{name}"))
                            .unwrap()
                            .trim()
                            .to_owned()
                    })
                    .join(" ")
            })
            .unwrap()
    };
    assert_eq!(values(), "0 0 0 1");
    scene.with(all(), |_| assert_eq!(values(), "1 1 1 0"));
    assert_eq!(values(), "1 1 1 0");
    scene.with(all(), |_| {});
    let instance = scene.instance.clone();
    scene
        .balancer
        .run(|| kernel::detach(Some(&instance)).unwrap())
        .unwrap();
    assert_eq!(values(), "0 0 0 1");
    assert!(!xdp(&scene, "outside").contains("xdp") && !scene.pins().exists());
}

#[test]
fn the_settings_of_another_network_namespace_are_left_alone() {
    let scene = Scene::new();
    let forwarding = |namespace: &xtask::lab::Namespace, interface: &str| {
        namespace
            .run(|| {
                let path = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
                std::fs::read_to_string(path).unwrap()
            })
            .unwrap()
    };
    scene.with(settings(&["port1"]), |_| {});
    // A namespace with an interface of the same name, where the operator has switched forwarding on.
    let other = xtask::lab::Namespace::new("dp").unwrap();
    other.connect("port1", &scene.reals[0], "eth1").unwrap();
    other.sysctl("net.ipv4.conf.port1.forwarding", "1").unwrap();
    let detach = || kernel::detach(Some(&scene.instance));
    let error = other.run(|| detach().unwrap_err().to_string()).unwrap();
    assert_eq!(
        error,
        format!(
            "this data plane runs in another network namespace, whose settings are to be put back: run this with `nsenter --net={}` before it",
            scene.balancer.path().display()
        )
    );
    assert!(xdp(&scene, "port1").contains("prog/xdp"));
    assert_eq!(forwarding(&other, "port1"), "1\n");
    assert_eq!(forwarding(&scene.balancer, "port1"), "1\n");
    assert!(scene.balancer.run(detach).unwrap().unwrap());
    assert_eq!(forwarding(&scene.balancer, "port1"), "0\n");
    assert!(
        !scene.balancer.run(detach).unwrap().unwrap(),
        "nothing is left"
    );
}

#[test]
fn what_does_not_work_is_reported_with_the_remedy() {
    let scene = Scene::new();
    let [real, other] = &scene.reals;
    real.output("ethtool", &["-K", "eth0", "tx", "on"]).unwrap();
    other
        .output("ethtool", &["-K", "eth0", "gro", "off"])
        .unwrap();
    scene.balancer.ip("link set dev outside mtu 1400").unwrap();
    scene
        .balancer
        .sysctl("net.ipv4.conf.port2.rp_filter", "1")
        .unwrap();
    let (warnings, after_remedy, of_ipv4) = scene.with(all(), |dataplane| {
        let DataplaneStatus {
            warnings,
            family_warnings: [of_ipv4, _],
            ..
        } = dataplane.status().unwrap();
        real.output("ethtool", &["-K", "eth0", "tx", "off"])
            .unwrap();
        // As a reload does.
        dataplane.configure(&all()).unwrap();
        (warnings, dataplane.status().unwrap().warnings, of_ipv4)
    });
    assert_eq!(after_remedy, [&warnings[..1], &warnings[2..]].concat());
    assert_eq!(
        warnings,
        [
            format!(
                "port2 takes no redirected frames, since its other end eth0 does not poll (`ip netns exec {} ethtool -K eth0 gro on`, \
                 then `balancer-ctl reload`); so all interfaces run the packet program in generic mode, which costs more CPU time per \
                 packet",
                other.name()
            ),
            format!(
                "eth0, the other end of port1, leaves checksums to hardware that a veth does not have, so receivers drop what is forwarded: ip \
                 netns exec {} ethtool -K eth0 tx off",
                real.name()
            ),
            "port1 carries packets of 1500 bytes and outside only 1400: larger ones towards it are not forwarded; give both the same MTU (ip \
             link set dev port1 mtu 1400)"
                .into(),
        ]
    );
    assert_eq!(
        of_ipv4,
        [
            "strict reverse path filtering on port2 drops answers while a next hop's MAC address is unknown: sysctl -w \
             net.ipv4.conf.port2.rp_filter=2"
        ]
    );
}

#[test]
fn forwarding_that_somebody_switched_off_is_reported_with_the_remedy() {
    let scene = Scene::new();
    scene.with(all(), |dataplane| {
        let warning = "IPv4 forwarding is off on port2, so IPv4 packets that come in there are dropped (forwarding-off): sysctl -w \
                       net.ipv4.conf.port2.forwarding=1";
        let warned = |dataplane: &mut KernelDataplane| {
            let [of_ipv4, _] = dataplane.status().unwrap().family_warnings;
            of_ipv4.iter().any(|other| other == warning)
        };
        assert!(!warned(dataplane));
        scene
            .balancer
            .sysctl("net.ipv4.conf.port2.forwarding", "0")
            .unwrap();
        // It looks every 30 s.
        maintain_within(Duration::from_secs(45), dataplane, warned);
        scene
            .balancer
            .sysctl("net.ipv4.conf.port2.forwarding", "1")
            .unwrap();
        // As a reload does.
        dataplane.configure(&all()).unwrap();
        assert!(!warned(dataplane));
    });
}

#[test]
fn a_refused_mode_leaves_the_program_where_it_was() {
    let scene = Scene::new();
    scene.client.ip("link set dev eth0 mtu 9000").unwrap();
    scene.balancer.ip("link set dev outside mtu 9000").unwrap();
    let native = DataplaneSettings {
        mode: Mode::Native,
        ..all()
    };
    let attached = |dataplane: &mut KernelDataplane| {
        let interfaces = dataplane.status().unwrap().interfaces.into_iter();
        interfaces
            .map(|interface| (interface.name, interface.native))
            .collect::<Vec<_>>()
    };
    let before = ["port1", "port2", "outside"].map(|name| (name.to_owned(), false));
    // The interface that refuses comes last: the others are rolled back.
    let auto = settings(&["port1", "port2", "outside"]);
    let native = DataplaneSettings {
        interfaces: auto.interfaces.clone(),
        ..native
    };
    scene.with(auto.clone(), |dataplane| {
        assert_eq!(attached(dataplane), before);
        let error = dataplane.configure(&native).unwrap_err().to_string();
        assert!(
            error.starts_with("outside does not take the packet program natively"),
            "{error}"
        );
        assert!(xdp(&scene, "outside").contains("xdpgeneric"));
        assert_eq!(attached(dataplane), before);
        // From generic to native, and back because of the last interface.
        let generic = DataplaneSettings {
            mode: Mode::Generic,
            ..auto.clone()
        };
        dataplane.configure(&generic).unwrap();
        dataplane.configure(&native).unwrap_err();
        for name in ["port1", "port2", "outside"] {
            assert!(xdp(&scene, name).contains("xdpgeneric"), "{name}");
        }
        dataplane.run_maintenance().unwrap();
        assert_eq!(dataplane.status().unwrap().interfaces.len(), 3);
    });
    // The link of the rollback is pinned, too.
    assert!(xdp(&scene, "outside").contains("xdpgeneric"));
}

#[test]
fn interfaces_that_go_or_lose_the_program_are_reported_and_attached_again_each_on_its_own() {
    let scene = Scene::new();
    scene.with(all(), |dataplane| {
        let mut until = |names: &[&str], warning: Option<&str>| {
            let mut status = None;
            let reached = wait_until("the interfaces", Duration::from_secs(10), || {
                dataplane.run_maintenance().unwrap();
                let now = dataplane.status().unwrap();
                let is_as_wanted = now.interfaces.iter().map(|i| &i.name).eq(names)
                    && now.warnings.first().map(String::as_str) == warning;
                status = Some(now);
                Ok(is_as_wanted)
            });
            assert!(reached.is_ok(), "{names:?} {warning:?}: {status:#?}");
        };
        until(&["outside", "port1", "port2"], None);
        scene.balancer.ip("link delete dev port1").unwrap();
        let missing = "the interface port1 does not exist: see `ip link` for the names there are";
        until(&["outside", "port2"], Some(missing));
        // The program is detached from another one meanwhile, and attached again.
        detach_link(&scene, "outside");
        until(&["outside", "port2"], Some(missing));
        assert!(xdp(&scene, "outside").contains("prog/xdp"));
        scene
            .balancer
            .connect("port1", &scene.reals[0], "eth0")
            .unwrap();
        scene.reals[0].plain_frames("eth0").unwrap();
        scene.reals[0].polling("eth0").unwrap();
        scene.balancer.polling("port1").unwrap();
        until(&["outside", "port1", "port2"], None);
    });
    scene.with(all(), |dataplane| {
        detach_link(&scene, "port2");
        assert_eq!(
            dataplane.status().unwrap().warnings,
            ["the interface port2 does not carry the packet program any more: it is attached again when that is possible"]
        );
        // A reload attaches it, too.
        dataplane.configure(&all()).unwrap();
        assert!(xdp(&scene, "port2").contains("prog/xdp"));
    });
    assert!(
        xdp(&scene, "port2").contains("prog/xdp"),
        "its pin is there"
    );
}

/// Detaches the packet program from an interface as an operator may.
fn detach_link(scene: &Scene, interface: &str) {
    let index = scene.balancer.index(interface).unwrap();
    let pin = scene.pin(&format!("link-{index}"));
    let output = std::process::Command::new("bpftool")
        .args(["link", "detach", "pinned"])
        .arg(pin)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn connections_expire_while_interfaces_cannot_be_followed() {
    let scene = Scene::new();
    start_reals(&scene);
    let short = DataplaneSettings {
        timeouts: Timeouts {
            tcp: Duration::from_secs(1),
            ..all().timeouts
        },
        ..all()
    };
    // A pin that is no link, so that detaching it fails.
    let pin = scene.pin("link-99");
    scene.with(short, |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        let _stream = connect(&scene);
        let made = std::process::Command::new("bpftool")
            .args(["map", "create"])
            .arg(&pin)
            .args(["type", "array", "key", "4", "value", "4", "entries", "1"])
            .args(["name", "link"])
            .status();
        assert!(made.unwrap().success());
        detach_link(&scene, "port2");
        assert_eq!(dataplane.status().unwrap().connections(), 1);
        let expired = wait_until("expiry", Duration::from_secs(10), || {
            let error = dataplane.run_maintenance().unwrap_err().to_string();
            assert!(
                error.contains("cannot take the packet program off"),
                "{error}"
            );
            Ok(dataplane.status().unwrap().connections() == 0)
        });
        assert!(expired.is_ok());
        std::fs::remove_file(&pin).unwrap();
        dataplane.run_maintenance().unwrap();
        assert!(xdp(&scene, "port2").contains("prog/xdp"));
    });
}
