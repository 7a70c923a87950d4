//! Filters in front of services: who is served, who is not, and that changes of long lists take no time.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    net::{SocketAddr, TcpStream},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    servers::Server,
    topology::{Arms, CLIENT, CLIENT6, Topology, VIP, VIP6, socket},
};
use serde_json::{Value, json};

use crate::{KeepAlive, WEB};

/// How long a client waits that gets no answer: less than the second after which it sends its SYN again.
const SHORT: Duration = Duration::from_millis(600);

/// [`WEB`], and the same in IPv6, with these lines in each.
fn config(lines: [&str; 2]) -> String {
    let web = WEB.replace("\"rr\"", "\"rr\"\nLINES");
    let of_v6 = web
        .replace("192.0.2.80", "[2001:db8:80::80]")
        .replace("192.168.0.2:", "[fd00:1::2]:")
        .replace("192.168.0.3:", "[fd00:1::3]:");
    let [v4, v6] = lines;
    web.replace("LINES", v4) + &of_v6.replace("LINES", v6)
}

/// Two real servers that answer any request.
fn topology() -> (Topology, [Server; 2]) {
    let topology = Topology::new(Arms::Two, 2);
    let serve = |mut stream: TcpStream| {
        let lines = BufReader::new(stream.try_clone().expect("another descriptor"));
        for line in lines.lines().map_while(Result::ok) {
            // The end of a request.
            if line.is_empty()
                && stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nreal")
                    .is_err()
            {
                break;
            }
        }
    };
    let servers = [0, 1].map(|index| {
        Server::start(&topology.reals[index], 80, move |stream| {
            thread::spawn(move || serve(stream));
        })
    });
    (topology, servers)
}

fn vips() -> [SocketAddr; 2] {
    [socket(VIP, 80), socket(VIP6, 80)]
}

/// Whether a new connection is opened; else nobody has answered.
fn is_served(topology: &Topology, vip: SocketAddr) -> bool {
    match topology.connect(vip, SHORT) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
            false
        }
    }
}

fn discards(daemon: &Daemon) -> [Value; 2] {
    let status = daemon.json("status");
    let discards = &status["dataplane"]["discards"];
    ["denied", "rate-limited"].map(|reason| discards[reason].clone())
}

#[test]
fn a_denied_client_is_refused_until_it_is_let_in_and_its_connections_go_on() {
    if privileged::skipped() {
        return;
    }
    let (topology, _servers) = topology();
    let mut daemon = Daemon::start(&topology, &config(["", ""]));
    for vip in vips() {
        assert!(is_served(&topology, vip));
    }
    let mut old = vips().map(|vip| KeepAlive::connect_to(&topology, vip));

    daemon.ctl(&format!("edit-service {VIP}:80 --deny {CLIENT}"));
    daemon.ctl(&format!(
        "edit-service [{VIP6}]:80 --deny 2001:db8::/32 --allow fd00::/8"
    ));
    for vip in vips() {
        assert!(!is_served(&topology, vip));
    }
    for old in &mut old {
        old.request().expect("it goes on");
    }
    let trace = daemon.json(&format!("trace --client {CLIENT}:1 {VIP}:80"));
    assert_eq!(
        (&trace["real"], &trace["rule"]),
        (&Value::Null, &json!(format!("deny {CLIENT}")))
    );
    let shown = |daemon: &Daemon| {
        let listed = daemon.json("list");
        [0, 1].map(|index| {
            let service = &listed["services"][index];
            let keys = ["allow", "deny", "not_allowed", "rate"];
            keys.map(|key| service[key].clone())
        })
    };
    let expected = [
        [
            json!([]),
            json!([{"prefix": CLIENT, "packets": 1}]),
            Value::Null,
            Value::Null,
        ],
        [
            json!([{"prefix": "fd00::/8", "packets": 0}]),
            json!([{"prefix": "2001:db8::/32", "packets": 1}]),
            json!(0),
            Value::Null,
        ],
    ];
    assert_eq!(shown(&daemon), expected);
    assert_eq!(discards(&daemon), [json!(2), json!(0)]);

    // Without a daemon it is the same, and the next one knows what was counted.
    daemon.process().kill().expect("it ran");
    assert!(!is_served(&topology, vips()[0]));
    daemon.restart();
    let mut counted = expected;
    counted[0][1] = json!([{"prefix": CLIENT, "packets": 2}]);
    assert_eq!(shown(&daemon), counted);

    // The longer prefix lets the client in; the file is loaded.
    let allow = "deny = [\"203.0.113.0/24\"]\nallow = [\"203.0.113.10\", \"198.51.100.0/24\"]";
    let allow6 = format!("deny = [\"2001:db8::/32\"]\nallow = [\"{CLIENT6}\"]\nrate = \"1000/s\"");
    daemon.write(&format!(
        "[dataplane]\ninterfaces = [\"outside\", \"inside\"]\n{}",
        config([allow, &allow6])
    ));
    daemon.ctl("reload");
    for vip in vips() {
        assert!(is_served(&topology, vip));
    }
    assert_eq!(
        shown(&daemon),
        [
            [
                json!([{"prefix": CLIENT, "packets": 1}, {"prefix": "198.51.100.0/24", "packets": 0}]),
                json!([{"prefix": "203.0.113.0/24", "packets": 0}]),
                json!(0),
                Value::Null
            ],
            [
                json!([{"prefix": CLIENT6, "packets": 1}]),
                // The same rule as before, with what it has counted.
                json!([{"prefix": "2001:db8::/32", "packets": 1}]),
                json!(0),
                json!({"limit": "1000/s per /64", "refused": 0})
            ]
        ]
    );
    daemon.ctl(&format!(
        "edit-service {VIP}:80 --allow none --deny none --runtime"
    ));
    assert!(is_served(&topology, vips()[0]));
    daemon.ctl("zero");
    assert_eq!(
        shown(&daemon)[1][1],
        json!([{"prefix": "2001:db8::/32", "packets": 0}])
    );
}

