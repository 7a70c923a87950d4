//! The settings of a service and its real servers that say how it reacts to its checks.

use super::*;

#[test]
fn settings_out_of_range_are_reported() {
    let text = r#"dataplane.interfaces = ["eth0"]
[[service]]
address = "192.0.2.80:80"
on-down = "reset-after"
slow-start = "2days"
quorum = 0
hysteresis = -1
backups = "some"
[[service.real]]
address = "10.0.0.2"
state = "draining"
backup = 1
[[service]]
address = "192.0.2.80:81"
on-down = "reset-after 25h"
quorum = 2
hysteresis = 2
"#;
    assert_eq!(
        errors(text),
        [
            "4:11: on-down `reset-after` is not known: expected `keep`, `reset` or `reset-after DURATION`, as in \"reset-after 30s\"",
            "5:14: slow-start of 2days is out of range: 0s to 1day",
            "6:10: quorum 0 is out of range: 1..=1000000000",
            "7:14: hysteresis -1 is out of range: 0..=1000000000",
            "8:11: backups `some` is not known: expected `first` or `all`",
            "11:9: state `draining` is not known: expected `ready`, `drain` or `maintenance`",
            "12:10: backup must be true or false",
            "15:11: on-down reset-after of 1day 1h is out of range: 1ms to 1day",
            "17:14: hysteresis 2 is not less than quorum 2: make it less, or the quorum could never be lost",
        ]
    );
}
