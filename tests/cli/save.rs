//! save and restore: the lines of `ipvsadm -S -n`.

use std::{
    fs,
    io::Write as _,
    process::{Output, Stdio},
};

use crate::scene::{FILE, Ran, Scene};

const LINES: &str = "\
-A -t 192.168.1.35:80 -s rr
-a -t 192.168.1.35:80 -r 192.168.0.2:80 -m -w 1
-a -t 192.168.1.35:80 -r 192.168.0.3:80 -m -w 3
-A -u [2001:db8::35]:53 -s wrr
-a -u [2001:db8::35]:53 -r [2001:db8:1::2]:53 -m -w 1
";

impl Scene {
    /// Runs a command line with this on its standard input.
    fn given(&self, arguments: &str, input: &[u8]) -> Ran {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
        // One that refuses its arguments does not read.
        let _ = child.stdin.take().expect("a pipe").write_all(input);
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().expect("it ends");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Ran {
            status: status.code().expect("it exits"),
            stdout: text(stdout),
            stderr: text(stderr),
        }
    }

    #[track_caller]
    fn restored(&self, arguments: &str, input: &str, stdout: &str) {
        let expected = Ran {
            status: 0,
            stdout: stdout.to_owned(),
            stderr: String::new(),
        };
        assert_eq!(self.given(arguments, input.as_bytes()), expected);
    }

    #[track_caller]
    fn not_restored(&self, input: &[u8], stderr: &str) {
        let before = (self.text(), self.dataplane.state().services.clone());
        let expected = Ran {
            status: 1,
            stdout: String::new(),
            stderr: stderr.to_owned(),
        };
        for arguments in ["restore", "restore --dry-run", "restore --runtime"] {
            assert_eq!(self.given(arguments, input), expected, "{arguments}");
            let after = (self.text(), self.dataplane.state().services.clone());
            assert_eq!(after, before, "nothing may change");
        }
    }
}

#[test]
fn what_save_prints_is_restored_and_what_it_leaves_out_is_said() {
    let scene = Scene::tutorial();
    let left_out = "\
# service tcp/192.168.1.35:80: these lines do not hold name
# service udp/[2001:db8::35]:53: these lines do not hold no-real
";
    for arguments in ["save", "save -n"] {
        let saved = scene.run(arguments);
        let expected = Ran {
            status: 0,
            stdout: LINES.to_owned(),
            stderr: left_out.to_owned(),
        };
        assert_eq!(saved, expected, "{arguments}");
    }
    let json: serde_json::Value = serde_json::from_str(&scene.done("save --json")).expect("JSON");
    let left_out = left_out.lines().map(|line| line.trim_start_matches("# "));
    assert_eq!(
        json,
        serde_json::json!({
            "lines": LINES.lines().collect::<Vec<_>>(),
            "left_out": left_out.collect::<Vec<_>>(),
        })
    );
    // Over what was saved, and the comments of standard error with it.
    let text = scene.text();
    let both = format!("{}{LINES}", scene.run("save").stderr);
    scene.restored(
        "restore",
        &both,
        "the services are as the lines say already\n",
    );
    scene.restored("--json restore", LINES, "{}\n");
    assert_eq!(scene.text(), text);
    // On another node.
    let other = Scene::new();
    let added = "\
service-added tcp/192.168.1.35:80 scheduler rr
real-added tcp/192.168.1.35:80 192.168.0.2:80 weight 1, nat
real-added tcp/192.168.1.35:80 192.168.0.3:80 weight 3, nat
service-added udp/[2001:db8::35]:53 scheduler wrr
real-added udp/[2001:db8::35]:53 [2001:db8:1::2]:53 weight 1, nat
";
    other.restored("restore --dry-run", LINES, added);
    assert_eq!(other.text(), FILE);
    other.restored("restore", LINES, added);
    assert_eq!(other.run("save").stdout, LINES);
    assert_eq!(Scene::new().done("save"), "");
}

