//! What is said of the configuration file on disk.

use std::{
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::*;

/// Takes what a look of the watch found, until it waits for nothing more than time.
fn follow(watch: &mut FileWatch, daemon: &mut Daemon) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let found = runtime.unwrap().block_on(watch.next());
    watch.finish(daemon, found);
}

/// The reasons in the status, after the file was looked at.
fn reasons(watch: &mut FileWatch, scene: &mut Scene) -> Vec<String> {
    let (reply, mut answer) = oneshot::channel();
    watch.reply_with_status(&mut scene.daemon, reply);
    loop {
        if let Ok(status) = answer.try_recv() {
            return status.unwrap().reasons;
        }
        follow(watch, &mut scene.daemon);
    }
}

#[test]
fn a_file_that_is_not_as_it_was_loaded_is_a_condition_until_it_is() {
    let mut scene = Scene::new();
    let mut watch = FileWatch::new();
    let path = scene.path().display().to_string();
    let none = [""; 0];
    assert_eq!(reasons(&mut watch, &mut scene), none);
    // As `touch` does, and as editors do that save what they loaded.
    fs::write(scene.path(), FILE).unwrap();
    assert_eq!(reasons(&mut watch, &mut scene), none);
    assert_eq!(scene.events(), none);

    let changed = format!("{path} has changed since it was loaded: `balancer-ctl reload` loads it");
    fs::write(scene.path(), FILE.replace("web", "shop")).unwrap();
    for _ in 0..2 {
        assert_eq!(reasons(&mut watch, &mut scene), [changed.as_str()]);
    }
    assert_eq!(scene.events(), [format!("file-out-of-sync {changed}")]);

    let wrong = |errors: &str| {
        format!("the configuration file has changed and no longer loads: {path}:{errors}")
    };
    let first = "6:8: `1web` is no name for a service: a letter, then up to 62 letters, digits, `.`, `_` or `-`";
    fs::write(scene.path(), FILE.replace("web", "1web")).unwrap();
    assert_eq!(reasons(&mut watch, &mut scene), [wrong(first)]);
    for (more, rest) in [
        ("weight = 70000\n", "1 more error"),
        ("weight = 70000\nlower = 1\n", "2 more errors"),
    ] {
        let text = FILE.replace("web", "1web") + more;
        fs::write(scene.path(), text).unwrap();
        let shown = format!("{first}; and {rest}");
        assert_eq!(reasons(&mut watch, &mut scene), [wrong(&shown)]);
    }

    fs::remove_file(scene.path()).unwrap();
    let gone = "No such file or directory (os error 2)";
    let unreadable = |error: &str| format!("{path} cannot be read any more ({error}): put it back");
    assert_eq!(reasons(&mut watch, &mut scene), [unreadable(gone)]);
    nix::unistd::mkfifo(&scene.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let pipe = "it is not a regular file";
    assert_eq!(reasons(&mut watch, &mut scene), [unreadable(pipe)]);
    fs::remove_file(scene.path()).unwrap();
    // The event told when it began; what follows is in the log.
    assert_eq!(scene.events(), none);
    fs::write(scene.path(), FILE).unwrap();
    assert_eq!(reasons(&mut watch, &mut scene), none);
    assert_eq!(scene.events(), ["file-in-sync"]);
}

#[test]
fn a_file_whose_reload_the_data_plane_refused_is_not_said_to_load() {
    let mut scene = Scene::new();
    let path = scene.path().display().to_string();
    let mut watch = FileWatch::new();
    fs::write(scene.path(), FILE.replace("web", "shop")).unwrap();
    scene.dataplane.state().configure_failures = 1;
    let refusal = scene.ask(Message::Reload).unwrap_err();
    let said = format!("{path} has changed since it was loaded, and its reload was refused: ");
    let of_file = |reasons: Vec<String>| {
        let mut of_file = reasons.into_iter();
        of_file.find(|reason| reason.starts_with(&path)).unwrap()
    };
    assert_eq!(
        of_file(reasons(&mut watch, &mut scene)),
        format!("{said}{}", refusal.sentence)
    );
    // Another file may load.
    fs::write(scene.path(), FILE.replace("web", "store")).unwrap();
    assert_eq!(
        of_file(reasons(&mut watch, &mut scene)),
        format!("{path} has changed since it was loaded: `balancer-ctl reload` loads it")
    );
}

#[test]
fn what_a_file_names_that_others_may_have_changed_is_not_looked_at() {
    let mut scene = Scene::new();
    let path = scene.path().display().to_string();
    let mut watch = FileWatch::new();
    // It would not load.
    fs::write(scene.path(), FILE.replace("web", "1web")).unwrap();
    fs::set_permissions(scene.path(), fs::Permissions::from_mode(0o646)).unwrap();
    let said = format!(
        "{path} has changed since it was loaded, and others than root may have done that: `{path}` can be written by others: \
         `chmod o-w {path}`"
    );
    assert_eq!(reasons(&mut watch, &mut scene), [said]);
}

#[test]
fn a_file_that_is_loaded_or_written_is_in_sync() {
    let mut scene = Scene::new();
    let mut watch = FileWatch::new();
    fs::write(scene.path(), FILE.replace("web", "shop")).unwrap();
    assert_eq!(reasons(&mut watch, &mut scene).len(), 1);
    scene.ask(Message::Reload).unwrap();
    let name = |event: &String| event.split(' ').next().unwrap_or_default().to_owned();
    let events: Vec<_> = scene.events().iter().map(name).collect();
    assert_eq!(
        events,
        [
            "file-out-of-sync",
            "file-in-sync",
            "service-changed",
            "reloaded"
        ]
    );
    assert_eq!(reasons(&mut watch, &mut scene), [""; 0]);
    // A look that began before the change compares the new file with what was there before.
    let (reply, mut answer) = oneshot::channel();
    watch.reply_with_status(&mut scene.daemon, reply);
    let web = RealSettings::default();
    let change = Request::AddReal(named("shop"), real("10.0.0.3"), web);
    scene.change(change, Scope::File).unwrap();
    follow(&mut watch, &mut scene.daemon);
    follow(&mut watch, &mut scene.daemon);
    assert_eq!(answer.try_recv().unwrap().unwrap().reasons, [""; 0]);
    assert_eq!(scene.events(), ["real-added 10.0.0.3:80 weight 1, nat"]);
}

/// Whether the disk with the files of checks does not answer.
static IS_STUCK: AtomicBool = AtomicBool::new(false);

fn read_files(_: &Check) -> Option<(&'static str, String)> {
    while IS_STUCK.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
    }
    None
}

