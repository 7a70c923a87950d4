//! What the loaded program is made of.

use balancer_tests::{
    dataplane::{Options, run_with},
    privileged,
};

/// Debug lines cost nothing while they are off: the level is a constant of the load, and the verifier drops what
/// it rules out. Every log line reserves its place in the ring buffer `AYA_LOGS`: where no instruction names that
/// map, none logs.
#[test]
fn debug_lines_that_are_off_leave_no_instruction() {
    if privileged::skipped() {
        return;
    }
    let measure = |log_level| {
        let mut measured = None;
        run_with(
            Options {
                log_level,
                ..Options::default()
            },
            |lb| {
                let info = lb.program_info();
                let verified = info
                    .verified_instruction_count()
                    .expect("Linux 5.16 tells it");
                let translated = info.size_translated().expect("the size");
                measured = Some((verified, translated, lb.instructions_with_map("AYA_LOGS")));
            },
        );
        measured.expect("the closure ran")
    };
    let (verified_off, size_off, uses_off) = measure(0);
    let (verified_on, size_on, uses_on) = measure(5);
    println!(
        "log off: {verified_off} instructions verified, {size_off} bytes, {uses_off} log calls"
    );
    println!("log on:  {verified_on} instructions verified, {size_on} bytes, {uses_on} log calls");
    assert!(verified_off < verified_on);
    assert!(size_off < size_on);
    assert!(uses_on > 0);
    assert_eq!(uses_off, 0);
}
