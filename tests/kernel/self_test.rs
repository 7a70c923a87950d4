//! The packet program's self-test.

use balancer_ctl::dataplane::self_test::{run_once, run_with_port};
use balancer_tests::privileged;

#[test]
fn the_program_passes_its_self_test_with_and_without_log_lines() {
    if privileged::skipped() {
        return;
    }
    let namespace = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let home = namespace();
    for level in [0, 5] {
        run_once(level).unwrap();
    }
    assert_eq!(namespace(), home, "this thread stayed where it was");
}

#[test]
fn a_wrong_answer_is_refused_with_a_sentence() {
    if privileged::skipped() {
        return;
    }
    let error = run_with_port(0, 8081).unwrap_err().to_string();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(
        error,
        format!(
            "this kernel's verifier ({}) has made another program of the packet program: in a trial run a client's SYN (IPv4) came out \
             wrong from byte 37 on. It is not attached, since connections would fail in silence; run another kernel, and please report \
             this one",
            release.trim()
        )
    );
}
