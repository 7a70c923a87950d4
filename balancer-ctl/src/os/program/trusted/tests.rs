//! Which programs are refused, and with which sentence.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

const fn info(kind: FileKind, owner: u32, mode: u32) -> FileInfo {
    FileInfo {
        kind,
        owner,
        mode,
        links: 1,
    }
}

/// A directory in which everybody may replace files, and the sentence with which a path through it is refused. Tests that
/// do not run as root cannot even have one in `/tmp` that root's programs may lie in.
pub fn open_folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let is_roots = fs::metadata(folder.path()).unwrap().uid() == 0;
    let open = if is_roots {
        folder.path()
    } else {
        Path::new("/tmp")
    };
    let sentence = format!(
        "`{}` can be written by others, and the program would run as root: move the program to a folder that only \
         root may write to",
        open.display()
    );
    (folder, sentence)
}

#[test]
fn each_way_in_which_a_file_is_not_to_be_run_has_its_sentence() {
    let path = Path::new("/opt/alert");
    for (info, sentence) in [
        (info(FileKind::File, 0, 0o755), ""),
        (info(FileKind::File, 0, 0o100), ""),
        (info(FileKind::File, 0, 0o4755), ""),
        (
            info(FileKind::Directory, 0, 0o755),
            "`/opt/alert` is a directory, not a program",
        ),
        (
            info(FileKind::Other, 0, 0o755),
            "`/opt/alert` is not a regular file",
        ),
        (
            info(FileKind::File, 0, 0o644),
            "`/opt/alert` is not executable: `chmod 755 /opt/alert`, if it is a program",
        ),
        (
            info(FileKind::File, 1000, 0o755),
            "`/opt/alert` belongs to user 1000, not to root, and the program would run as root: \
             `chown root /opt/alert`, or move the program elsewhere",
        ),
        (
            info(FileKind::File, 0, 0o775),
            "`/opt/alert` can be written by its group, and the program would run as root: \
             `chmod g-w /opt/alert`, or move the program elsewhere",
        ),
        (
            info(FileKind::File, 0, 0o777),
            "`/opt/alert` can be written by others, and the program would run as root: \
             `chmod o-w /opt/alert`, or move the program elsewhere",
        ),
    ] {
        let error = check_program_file(&FoundFile::new(path, path), &info, &Account::root())
            .err()
            .unwrap_or_default();
        assert_eq!(error, sentence, "{info:?}");
    }
}

#[test]
fn each_way_in_which_a_directory_is_open_has_its_sentence() {
    let path = Path::new("/opt");
    for (info, sentence) in [
        (info(FileKind::Directory, 0, 0o755), ""),
        (
            info(FileKind::Directory, 7, 0o755),
            "`/opt` belongs to user 7, not to root, and the program would run as root: move the program to a \
             folder that only root may write to",
        ),
        (
            info(FileKind::Directory, 0, 0o2775),
            "`/opt` can be written by its group, and the program would run as root: move the program to a folder \
             that only root may write to",
        ),
        (
            info(FileKind::Directory, 0, 0o1777),
            "`/opt` can be written by others, and the program would run as root: move the program to a folder \
             that only root may write to",
        ),
    ] {
        let error = check_directory(path, &info, None, &Account::root())
            .err()
            .unwrap_or_default();
        assert_eq!(error, sentence, "{info:?}");
    }
}

#[test]
fn roots_own_file_is_safe_in_a_sticky_directory_of_roots() {
    let directory = |owner, mode| info(FileKind::Directory, owner, mode);
    let entry = |kind, owner, links| FileInfo {
        links,
        ..info(kind, owner, 0o755)
    };
    let own = entry(FileKind::File, 0, 1);
    let open = Path::new("/tmp");
    for (directory, entry, is_safe) in [
        (directory(0, 0o1777), Some(own), true),
        (directory(0, 0o1775), Some(own), true),
        (
            directory(0, 0o1777),
            Some(entry(FileKind::Link, 0, 1)),
            true,
        ),
        (
            directory(0, 0o1777),
            Some(entry(FileKind::Directory, 0, 5)),
            true,
        ),
        // Another user's, one that another user may have linked there, and a name that is free.
        (
            directory(0, 0o1777),
            Some(entry(FileKind::File, 7, 1)),
            false,
        ),
        (
            directory(0, 0o1777),
            Some(entry(FileKind::File, 0, 2)),
            false,
        ),
        (directory(0, 0o1777), None, false),
        // Not sticky, or of another user, who may remove anything.
        (directory(0, 0o777), Some(own), false),
        (directory(7, 0o1777), Some(own), false),
    ] {
        let checked = check_directory(open, &directory, entry.as_ref(), &Account::root());
        assert_eq!(checked.is_ok(), is_safe, "{directory:?} {entry:?}");
    }
}

