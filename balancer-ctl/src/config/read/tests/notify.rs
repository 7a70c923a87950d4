//! Programs that are run for events, good and bad, to the letter.

use super::*;

#[test]
fn a_notify_entry_is_read() {
    let text = r#"dataplane.interfaces = ["eth0"]
[[service]]
name = "web"
address = "192.0.2.80:80"
[[notify]]
on = ["real-down", "backups-in", "reload-failed"]
run = ["/usr/local/bin/alert", "--to", "ops"]
services = ["web", "192.0.2.80:80"]
timeout = "30s"
alert-after = "1m"
alert-every = "1h"
always-up = true
stdin = "mon"
"#;
    assert_eq!(
        model(text, "lb1").unwrap().notify,
        [Notify {
            user: None,
            on: vec![
                EventKind::RealDown,
                EventKind::BackupsIn,
                EventKind::ReloadFailed
            ],
            services: vec!["web".to_owned(), "tcp/192.0.2.80:80".to_owned()],
            run: ["/usr/local/bin/alert", "--to", "ops"]
                .map(str::to_owned)
                .to_vec(),
            timeout: Duration::from_secs(30),
            alert_after: Duration::from_secs(60),
            alert_every: Some(Duration::from_secs(3600)),
            always_up: true,
            stdin: Stdin::Mon,
        }]
    );
}

#[test]
fn errors_of_notify_are_reported_at_their_position() {
    let text = r#"dataplane.interfaces = ["eth0"]
[[notify]]
colour = "red"
[[notify]]
on = ["real-down", "active", "fire", "real-down"]
run = []
[[notify]]
on = []
run = ["alert"]
[[notify]]
on = "real-down"
run = ["/usr/local/bin/alert"]
services = ["web", "-", "1web"]
timeout = "0s"
alert-after = "8days"
alert-every = "0s"
always-up = "yes"
stdin = "text"
"#;
    let events = "`real-down`, `real-up`, `quorum-lost`, `quorum-regained`, `backups-in`, `backups-out`, `table-full`, \
                  `table-recovered`, `checks-stalled`, `checks-resumed`, `dataplane-out-of-sync`, `dataplane-in-sync`, `maintenance-failed`, `maintenance-recovered`, \
                  `routes-unwatched`, `routes-watched`, `file-out-of-sync`, `file-in-sync`, \
                  `service-added`, `service-changed`, `service-removed`, `real-added`, `real-changed`, `real-removed`, \
                  `virtual-router-added`, `virtual-router-changed`, `virtual-router-removed`, `active`, `backup`, `fault`, `node-down`, `node-up`, `reloaded` or `reload-failed`";
    assert_eq!(
        errors(text),
        [
            "2:1: notify has no events: add some, as in `on = [\"real-down\", \"real-up\"]`",
            "2:1: notify has no program: add one, as in `run = [\"/usr/local/bin/alert\", \"--verbose\"]`",
            "3:1: unknown key `colour` in `notify`: expected `on`, `run`, `user`, `services`, `timeout`, `alert-after`, \
             `alert-every`, `always-up` or `stdin`",
            &format!("5:30: event `fire` is not known: expected {events}"),
            "5:38: event `real-down` is named twice: name it once",
            "6:7: run is empty: name a program, as in `run = [\"/usr/local/bin/alert\"]`",
            "8:6: on is empty: name at least one event, as in `on = [\"real-down\", \"real-up\"]`",
            "9:7: program `alert` is no absolute path: write it from `/` on",
            "11:6: on must be a list of strings, as in [\"real-down\", \"real-up\"]",
            "13:20: `-` is no service: leave `services` out for all",
            "13:25: `1web` is not an address: write `192.0.2.80:80` or `[2001:db8::80]:80` (names are not looked up)",
            "14:11: timeout of 0s is out of range: 100ms to 1h",
            "15:15: alert-after of 8days is out of range: 0s to 7days",
            "16:15: alert-every of 0s is out of range: 1s to 7days",
            "17:13: always-up must be true or false",
            "18:9: stdin `text` is not known: expected `json` or `mon`",
        ]
    );
}