#[test]
fn a_disk_that_does_not_answer_keeps_nobody_waiting_and_is_said() {
    let (mut scene, text) = Scene::with_check(read_files);
    let path = scene.path();
    fs::write(&path, text.replace("web", "shop")).unwrap();
    let path = path.display().to_string();
    let of_file = |status: view::Status| {
        let mut reasons = status.reasons;
        reasons.retain(|reason| reason.contains(&path));
        reasons
    };

    IS_STUCK.store(true, Ordering::Relaxed);
    let mut watch = FileWatch::new();
    let began = Instant::now();
    let (reply, mut answer) = oneshot::channel();
    watch.reply_with_status(&mut scene.daemon, reply);
    follow(&mut watch, &mut scene.daemon);
    let wait = |watch: &mut FileWatch, scene: &mut Scene| {
        let deadline = watch.next_deadline().unwrap();
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        watch.advance(&mut scene.daemon);
    };
    wait(&mut watch, &mut scene);
    let status = answer.try_recv().unwrap().unwrap();
    assert_eq!(of_file(status), [""; 0]);
    assert!(began.elapsed() < Duration::from_secs(3));
    // No second thread looks meanwhile, and nobody waits again.
    let (reply, mut answer) = oneshot::channel();
    watch.reply_with_status(&mut scene.daemon, reply);
    assert!(answer.try_recv().is_ok());
    wait(&mut watch, &mut scene);
    let silent = format!("{path}, or a file or user that it names, does not answer");
    assert_eq!(of_file(scene.daemon.status().unwrap()), [silent.as_str()]);
    assert_eq!(watch.next_deadline(), None);

    IS_STUCK.store(false, Ordering::Relaxed);
    follow(&mut watch, &mut scene.daemon);
    let changed = format!("{path} has changed since it was loaded: `balancer-ctl reload` loads it");
    assert_eq!(of_file(scene.daemon.status().unwrap()), [changed]);
    assert_eq!(scene.events(), [format!("file-out-of-sync {silent}")]);
}