#[test]
fn restore_replaces_all_services_and_keeps_what_lines_do_not_hold() {
    let scene = Scene::tutorial();
    scene.done("edit-service web --check http -p 300");
    scene.done("drain 192.168.0.2 --service web");
    let before = scene.text();
    let lines = "-A -t 192.168.1.35:80 -s wlc\n-a -t 192.168.1.35:80 -r 192.168.0.2:80 -m -w 5\n";
    let changes = "\
service-removed udp/[2001:db8::35]:53
service-changed tcp/192.168.1.35:80 scheduler rr -> wlc, persistence 5m -> none
real-removed tcp/192.168.1.35:80 192.168.0.3:80
real-changed tcp/192.168.1.35:80 192.168.0.2:80 weight 1 -> 5
";
    scene.restored("restore --dry-run", lines, changes);
    assert_eq!(scene.text(), before);
    scene.restored("restore", lines, changes);
    assert_eq!(
        scene.text(),
        format!(
            "{FILE}\n[[service]]\nname = \"web\"\naddress = \"192.168.1.35:80\"\nscheduler = \"wlc\"\n\n\
             [service.check]\ntype = \"http\"\n\n\
             [[service.real]]\naddress = \"192.168.0.2:80\"\nstate = \"drain\"\nweight = 5\n"
        )
    );
    let old = scene.file().with_extension("toml~");
    assert_eq!(fs::read_to_string(old).expect("it is kept"), before);
    // With --runtime the file stays.
    let text = scene.text();
    let again = lines.replace("-w 5", "-w 6");
    let change = "real-changed tcp/192.168.1.35:80 192.168.0.2:80 weight 5 -> 6\n";
    scene.restored("restore --runtime", &again, change);
    assert_eq!(scene.text(), text);
    let json = "{\n  \"notes\": [\n    \"only the configuration file changes: what it says runs already\"\n  ]\n}\n";
    scene.restored("restore --json", &again, json);
    assert_eq!(scene.text(), text.replace("weight = 5", "weight = 6"));
}

#[test]
fn one_line_that_cannot_be_restored_is_reason_enough_to_change_nothing() {
    let scene = Scene::tutorial();
    let lines = format!(
        "{LINES}-A -f 1 -s rr\n-a -t 192.168.1.35:80 -r 192.168.0.4:80 -g -w 1\n-A -t 192.168.1.36:80 -s best ops\n"
    );
    scene.not_restored(
        lines.as_bytes(),
        "error: nothing was changed:\n\
         line 6: `-f 1`: a service has an address and a port here, and no firewall mark\n\
         line 7: `-g`: direct routing is not offered, real servers are reached by NAT (-m) only\n\
         line 8: `-s best`: expected `rr`, `wrr`, `lc`, `wlc`, `sed`, `nq`, `sh`, `dh`, `mh`, `fo`, `ovf` or `twos`\n\
         line 8: `ops`: one-packet scheduling is not offered\n",
    );
    scene.not_restored(
        format!("{LINES}-a -t 192.168.1.35:80 -r [2001:db8::4]:80 -m\n").as_bytes(),
        "error: nothing was changed:\nline 6: real [2001:db8::4]:80 is not of the family of service tcp/192.168.1.35:80: both must be IPv4 or both IPv6\n",
    );
    scene.not_restored(
        b"# nothing\n\n",
        "error: no line adds a service (-A), so nothing was changed: `clear` deletes all services\n",
    );
    scene.not_restored(b"\xff\n", "error: standard input is not UTF-8\n");
}

#[test]
fn thousands_of_services_are_restored_at_once() {
    let mut lines = String::new();
    for service in 0..2000 {
        let (third, fourth) = (service / 250, service % 250 + 1);
        let vip = format!("172.16.{third}.{fourth}:80");
        lines.push_str(&format!("-A -t {vip} -s rr\n"));
        for real in 1..=10 {
            lines.push_str(&format!("-a -t {vip} -r 10.0.{real}.{fourth}:80 -m -w 1\n"));
        }
    }
    let scene = Scene::new();
    let ran = scene.given("restore", lines.as_bytes());
    let warnings: Vec<_> = ran.stderr.lines().collect();
    assert_eq!((ran.status, warnings.len()), (0, 11));
    assert_eq!(
        warnings[10],
        "warning: 1990 more VIPs are carried by no interface"
    );
    assert_eq!(scene.run("save").stdout, lines);
}