#[test]
fn a_program_of_roots_in_the_sticky_tmp_is_trusted_and_one_in_a_folder_open_to_all_is_not() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let path = folder.path().join("alert");
    fs::write(&path, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    if fs::metadata(&path).unwrap().uid() == 0 {
        assert_eq!(check_program(&path, &Account::root()), Ok(path.clone()));
    }
    let (open, sentence) = open_folder();
    let moved = open.path().join("alert");
    fs::rename(path, &moved).unwrap();
    assert_eq!(check_program(&moved, &Account::root()), Err(sentence));
}

#[test]
fn who_else_can_decide_what_a_file_says_is_told_with_the_remedy() {
    let outer = tempfile::tempdir_in("/tmp").unwrap();
    let folder = outer.path().join("own");
    let path = folder.join("balancer.toml");
    let link = outer.path().join("link.toml");
    fs::create_dir(&folder).unwrap();
    fs::write(&path, "").unwrap();
    symlink(&path, &link).unwrap();
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let (shown, within) = (path.display(), folder.display());
    let move_it =
        "let only root write to it, or move the file to a folder that only root may write to";
    for (file, directory, sentence) in [
        (0o644, 0o755, None),
        (0o600, 0o700, None),
        (
            0o664,
            0o755,
            Some(format!(
                "`{shown}` can be written by its group: `chmod g-w {shown}`"
            )),
        ),
        (
            0o646,
            0o755,
            Some(format!(
                "`{shown}` can be written by others: `chmod o-w {shown}`"
            )),
        ),
        (
            0o644,
            0o775,
            Some(format!("`{within}` can be written by its group: {move_it}")),
        ),
        (
            0o666,
            0o777,
            Some(format!("`{within}` can be written by others: {move_it}")),
        ),
    ] {
        set(&path, file);
        set(&folder, directory);
        assert_eq!(
            check_origin(&path).err(),
            sentence,
            "{file:o} {directory:o}"
        );
        // Through a link, whose owner decides where it leads, no command is advised.
        let sentence = sentence.map(|said| match said.split_once(": `chmod") {
            Some((flaw, _)) => format!("{flaw}: let only root write to it"),
            None => said,
        });
        assert_eq!(
            check_origin(&link).err(),
            sentence,
            "{file:o} {directory:o}"
        );
    }
    set(&path, 0o644);
    set(&folder, 0o755);
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // A sticky folder keeps root's own file from being replaced, and nobody else's, nor a link of somebody else's.
    set(&folder, 0o1777);
    assert_eq!(check_origin(&path), Ok(()));
    std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
    assert_eq!(
        check_origin(&path).err(),
        Some(format!("`{within}` can be written by others: {move_it}"))
    );
    set(&folder, 0o755);
    assert_eq!(
        check_origin(&path).err(),
        Some(format!(
            "`{shown}` belongs to user 65534, not to root: `chown root {shown}`"
        ))
    );
    std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
    set(outer.path(), 0o1777);
    let around = outer.path().display();
    assert_eq!(
        check_origin(&link).err(),
        Some(format!("`{around}` can be written by others: {move_it}"))
    );
}

