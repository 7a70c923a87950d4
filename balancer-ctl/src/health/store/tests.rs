use std::{os::unix::fs::PermissionsExt as _, path::PathBuf, thread, time::Instant};

use super::{writer::WRITE_INTERVAL, *};
use crate::{
    health::{Outcome, RequestedWeight, checker, schedule::CheckerId},
    model::{
        AdminState, Protocol,
        check::{Check, Exchange, Initial, Probe, Source, Target, Timing},
    },
};

const BOOT: &str = "bd1f4a5e-0000-4000-8000-000000000001";

fn check_target(port: u16) -> CheckTarget {
    CheckTarget {
        target: ([192, 168, 0, 2], port).into(),
        check: Check {
            probe: Probe::Tcp(Exchange::default()),
            target: Target::default(),
            source: Source::default(),
            timing: Timing {
                rise: 1,
                fall: 1,
                initial: Initial::Down,
                ..Timing::default()
            },
        },
    }
}

fn web() -> ServiceKey {
    ServiceKey {
        protocol: Protocol::Tcp,
        address: ([192, 0, 2, 80], 80).into(),
    }
}

/// The stored state of a checker of this service.
fn check_state(stored: &StoredState, check_target: &CheckTarget) -> Option<CheckState> {
    let (check_state, _) = stored.check_state(check_target, &web(), check_target.target)?;
    Some(check_state)
}

fn at(milliseconds: u64) -> Timestamp {
    Timestamp {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + milliseconds),
        since_boot: Duration::from_millis(5_000_000 + milliseconds),
    }
}

/// Up at 1 s with this agent_reply, down at 2 s.
fn checker(check_target: &CheckTarget, agent_reply: AgentReply) -> Checker {
    let mut checker = Checker::new(&check_target.check, None, Vec::new(), &at(0));
    let passed = Outcome::Passed {
        note: "\"fine\"\n".to_owned(),
        agent_reply,
    };
    let failed = Outcome::Failed {
        reason: "refused".to_owned(),
    };
    for (second, outcome) in [(1, passed), (2, failed)] {
        let done = checker::FinishedProbe {
            began: at(second * 1000),
            latency: Duration::ZERO,
            outcome,
        };
        checker.record(done, &at(second * 1000));
    }
    checker
}

struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// In a directory that is not there yet.
    fn path(&self) -> PathBuf {
        self.directory.path().join("blue/health.json")
    }

    fn writer(&self) -> Writer {
        Writer::start(self.path(), BOOT).unwrap()
    }
}

