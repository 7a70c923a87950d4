//! A configuration file that cannot be replaced: a change is refused as a whole, with what to do.

use std::{fs, process::Command, thread};

use balancer_tests::privileged;

use crate::scene::Scene;

/// Puts something in the file's way, until it is dropped.
struct Obstacle(String);

impl Obstacle {
    fn new(make: &str, undo: &str) -> Self {
        sh(make);
        Self(undo.to_owned())
    }
}

impl Drop for Obstacle {
    fn drop(&mut self) {
        // A second panic would end all tests.
        if !runs(&self.0) && !thread::panicking() {
            panic!("{}", self.0);
        }
    }
}

fn sh(script: &str) {
    assert!(runs(script), "{script}");
}

fn runs(script: &str) -> bool {
    let status = Command::new("sh").args(["-c", script]).status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn a_change_that_cannot_be_written_is_refused_with_what_removes_the_obstacle() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::tutorial();
    let file = scene.file().display().to_string();
    let folder = scene.file().parent().expect("a folder").to_owned();
    let count = || fs::read_dir(&folder).expect("read the folder").count();
    let folder = folder.display();
    for (make, undo, said) in [
        (
            format!("mount --bind {file} {file}"),
            format!("umount {file}"),
            format!(
                "cannot replace {file}: Device or resource busy (os error 16); nothing was changed: {file} is a mount of its own, as in \
                 a container: mount its folder instead, so that the file can be replaced, or use --runtime"
            ),
        ),
        (
            format!("chattr +i {file}"),
            format!("chattr -i {file}"),
            format!(
                "cannot replace {file}: Operation not permitted (os error 1); nothing was changed: if `lsattr -d {file}` shows an \
                 `i`, it is immutable: `chattr -i {file}`, or use --runtime"
            ),
        ),
        (
            format!("chattr +i {folder}"),
            format!("chattr -i {folder}"),
            format!(
                "cannot write {file}: Operation not permitted (os error 1); nothing was changed: if `lsattr -d {folder}` shows \
                 an `i`, it is immutable: `chattr -i {folder}`, or use --runtime"
            ),
        ),
        // Behind a link, what is in the way is what it leads to.
        (
            format!("mv {file} {folder}/real && ln -s real {file} && chattr +i {folder}/real"),
            format!("chattr -i {folder}/real; mv {folder}/real {file}; rm -f {folder}/real~"),
            format!(
                "cannot replace {file}: Operation not permitted (os error 1); nothing was changed: if `lsattr -d {folder}/real` \
                 shows an `i`, it is immutable: `chattr -i {folder}/real`, or use --runtime"
            ),
        ),
        (
            format!(
                "mkdir {folder}/full && mount -t tmpfs -o nr_inodes=2 none {folder}/full && mv {file} {folder}/full/real \
                 && ln -s full/real {file}"
            ),
            format!("mv {folder}/full/real {file} && umount {folder}/full && rmdir {folder}/full"),
            format!(
                "cannot write {file}: No space left on device (os error 28); nothing was changed: make room on its disk, or use \
                 --runtime"
            ),
        ),
        (
            format!("mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"),
            format!("umount -l {folder}"),
            format!(
                "cannot write {file}: Read-only file system (os error 30); nothing was changed: {folder} is read-only for balancerd: \
                 make it writable (`mount -o remount,rw`, or ReadWritePaths= in a systemd unit), or use --runtime"
            ),
        ),
    ] {
        let obstacle = Obstacle::new(&make, &undo);
        let before = count();
        for arguments in [
            "add-service 192.168.1.35:81",
            "del-service web",
            "clear --yes",
        ] {
            scene.refused(arguments, 1, &format!("error: {said}\n"));
        }
        // It goes on without the file, as the sentence says.
        scene.done("add-service 192.168.1.35:81 --runtime");
        scene.done("del-service 192.168.1.35:81 --runtime");
        assert_eq!(count(), before, "nothing is left beside the file");
        drop(obstacle);
        scene.done("add-service 192.168.1.35:81");
        scene.done("del-service 192.168.1.35:81");
    }
}
