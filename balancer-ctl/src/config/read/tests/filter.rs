//! Filters.

use super::*;

fn filter(lines: &str) -> Filter {
    let text = format!(
        "dataplane.interfaces = [\"eth0\"]\n[[service]]\naddress = \"192.0.2.80:80\"\n{lines}"
    );
    let model = model(&text, "lb1").unwrap();
    model.services[0].filter.clone()
}

#[test]
fn lists_keep_their_order_and_an_empty_one_is_none() {
    assert_eq!(filter(""), Filter::default());
    assert_eq!(filter("allow = []\ndeny = [ ]"), Filter::default());
    let list = |text| Prefixes::from_argument(text).unwrap();
    assert_eq!(
        filter(
            "deny = [\n  \"198.51.100.7\", # a scanner\n  \"10.0.0.0/8\",\n]\nrate = \"5/s per /32\""
        ),
        Filter {
            deny: list("198.51.100.7/32,10.0.0.0/8"),
            rate: Some(Rate {
                per_second: 5,
                length: None
            }),
            ..Filter::default()
        }
    );
    let turned = filter("deny = [\"10.0.0.0/8\", \"198.51.100.7\"]").deny;
    assert_ne!(turned, list("198.51.100.7,10.0.0.0/8"));
}

#[test]
fn wrong_filters_are_reported_where_they_are() {
    let text = r#"dataplane.interfaces = ["eth0"]
[[service]]
address = "192.0.2.80:80"
allow = ["10.0.0.0/8", "10.1.2.3/16", "web"]
deny = [
  "192.0.2.7", "2001:db8::/32",
  "10.0.0.0/8", "192.0.2.7/32"
]
rate = "0/s"
[[service]]
address = "[2001:db8::80]:80"
allow = "2001:db8::/32"
deny = ["::ffff:192.0.2.0/120", 7, "::/0"]
rate = "fast"
[[service]]
address = "192.0.2.80:81"
allow = ["192.0.2.0/24"]
deny = ["192.0.2.0/24", "2001:db8::/32", "192.0.2.0/25", "192.0.2.0/25"]
rate = "1/s per /33"
[[service]]
address = "192.0.2.80:82"
rate = 100
[[service]]
address = "[2001:db8::80]:82"
rate = "1000001/s"
deny = ["::ffff:192.0.2.0/120"]
[[service]]
address = "[2001:db8::80]:83"
rate = "1/s per /129"
scheduler = ["rr"]
"#;
    assert_eq!(
        errors(text),
        [
            "4:24: allow `10.1.2.3/16` has bits behind its prefix: write `10.1.0.0/16`",
            "4:39: allow `web` is neither an address nor a prefix: write `198.51.100.7`, `198.51.100.0/24` or `2001:db8::/64`",
            "6:16: deny 2001:db8::/32 is not of the family of service tcp/192.0.2.80:80: both must be IPv4 or both IPv6",
            "7:17: deny 192.0.2.7 is there twice: name it once",
            "9:8: rate `0/s` is out of range: 1/s to 1000000/s",
            "12:9: allow must be a list of prefixes in quotes, as in [\"198.51.100.0/24\"]",
            "13:33: deny must be a list of prefixes in quotes, as in [\"198.51.100.0/24\"]",
            "14:8: rate `fast` is no limit of connections: write `100/s`, or `100/s per /24` for networks that count as one client",
            "18:9: deny 192.0.2.0/24 is in allow, too: leave it in one of them",
            "18:25: deny 2001:db8::/32 is not of the family of service tcp/192.0.2.80:81: both must be IPv4 or both IPv6",
            "18:58: deny 192.0.2.0/25 is there twice: name it once",
            "19:8: rate `1/s per /33` of service tcp/192.0.2.80:81 is per too long a prefix: /0 to /32",
            "22:8: rate must be a string in quotes",
            "25:8: rate `1000001/s` is out of range: 1/s to 1000000/s",
            "26:9: deny ::ffff:192.0.2.0/120 is an IPv4 prefix in IPv6 form, and no packet of IPv6 has such a source: leave it out, or \
             write the IPv4 prefix in an IPv4 service",
            "29:8: rate `1/s per /129` of service tcp/[2001:db8::80]:83 is per too long a prefix: /0 to /128",
            "30:13: scheduler must be a string in quotes",
        ]
    );
}

/// `number` prefixes, a line each.
fn prefixes(number: u32) -> String {
    let all = (0..number).map(|number| {
        let address = Ipv4Addr::from((number + 1) << 8);
        format!("  \"{address}/24\",\n")
    });
    all.collect()
}

#[test]
fn the_filters_of_all_services_hold_so_many_prefixes_and_no_more() {
    let with = |number: u32| {
        format!(
            "dataplane.interfaces = [\"eth0\"]\n[[service]]\naddress = \"192.0.2.80:80\"\ndeny = [\n{}]\n[[service]]\n\
             address = \"192.0.2.80:81\"\nallow = [\"10.0.0.0/8\"]\n",
            prefixes(number)
        )
    };
    assert_eq!(
        model(&with(65_535), "lb1").unwrap().services[0]
            .filter
            .deny
            .len(),
        65_535
    );
    assert_eq!(
        errors(&with(65_536)),
        [
            "65544:9: allow of service tcp/192.0.2.80:81 is too long: with it the filters of all services hold more than 65536 prefixes, \
             which is the most; join neighbouring prefixes"
        ]
    );
}