#[test]
fn what_is_written_is_read_back() {
    let scene = Scene::new();
    let agent_reply = AgentReply {
        weight: Some(RequestedWeight::Percent(30)),
        state: Some(AdminState::Drain),
        down: Some("failed: disk full".to_owned()),
    };
    let writer = scene.writer();
    let mut written = Vec::new();
    for (id, agent_reply) in [(7, agent_reply), (8, AgentReply::default())] {
        let check_target = check_target(u16::try_from(id).unwrap());
        let checker = checker(&check_target, agent_reply);
        writer.put(CheckerId(id), check_target.clone().into(), checker.clone());
        written.push((check_target, checker));
    }
    drop(writer);
    let stored = read(&scene.path(), BOOT);
    for (check_target, checker) in written {
        assert_eq!(
            check_state(&stored, &check_target),
            Some(checker.check_state())
        );
        assert_eq!(checker.history(), &stored.history(&check_target));
    }
    assert_eq!(check_state(&stored, &check_target(9)), None);
    let mode = fs::metadata(scene.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let left = fs::read_dir(scene.path().parent().unwrap())
        .unwrap()
        .count();
    assert_eq!(left, 1, "nothing lies beside it");
}

/// Up since 1 s.
fn up(check_target: &CheckTarget) -> Checker {
    let mut checker = Checker::new(&check_target.check, None, Vec::new(), &at(0));
    let done = checker::FinishedProbe {
        began: at(1000),
        latency: Duration::ZERO,
        outcome: Outcome::Passed {
            note: "fine".to_owned(),
            agent_reply: AgentReply::default(),
        },
    };
    checker.record(done, &at(1000));
    checker
}

/// A check with another probe of the same target.
fn asking(check_target: &CheckTarget, expect: &str) -> CheckTarget {
    let mut other = check_target.clone();
    other.check.probe = Probe::Tcp(Exchange {
        send: expect.into(),
        expect: None,
    });
    other
}

#[test]
fn a_check_of_which_only_the_timing_changes_keeps_its_state() {
    let scene = Scene::new();
    let writer = scene.writer();
    let known = check_target(1);
    let checker = checker(&known, AgentReply::default());
    writer.put(CheckerId(1), known.clone().into(), checker.clone());
    drop(writer);
    let mut other = known.clone();
    other.check.timing = Timing {
        interval: Duration::from_secs(77),
        fast_interval: Some(Duration::from_secs(7)),
        timeout: Duration::from_secs(6),
        rise: 5,
        fall: 6,
        initial: Initial::Up,
    };
    let stored = read(&scene.path(), BOOT);
    assert_eq!(check_state(&stored, &other), Some(checker.check_state()));
    assert_eq!(checker.history(), &stored.history(&other));
}

#[test]
fn with_another_probe_a_known_real_server_stays_up_and_others_are_undecided() {
    let scene = Scene::new();
    let writer = scene.writer();
    let (one, two) = (check_target(1), check_target(2));
    writer.set_services(vec![ServiceLine::new(
        &web(),
        vec![one.target, two.target],
        None,
    )]);
    writer.put(CheckerId(1), one.clone().into(), up(&one));
    writer.put(CheckerId(2), two.clone().into(), up(&two));
    let failing = asking(&two, "b");
    let down = checker(&failing, AgentReply::default());
    writer.put(CheckerId(3), failing.into(), down);
    drop(writer);
    let stored = read(&scene.path(), BOOT);
    let expected = CheckState {
        up: true,
        decided: true,
        reason: "was up before the check changed".to_owned(),
        agent_reply: AgentReply::default(),
        since: at(1000),
    };
    let other = asking(&one, "c");
    assert_eq!(check_state(&stored, &other), Some(expected));
    assert_eq!(stored.history(&other), []);
    assert_eq!(check_state(&stored, &asking(&two, "c")), None);
    assert_eq!(check_state(&stored, &two), Some(up(&two).check_state()));
    // A service that is new, and a real server that is new in this one: neither was there.
    let mut mail = web();
    mail.address.set_port(25);
    assert_eq!(stored.check_state(&other, &mail, one.target), None);
    let new = ([192, 168, 0, 9], 1).into();
    assert_eq!(stored.check_state(&other, &web(), new), None);
    assert!(
        stored.check_state(&one, &mail, new).is_some(),
        "only the timing differs"
    );
}

#[test]
fn quorum_is_stored_with_its_beginning() {
    let scene = Scene::new();
    let writer = scene.writer();
    writer.set_services(vec![ServiceLine::new(&web(), vec![], Some((true, at(1))))]);
    writer.set_services(vec![ServiceLine::new(&web(), vec![], Some((false, at(2))))]);
    drop(writer);
    let stored = read(&scene.path(), BOOT);
    assert_eq!(stored.quorum(&web()), Some((false, at(2))));
    let mut mail = web();
    mail.address.set_port(25);
    assert_eq!(stored.quorum(&mail), None);
}

#[test]
fn the_file_contains_when_it_was_last_written() {
    let scene = Scene::new();
    let writer = scene.writer();
    let known = check_target(1);
    writer.put(CheckerId(1), known.clone().into(), up(&known));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !scene.path().exists() && Instant::now() < deadline {
        thread::yield_now();
    }
    let written = || {
        let written = read(&scene.path(), BOOT).written_at();
        written.expect("the time of writing").since_boot
    };
    let first = written();
    let mut stopped = Timestamp::now().since_boot;
    // The file has whole milliseconds.
    while stopped < first + Duration::from_millis(2) && Instant::now() < deadline {
        thread::yield_now();
        stopped = Timestamp::now().since_boot;
    }
    drop(writer);
    let last = written();
    let rounded = stopped - Duration::from_millis(1);
    assert!(first < rounded, "{first:?}, stopped at {stopped:?}");
    assert!(last > rounded, "{last:?}, stopped at {stopped:?}");
}

#[test]
fn a_first_pass_and_a_return_are_told_apart() {
    let scene = Scene::new();
    let writer = scene.writer();
    let (first, returned) = (check_target(1), check_target(2));
    writer.put(CheckerId(1), first.clone().into(), up(&first));
    let mut checker = checker(&returned, AgentReply::default());
    let done = checker::FinishedProbe {
        began: at(3000),
        latency: Duration::ZERO,
        outcome: Outcome::Passed {
            note: "fine".to_owned(),
            agent_reply: AgentReply::default(),
        },
    };
    checker.record(done, &at(3000));
    writer.put(CheckerId(2), returned.clone().into(), checker);
    drop(writer);
    let stored = read(&scene.path(), BOOT);
    let has_returned = [first, returned].map(|check_target| {
        let (_, has_returned) = stored
            .check_state(&check_target, &web(), check_target.target)
            .unwrap();
        has_returned
    });
    assert_eq!(has_returned, [false, true]);
}

#[test]
fn a_line_that_cannot_be_read_is_left_out_alone() {
    let scene = Scene::new();
    let writer = scene.writer();
    for id in [1, 2, 3] {
        let check_target = check_target(id);
        let checker = up(&check_target);
        writer.put(CheckerId(id.into()), check_target.into(), checker);
    }
    drop(writer);
    let text = fs::read_to_string(scene.path()).unwrap();
    let damaged: Vec<_> = text
        .lines()
        .map(|line| match line.contains("192.168.0.2:2") {
            true => &line[..line.len() / 2],
            false => line,
        })
        .collect();
    fs::write(scene.path(), damaged.join("\n")).unwrap();
    let stored = read(&scene.path(), BOOT);
    let known = [1, 2, 3].map(|port| check_state(&stored, &check_target(port)).is_some());
    assert_eq!(known, [true, false, true]);
}

#[test]
fn a_key_that_a_later_version_adds_changes_nothing() {
    let scene = Scene::new();
    let writer = scene.writer();
    let known = check_target(1);
    writer.put(CheckerId(1), known.clone().into(), up(&known));
    drop(writer);
    let text = fs::read_to_string(scene.path()).unwrap();
    let text = text.replace(r#""up":"#, r#""colour":"blue","up":"#);
    fs::write(scene.path(), text).unwrap();
    let check_state = check_state(&read(&scene.path(), BOOT), &known);
    assert_eq!(check_state, Some(up(&known).check_state()));
}

#[test]
fn removed_and_undecided_checkers_are_not_stored() {
    let scene = Scene::new();
    let writer = scene.writer();
    let (gone, kept, undecided) = (check_target(1), check_target(2), check_target(3));
    for (id, check_target) in [(1, &gone), (2, &kept)] {
        let checker = checker(check_target, AgentReply::default());
        writer.put(CheckerId(id), check_target.clone().into(), checker);
    }
    let fresh = Checker::new(&undecided.check, None, Vec::new(), &at(0));
    writer.put(CheckerId(3), undecided.clone().into(), fresh);
    writer.remove(CheckerId(1));
    drop(writer);
    let stored = read(&scene.path(), BOOT);
    let known: Vec<bool> = [gone, kept, undecided]
        .iter()
        .map(|check_target| check_state(&stored, check_target).is_some())
        .collect();
    assert_eq!(known, [false, true, false]);
}

#[test]
fn after_a_reboot_the_file_is_ignored() {
    let scene = Scene::new();
    let writer = scene.writer();
    let known = check_target(1);
    writer.put(
        CheckerId(1),
        known.clone().into(),
        checker(&known, AgentReply::default()),
    );
    drop(writer);
    let another = BOOT.replace('1', "2");
    assert_eq!(check_state(&read(&scene.path(), &another), &known), None);
    assert!(check_state(&read(&scene.path(), BOOT), &known).is_some());
}

#[test]
fn a_damaged_or_missing_file_is_written_anew() {
    let scene = Scene::new();
    assert_eq!(try_read(&scene.path(), BOOT).unwrap().checkers.len(), 0);
    fs::create_dir(scene.path().parent().unwrap()).unwrap();
    let head =
        format!(r#"{{"version":3,"boot_id":"{BOOT}","written":{{"time":1,"since_boot":1}}}}"#);
    for damaged in [
        String::new(),
        "\n".to_owned(),
        "\0\0\0\0".to_owned(),
        head[..head.len() - 3].to_owned(),
    ] {
        fs::write(scene.path(), &damaged).unwrap();
        assert!(try_read(&scene.path(), BOOT).is_err(), "{damaged:?}");
        assert_eq!(read(&scene.path(), BOOT).checkers.len(), 0, "{damaged:?}");
    }
    fs::write(scene.path(), [0xff, 0xfe]).unwrap();
    assert!(try_read(&scene.path(), BOOT).is_err());
    let writer = scene.writer();
    let known = check_target(1);
    writer.put(
        CheckerId(1),
        known.clone().into(),
        checker(&known, AgentReply::default()),
    );
    drop(writer);
    assert!(check_state(&read(&scene.path(), BOOT), &known).is_some());
}

#[test]
fn the_file_is_not_touched_until_there_is_something_to_write() {
    let scene = Scene::new();
    fs::create_dir(scene.path().parent().unwrap()).unwrap();
    fs::write(scene.path(), "as it was").unwrap();
    drop(scene.writer());
    assert_eq!(fs::read_to_string(scene.path()).unwrap(), "as it was");
}

#[test]
fn what_could_not_be_written_is_written_once_it_can_be() {
    let scene = Scene::new();
    // A file where the directory should be.
    let path = scene.path();
    let parent = path.parent().unwrap();
    fs::write(parent, "in the way").unwrap();
    let put = |writer: &Writer, port: u16| {
        let known = check_target(port);
        let checker = checker(&known, AgentReply::default());
        writer.put(CheckerId(port.into()), known.into(), checker);
    };
    let known = || {
        let stored = read(&path, BOOT);
        [1, 2].map(|port| check_state(&stored, &check_target(port)).is_some())
    };
    let writer = scene.writer();
    put(&writer, 1);
    drop(writer);
    assert_eq!(fs::read_to_string(parent).unwrap(), "in the way");
    let writer = scene.writer();
    put(&writer, 1);
    fs::remove_file(parent).unwrap();
    put(&writer, 2);
    drop(writer);
    assert_eq!(known(), [true, true]);
}

#[test]
fn many_changes_are_written_together() {
    let scene = Scene::new();
    let writer = scene.writer();
    let known = check_target(1);
    let checker = checker(&known, AgentReply::default());
    let began = Instant::now();
    let mut inodes = std::collections::HashSet::new();
    while began.elapsed() < WRITE_INTERVAL * 4 {
        for id in 0..50 {
            writer.put(CheckerId(id), known.clone().into(), checker.clone());
        }
        if let Ok(metadata) = fs::metadata(scene.path()) {
            inodes.insert((
                std::os::unix::fs::MetadataExt::ino(&metadata),
                metadata.modified().unwrap(),
            ));
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert!((1..=5).contains(&inodes.len()), "{} writings", inodes.len());
    drop(writer);
    let text = fs::read_to_string(scene.path()).unwrap();
    assert_eq!(text.lines().count(), 51);
}
