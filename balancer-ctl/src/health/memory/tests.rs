use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::{
    health::{AdvisedWeight, checker},
    model::{
        AdminState,
        check::{Check, Exchange, Initial, Probe, Source, Target, Timing},
    },
};

const BOOT: &str = "bd1f4a5e-0000-4000-8000-000000000001";

fn watched(port: u16) -> Watched {
    Watched {
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

fn at(milliseconds: u64) -> Moment {
    Moment {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + milliseconds),
        since_boot: Duration::from_millis(5_000_000 + milliseconds),
    }
}

/// Up at 1 s with this advice, down at 2 s.
fn checker(watched: &Watched, advice: Advice) -> Checker {
    let mut checker = Checker::begin(&watched.check, None, Vec::new(), &at(0));
    let passed = checker::Input::Passed {
        note: "\"fine\"\n".to_owned(),
        advice,
    };
    let failed = checker::Input::Failed {
        reason: "refused".to_owned(),
    };
    for (second, input) in [(1, passed), (2, failed)] {
        let done = checker::Done {
            began: at(second * 1000),
            latency: Duration::ZERO,
            input,
        };
        checker.finish(done, &at(second * 1000));
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
fn what_was_written_is_read_whole() {
    let scene = Scene::new();
    let advice = Advice {
        weight: Some(AdvisedWeight::Percent(30)),
        state: Some(AdminState::Drain),
        down: Some("failed: disk full".to_owned()),
    };
    let writer = scene.writer();
    let mut written = Vec::new();
    for (id, advice) in [(7, advice), (8, Advice::default())] {
        let watched = watched(u16::try_from(id).unwrap());
        let checker = checker(&watched, advice);
        writer.put(CheckerId(id), line(&watched, &checker));
        written.push((watched, checker));
    }
    drop(writer);
    let mut remembered = read(&scene.path(), BOOT);
    for (watched, checker) in written {
        assert_eq!(remembered.standing(&watched), Some(checker.standing()));
        assert_eq!(checker.history(), &remembered.take_history(&watched));
        assert_eq!(remembered.standing(&watched), None, "it is taken");
    }
    assert_eq!(remembered.standing(&watched(9)), None);
    let mode = fs::metadata(scene.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let left = fs::read_dir(scene.path().parent().unwrap())
        .unwrap()
        .count();
    assert_eq!(left, 1, "nothing lies beside it");
}

#[test]
fn another_check_of_the_same_target_is_another() {
    let scene = Scene::new();
    let writer = scene.writer();
    let known = watched(1);
    let checker = checker(&known, Advice::default());
    writer.put(CheckerId(1), line(&known, &checker));
    drop(writer);
    let mut other = known.clone();
    other.check.timing.fall += 1;
    let remembered = read(&scene.path(), BOOT);
    assert!(remembered.standing(&known).is_some());
    assert_eq!(remembered.standing(&other), None);
}

#[test]
fn what_is_gone_or_undecided_is_not_remembered() {
    let scene = Scene::new();
    let writer = scene.writer();
    let (gone, kept, undecided) = (watched(1), watched(2), watched(3));
    for (id, watched) in [(1, &gone), (2, &kept)] {
        let checker = checker(watched, Advice::default());
        writer.put(CheckerId(id), line(watched, &checker));
    }
    let fresh = Checker::begin(&undecided.check, None, Vec::new(), &at(0));
    writer.put(CheckerId(3), line(&undecided, &fresh));
    writer.remove(CheckerId(1));
    drop(writer);
    let remembered = read(&scene.path(), BOOT);
    let known: Vec<bool> = [gone, kept, undecided]
        .iter()
        .map(|watched| remembered.standing(watched).is_some())
        .collect();
    assert_eq!(known, [false, true, false]);
}

#[test]
fn after_the_host_started_again_nothing_counts() {
    let scene = Scene::new();
    let writer = scene.writer();
    let known = watched(1);
    writer.put(
        CheckerId(1),
        line(&known, &checker(&known, Advice::default())),
    );
    drop(writer);
    let another = BOOT.replace('1', "2");
    assert_eq!(read(&scene.path(), &another).standing(&known), None);
    assert!(read(&scene.path(), BOOT).standing(&known).is_some());
}

#[test]
fn a_file_that_is_damaged_or_missing_is_begun_anew() {
    let scene = Scene::new();
    assert_eq!(try_read(&scene.path(), BOOT).unwrap().0.len(), 0);
    fs::create_dir(scene.path().parent().unwrap()).unwrap();
    let head = format!(r#"{{"version":1,"boot_id":"{BOOT}"}}"#);
    for damaged in [
        String::new(),
        "\n".to_owned(),
        "\0\0\0\0".to_owned(),
        head[..head.len() - 3].to_owned(),
        format!("{head}\n{{\"watched\":{{}}\n"),
        format!("{head}\n\u{0}"),
    ] {
        fs::write(scene.path(), &damaged).unwrap();
        assert!(try_read(&scene.path(), BOOT).is_err(), "{damaged:?}");
        assert_eq!(read(&scene.path(), BOOT).0.len(), 0, "{damaged:?}");
    }
    fs::write(scene.path(), [0xff, 0xfe]).unwrap();
    assert!(try_read(&scene.path(), BOOT).is_err());
    let writer = scene.writer();
    let known = watched(1);
    writer.put(
        CheckerId(1),
        line(&known, &checker(&known, Advice::default())),
    );
    drop(writer);
    assert!(read(&scene.path(), BOOT).standing(&known).is_some());
}

#[test]
fn the_file_stays_as_it_is_until_there_is_something_to_write() {
    let scene = Scene::new();
    fs::create_dir(scene.path().parent().unwrap()).unwrap();
    fs::write(scene.path(), "as it was").unwrap();
    drop(scene.writer());
    assert_eq!(fs::read_to_string(scene.path()).unwrap(), "as it was");
}

#[test]
fn a_file_that_cannot_be_written_stops_nothing() {
    let writer = Writer::start("/proc/balancer/health.json".into(), BOOT).unwrap();
    let known = watched(1);
    for _ in 0..3 {
        writer.put(
            CheckerId(1),
            line(&known, &checker(&known, Advice::default())),
        );
    }
    drop(writer);
}

#[test]
fn many_changes_are_written_together() {
    let scene = Scene::new();
    let writer = scene.writer();
    let known = watched(1);
    let checker = checker(&known, Advice::default());
    let began = Instant::now();
    let mut inodes = std::collections::HashSet::new();
    while began.elapsed() < WRITE_EVERY * 4 {
        for id in 0..50 {
            writer.put(CheckerId(id), line(&known, &checker));
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
