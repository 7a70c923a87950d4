//! Virtual routers in the file's text, which changes of services leave as they are.

use super::*;

const VRRP: &str = r#"# our VIPs
[[vrrp]]  # outside
name = "outside"
interface = "eth0"
router-id =  51
addresses = [
  "192.0.2.80/24", # the shop's
]
track-services = ["web"]

  # the way out
  [vrrp.track-ping]
  targets = ["192.0.2.1"]
  [[vrrp.track-exec]]
  run = ["/bin/true"]
"#;
const START: &str = "dataplane.interfaces = [\"eth0\"]\n";
const WEB: &str = "[[service]]\nname = \"web\"\naddress = \"192.0.2.80:80\"\n";
const REAL: &str = "\n[[service.real]]\naddress = \"10.0.0.2:80\"\n";
const DNS: &str = "[[service]]\naddress = \"192.0.2.80:53\"\nprotocol = \"udp\"\n";

fn add_real(service: ServiceKey) -> Change {
    Change::AddReal(service, real("10.0.0.2:80"), RealSettings::default())
}

#[test]
fn virtual_routers_before_between_and_behind_services_stay_as_they_are() {
    for [before, between, behind] in [[VRRP, "", ""], ["", VRRP, ""], ["", "", VRRP]] {
        let text = format!("{START}{before}{WEB}{between}{DNS}{behind}");
        assert_eq!(
            edited(&text, &add_real(web())),
            format!("{START}{before}{WEB}{REAL}{between}{DNS}{behind}")
        );
        assert_eq!(
            edited(&text, &Change::DelService(dns())),
            format!("{START}{before}{WEB}{between}{behind}")
        );
        let both = edited_all(&text, &[add_real(web()), add_real(dns())]);
        assert_eq!(
            both,
            format!("{START}{before}{WEB}{REAL}{between}{DNS}{REAL}{behind}")
        );
        let removed = [
            Change::DelReal(web(), real("10.0.0.2:80")),
            Change::DelReal(dns(), real("10.0.0.2:80")),
        ];
        assert_eq!(edited_all(&both, &removed), text);
        let added = edited(
            &text,
            &Change::AddService(
                service_key("192.0.2.80:81").unwrap(),
                ServiceSettings::default(),
            ),
        );
        assert_eq!(
            added,
            format!(
                "{START}{before}{WEB}{between}{DNS}\n[[service]]\naddress = \"192.0.2.80:81\"\n{behind}"
            )
        );
    }
}

#[test]
fn the_first_service_comes_behind_the_virtual_routers() {
    let text = format!("{START}{VRRP}");
    let added = edited(
        &text,
        &Change::AddService(web(), ServiceSettings::default()),
    );
    assert_eq!(
        added,
        format!("{text}\n[[service]]\naddress = \"192.0.2.80:80\"\n")
    );
    assert_eq!(edited(&added, &Change::Clear), text);
}
