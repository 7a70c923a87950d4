//! Interfaces: refused, attached, changed; and the host around them.

use balancer_ctl::{
    dataplane::Dataplane,
    model::{DataplaneSettings, Mode},
};

use crate::scene::{Scene, all, settings};

#[test]
fn another_program_is_refused_and_stays() {
    let scene = Scene::new();
    let mut other = aya::Ebpf::load(balancer_ctl::object::OBJECT).unwrap();
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
    let error = scene
        .balancer
        .run(|| scene.open(all()).unwrap_err().to_string())
        .unwrap();
    assert_eq!(
        error,
        format!(
            "the interface port1 carries another XDP program (id {id}): it is not replaced; detach it first (`ip link set dev port1 xdp off`, \
             or stop what attached it)"
        )
    );
    assert!(!xdp(&scene, "outside").contains("xdp"));
    assert!(xdp(&scene, "port1").contains(&format!("id {id}")));
    // While running: nothing changes either.
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

/// What `ip` says of an interface of the balancer.
fn xdp(scene: &Scene, interface: &str) -> String {
    scene
        .balancer
        .output("ip", &["link", "show", "dev", interface])
        .unwrap()
}

#[test]
fn a_missing_interface_is_refused_by_name() {
    let scene = Scene::new();
    let error = scene
        .balancer
        .run(|| {
            scene
                .open(settings(&["outside", "eth7"]))
                .unwrap_err()
                .to_string()
        })
        .unwrap();
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
fn what_was_changed_on_the_host_is_put_back() {
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
        .run(|| balancer_ctl::dataplane::kernel::detach(Some(&instance)).unwrap())
        .unwrap();
    assert_eq!(values(), "0 0 0 1");
    assert!(!xdp(&scene, "outside").contains("xdp") && !scene.pins().exists());
}

#[test]
fn what_will_not_work_is_said_with_the_mend() {
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
    let warnings = scene.with(all(), |dataplane| dataplane.status().unwrap().warnings);
    assert_eq!(
        warnings,
        [
            format!(
                "eth0, the other end of port1, leaves checksums to hardware that a veth does not have, so receivers drop what is forwarded: ip \
                 netns exec {} ethtool -K eth0 tx off",
                real.name()
            ),
            format!(
                "eth0, the other end of port2, does not poll, so frames that are redirected to it are lost: ip netns exec {} ethtool -K eth0 \
                 gro on",
                other.name()
            ),
            "strict reverse path filtering on port2 drops answers while a next hop's MAC address is unknown: sysctl -w \
             net.ipv4.conf.port2.rp_filter=2"
                .into(),
            "port1 carries packets of 1500 bytes and outside only 1400: larger ones towards it are not forwarded; give both the same MTU (ip \
             link set dev port1 mtu 1400)"
                .into(),
        ]
    );
}