#[test]
fn a_program_may_belong_to_the_account_that_runs_it() {
    let account = Account {
        name: "monitor".to_owned(),
        user: nix::unistd::Uid::from_raw(1000),
        ..Account::root()
    };
    let path = Path::new("/opt/alert");
    let run_as = "and the program would run as monitor";
    for (owner, mode, sentence) in [
        (0, 0o755, String::new()),
        (1000, 0o755, String::new()),
        (
            7,
            0o755,
            format!(
                "`/opt/alert` belongs to user 7, not to root or monitor, {run_as}: `chown root /opt/alert`, or move the program elsewhere"
            ),
        ),
        (
            1000,
            0o775,
            format!(
                "`/opt/alert` can be written by its group, {run_as}: `chmod g-w /opt/alert`, or move the program elsewhere"
            ),
        ),
    ] {
        let checked = check_program_file(
            &FoundFile::new(path, path),
            &info(FileKind::File, owner, mode),
            &account,
        );
        assert_eq!(checked.err().unwrap_or_default(), sentence);
    }
    let folder = info(FileKind::Directory, 7, 0o755);
    assert_eq!(
        check_directory(Path::new("/opt"), &folder, None, &account),
        Err(format!(
            "`/opt` belongs to user 7, not to root or monitor, {run_as}: move the program to a folder that only root \
             or monitor may write to"
        ))
    );
}

#[test]
fn the_systems_own_programs_are_trusted_through_their_links() {
    for path in ["/bin/sh", "/usr/bin/env", "/usr/../bin/./sh"] {
        assert!(
            check_program(Path::new(path), &Account::root()).is_ok(),
            "{path}"
        );
    }
}

#[test]
fn a_path_that_leads_nowhere_is_refused() {
    for (path, sentence) in [
        (
            "bin/sh",
            "program `bin/sh` is not an absolute path: write it in full, as in `/usr/local/bin/alert`",
        ),
        ("/nowhere/alert", "`/nowhere` does not exist"),
        // Not that others can write to /tmp.
        (
            "/tmp/no-such-program",
            "`/tmp/no-such-program` does not exist",
        ),
        ("/bin/sh/alert", "is not a directory"),
        ("/usr", "`/usr` is a directory, not a program"),
        ("/dev/null", "`/dev/null` is not a regular file"),
    ] {
        let error = check_program(Path::new(path), &Account::root()).unwrap_err();
        assert!(error.ends_with(sentence), "{path}: {error}");
    }
}

#[test]
fn a_trusted_program_behind_a_link_that_others_can_change_is_refused() {
    let (folder, sentence) = open_folder();
    let link = folder.path().join("alert");
    symlink("/bin/sh", &link).unwrap();
    assert_eq!(check_program(&link, &Account::root()), Err(sentence));
}

#[test]
fn links_that_go_round_end() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().canonicalize().unwrap();
    symlink("b", directory.join("a")).unwrap();
    symlink("a", directory.join("b")).unwrap();
    assert!(check_program(&directory.join("a"), &Account::root()).is_err());
    // The directory may belong to the user who runs the test, which is reported first.
    let error = resolve(&directory.join("a"), &Account::root())
        .end
        .unwrap_err();
    assert!(
        error.ends_with("goes through too many symbolic links"),
        "{error}"
    );
}

#[test]
fn no_command_is_advised_for_what_somebody_else_may_have_chosen() {
    let path = Path::new("/opt/alert");
    let shadow = Path::new("/etc/shadow");
    let not_executable = info(FileKind::File, 0, 0o640);
    let open = info(FileKind::File, 0, 0o757);
    let checked = |configured: &Path, found: &Path, info: &FileInfo| {
        let found = FoundFile::new(configured, found);
        check_program_file(&found, info, &Account::root()).unwrap_err()
    };
    // A link's owner decides where it leads.
    assert_eq!(
        checked(path, shadow, &not_executable),
        "`/etc/shadow` is not executable"
    );
    assert_eq!(
        checked(path, shadow, &open),
        "`/etc/shadow` can be written by others, and the program would run as root: move the program elsewhere"
    );
    // Pasted into a shell, it would be more than a path.
    let strange = Path::new("/opt/e;reboot #");
    assert_eq!(
        checked(strange, strange, &not_executable),
        "`/opt/e;reboot #` is not executable"
    );
}