#[test]
fn a_client_that_opens_too_many_connections_waits() {
    if privileged::skipped() {
        return;
    }
    let (topology, _servers) = topology();
    let lines = "rate = \"2/s\"";
    let daemon = Daemon::start(&topology, &config([lines, lines]));
    for vip in vips() {
        let start = Instant::now();
        let served = [(); 3].map(|()| is_served(&topology, vip));
        println!("three attempts took {:?}", start.elapsed());
        assert_eq!(served[..2], [true; 2]);
        // On a machine that stands still for half a second the third has its token.
        assert!(!served[2] || start.elapsed() > Duration::from_millis(500));
        // By then two tokens are back. A client whose SYN is lost sends it again.
        sleep(Duration::from_millis(1_100));
        for _ in 0..4 {
            topology
                .connect(vip, Duration::from_secs(5))
                .expect("it is served");
        }
    }
    let [denied, limited] = discards(&daemon);
    assert_eq!(denied, 0);
    assert!(limited.as_u64().expect("a number") >= 2, "{limited}");
}

/// `number` prefixes of a /24, from one on, none of which has the client.
fn prefixes(from: u32, number: u32) -> String {
    let mut lines = String::from("deny = [\n");
    for number in from..from + number {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + (number << 8));
        let _ = writeln!(lines, "  \"{address}/24\",");
    }
    lines + "]\n"
}

/// How long it takes is printed, not judged: that is the machine's business and what else it does.
#[test]
fn ten_thousand_prefixes_change_in_place() {
    if privileged::skipped() {
        return;
    }
    let (topology, _servers) = topology();
    let mut daemon = Daemon::start(&topology, &config(["", ""]));
    let whole = |lines: &str| {
        format!(
            "[dataplane]\ninterfaces = [\"outside\", \"inside\"]\n{}",
            config([lines, ""])
        )
    };
    let timed = |what: &str, work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        let took = start.elapsed();
        println!("{what}: {took:?}");
    };
    let reload = |lines: &str| {
        daemon.write(&whole(lines));
        daemon.ctl("reload");
    };
    timed("10,000 prefixes loaded", &mut || {
        reload(&prefixes(0, 10_000))
    });
    timed("10,000 others in their place", &mut || {
        reload(&prefixes(20_000, 10_000))
    });
    let with_client = prefixes(20_000, 10_000).replace("]", &format!("  \"{CLIENT}\",\n]"));
    timed("one more", &mut || reload(&with_client));
    assert!(!is_served(&topology, vips()[0]));
    let listed = daemon.json("list");
    let deny = listed["services"][0]["deny"].as_array().expect("a list");
    let counted: Vec<_> = deny.iter().filter(|rule| rule["packets"] != 0).collect();
    assert_eq!(counted, [&json!({"prefix": CLIENT, "packets": 1})]);
    timed("half of them gone", &mut || {
        reload(&prefixes(20_000, 5_000))
    });
    timed("all of them gone", &mut || reload(""));
    timed("65,536 prefixes", &mut || reload(&prefixes(0, 65_536)));
    timed("65,536 others in their place", &mut || {
        reload(&prefixes(70_000, 65_536))
    });
    timed("list", &mut || {
        let listed = daemon.json("list");
        let deny = listed["services"][0]["deny"].as_array().map(Vec::len);
        assert_eq!(deny, Some(65_536));
    });
    timed("another weight", &mut || {
        daemon.ctl("edit-real 192.168.0.2:80 --service tcp/192.0.2.80:80 -w 2 --runtime");
    });
    assert!(is_served(&topology, vips()[0]));
    daemon.process().kill().expect("it ran");
    timed("a new daemon", &mut || daemon.restart());
    assert!(is_served(&topology, vips()[0]));
}
