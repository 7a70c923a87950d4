//! What the loaded program is made of.

use std::collections::BTreeMap;

use aya::{EbpfLoader, programs::Program};
use balancer_ctl::dataplane::object::OBJECT;
use balancer_tests::{
    dataplane::{Options, run_with},
    emulated,
    initial::Content,
    privileged,
    switches::{SWITCHES, combinations, globals},
};

/// Debug lines cost nothing while they are off: the level is a constant of the load, and the verifier drops what
/// it rules out. Every log line reserves its place in the ring buffer `AYA_LOGS`: where no instruction names that
/// map, none logs.
#[test]
fn debug_lines_that_are_off_leave_no_instruction() {
    if privileged::skipped() || emulated::skipped() {
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

/// The verifier takes the program with every combination of what the daemon may set when it loads it.
#[test]
fn the_object_loads_in_every_combination_of_its_switches() {
    if privileged::skipped() {
        return;
    }
    let sizes: BTreeMap<_, _> = globals(OBJECT).into_iter().collect();
    for combination in combinations(&SWITCHES) {
        let values: Vec<_> = SWITCHES
            .iter()
            .zip(&combination)
            .map(|(switch, value)| {
                let size = sizes[switch.name];
                (switch.name, value.to_le_bytes()[..size].to_vec())
            })
            .collect();
        let mut loader = EbpfLoader::new();
        // The verifier does not look at what is made for half a million rows.
        for table in ["CONNTRACK_V4", "CONNTRACK_V6"] {
            loader.map_max_entries(table, 512);
        }
        for (name, value) in &values {
            loader.override_global(name, value.as_slice(), true);
        }
        let mut ebpf = loader
            .load(OBJECT)
            .unwrap_or_else(|error| panic!("{values:?}: {error:?}"));
        for (name, program) in ebpf.programs_mut() {
            let loaded = match program {
                Program::Xdp(program) => program.load(),
                Program::RawTracePoint(program) => program.load(),
                _ => panic!("this test does not know how to load the program {name}"),
            };
            loaded.unwrap_or_else(|error| panic!("{values:?}, program {name}: {error:#}"));
        }
    }
}

/// What the verifier may have to follow of each program, in instructions, on any kernel: it gives up at a million.
const BUDGETS: [(&str, u32); 8] = [
    ("balancer", 460_000),
    ("clock", 100),
    ("open_connection", 900_000),
    ("renew", 50_000),
    ("trace", 250_000),
    ("walk_headers", 900_000),
    ("full_nat", 700_000),
    ("translate_error", 200_000),
];

#[test]
fn every_program_stays_within_its_budget() {
    run_with(Options::default(), |lb| {
        let mut exceeded = Vec::new();
        for (name, budget) in BUDGETS {
            lb.loaded(name);
            let info = lb.info_of(name);
            let verified = info
                .verified_instruction_count()
                .expect("Linux 5.16 tells it");
            println!("{name}: {verified} instructions verified, budget {budget}");
            if verified > budget {
                exceeded.push(name);
            }
        }
        assert!(exceeded.is_empty(), "{exceeded:?}");
    });
}

/// Tests use a loaded object one after the other: each finds the maps as after the load.
#[test]
fn maps_are_restored_to_what_they_were_after_the_load() {
    if emulated::skipped() {
        return;
    }
    let options = Options {
        // No other test has this size: this one's object is its own, and new.
        max_connections: 77,
        ..Options::default()
    };
    let mut new = Vec::new();
    run_with(options, |lb| {
        new = lb.contents();
        lb.fill();
        let full = lb.contents();
        let all: Vec<_> = full.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(filled(&full), all);
    });
    // The same object: nobody else had it in between.
    run_with(options, |lb| {
        assert_eq!(lb.contents(), new);
    });
}

/// Names of the maps that hold anything.
fn filled(contents: &[(String, Vec<Content>)]) -> Vec<&str> {
    contents
        .iter()
        .filter(|(_, contents)| !contents.is_empty())
        .map(|(name, _)| name.as_str())
        .collect()
}
