//! trace: which real server a client would get.

use crate::{commands::busy, scene::Ran};

#[test]
fn trace_says_which_real_server_a_client_would_get_and_why() {
    let scene = busy();
    assert_eq!(
        scene.run("trace --client 198.51.100.7:40000 web"),
        Ran {
            status: 0,
            stdout: "198.51.100.7:40000 to tcp/192.168.1.35:80 gets 192.168.0.2:80\n  its turn comes next: slot 0 of 1 of rr\n"
                .to_owned(),
            stderr: String::new(),
        }
    );
    let ran = scene.run("trace --client 192.168.1.10:40001 192.168.1.35:80");
    assert_eq!(
        ran.stdout,
        "192.168.1.10:40001 to tcp/192.168.1.35:80 gets 192.168.0.3:80\n  the client has a connection from this port\n"
    );
    let ran = scene.run("trace --json --client 198.51.100.7:40000 web");
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(
        answer,
        serde_json::json!({
            "client": "198.51.100.7:40000",
            "protocol": "tcp",
            "service": "192.168.1.35:80",
            "real": "192.168.0.2:80",
            "by": "scheduler", "full_nat": false,
            "reason": "its turn comes next: slot 0 of 1 of rr",
        })
    );
}

#[test]
fn a_client_that_cannot_be_is_refused() {
    let scene = busy();
    for (arguments, status, sentence) in [
        (
            "trace --client [2001:db8::1]:40000 web",
            1,
            "error: client [2001:db8::1]:40000 is not of the family of service tcp/192.168.1.35:80: both must be IPv4 or both IPv6\n",
        ),
        (
            "trace --client 198.51.100.7:40000 nothing",
            1,
            "error: there is no service `nothing`: `list` shows all\n",
        ),
    ] {
        scene.refused(arguments, status, sentence);
    }
    for client in ["198.51.100.7", "198.51.100.7:0"] {
        let ran = scene.run(&format!("trace --client {client} web"));
        let sentence = format!(
            "`{client}` is no client's address and port: write `198.51.100.7:40000`, with a port in 1..=65535"
        );
        assert_eq!(ran.status, 2);
        assert!(ran.stderr.contains(&sentence), "{}", ran.stderr);
    }
}
