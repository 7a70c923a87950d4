//! Which files an account may run for the daemon: those that only root and that account itself can change.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use super::account::Account;

/// Most symbolic links in a path; the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Permission bits: writable by the group, writable by others.
const GROUP_WRITE: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
/// Permission bits: executable by owner, group or others; root needs one of them.
const ANY_EXECUTE: u32 = 0o111;
/// Permission bit of a directory in which only the owner of a file may remove or rename it.
const STICKY: u32 = 0o1000;

/// Checks that a program may run as `account`: it exists, and nobody but root and that account can change it, a directory above
/// it or a link to it. Returns its path with all links resolved.
///
/// # Errors
/// A sentence that says why it may not run.
pub fn check_program(path: &Path, account: &Account) -> Result<PathBuf, String> {
    if !path.is_absolute() {
        return Err(format!(
            "program `{}` is not an absolute path: write it in full, as in `/usr/local/bin/alert`",
            path.display()
        ));
    }
    // That the program does not exist is the more helpful error, so it comes before that of an open directory.
    let ResolvedPath { rights, end } = resolve(path, account);
    let (found, info) = end?;
    rights?;
    check_program_file(&found, &info, account)?;
    Ok(found)
}

/// Checks that a path may be an argument of a program that runs its arguments: nobody but root and `account` can decide what it
/// leads to, even if nothing exists there yet. Returns the program that it leads to, if it is one.
///
/// # Errors
/// A sentence that says why it may not.
pub fn check_argument(path: &Path, account: &Account) -> Result<Option<PathBuf>, String> {
    let ResolvedPath { rights, end } = resolve(path, account);
    rights?;
    let Some((found, info)) = end.ok().filter(|(_, info)| info.kind == FileKind::File) else {
        return Ok(None);
    };
    check_file(&found, &info, account)?;
    Ok((info.mode & ANY_EXECUTE != 0).then_some(found))
}

/// Result of following a path.
struct ResolvedPath {
    /// The sentence of the first directory on the path that others can change.
    rights: Result<(), String>,
    /// The file at its end, or why there is none.
    end: Result<(PathBuf, FileInfo), String>,
}

/// Follows a path link by link, as the kernel does, and checks every directory on it.
fn resolve(path: &Path, account: &Account) -> ResolvedPath {
    let mut rights = Ok(());
    let end = visit(path, |at, info, entry| {
        if rights.is_ok() {
            rights = check_directory(at, info, entry, account);
        }
    });
    ResolvedPath { rights, end }
}

/// Calls `pass` with each directory on the path, and with the entry that is looked up in it, if that exists and is not `..`.
fn visit(
    path: &Path,
    mut pass: impl FnMut(&Path, &FileInfo, Option<&FileInfo>),
) -> Result<(PathBuf, FileInfo), String> {
    let mut links = 0;
    let mut ahead: VecDeque<OsString> = components(path);
    let mut at = PathBuf::from("/");
    let mut info = FileInfo::of(&at)?;
    while let Some(step) = ahead.pop_front() {
        if info.kind != FileKind::Directory {
            return Err(format!("`{}` is not a directory", at.display()));
        }
        if step == ".." {
            pass(&at, &info, None);
            at.pop();
            info = FileInfo::of(&at)?;
            continue;
        }
        let next = at.join(&step);
        let entry = FileInfo::of(&next);
        pass(&at, &info, entry.as_ref().ok());
        info = entry?;
        if info.kind != FileKind::Link {
            at = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(format!(
                "program `{}` goes through too many symbolic links",
                path.display()
            ));
        }
        let target = fs::read_link(&next).map_err(|error| unreadable(&next, &error))?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        for step in components(&target).into_iter().rev() {
            ahead.push_front(step);
        }
        info = FileInfo::of(&at)?;
    }
    Ok((at, info))
}

/// The names in a path, including `..`.
fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

/// Type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    File,
    Directory,
    Link,
    Other,
}

/// Type, owner and permissions of a file.
#[derive(Clone, Copy, Debug)]
struct FileInfo {
    kind: FileKind,
    /// User id of the owner.
    owner: u32,
    /// Permission bits. With an access control list, the group's bits are its mask, so they cover it.
    mode: u32,
    /// Number of hard links.
    links: u64,
}

impl FileInfo {
    fn of(path: &Path) -> Result<Self, String> {
        let metadata = fs::symlink_metadata(path).map_err(|error| unreadable(path, &error))?;
        let kind = match metadata.file_type() {
            kind if kind.is_file() => FileKind::File,
            kind if kind.is_dir() => FileKind::Directory,
            kind if kind.is_symlink() => FileKind::Link,
            _ => FileKind::Other,
        };
        Ok(Self {
            kind,
            owner: metadata.uid(),
            mode: metadata.mode(),
            links: metadata.nlink(),
        })
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    let path = path.display();
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("`{path}` does not exist"),
        std::io::ErrorKind::NotADirectory => format!("`{path}` is below a file"),
        _ => format!("`{path}` cannot be read: {error}"),
    }
}

fn check_program_file(path: &Path, info: &FileInfo, account: &Account) -> Result<(), String> {
    let shown = path.display();
    match info.kind {
        FileKind::File => {}
        FileKind::Directory => return Err(format!("`{shown}` is a directory, not a program")),
        FileKind::Link | FileKind::Other => return Err(format!("`{shown}` is not a regular file")),
    }
    if info.mode & ANY_EXECUTE == 0 {
        return Err(format!(
            "`{shown}` is not executable: `chmod 755 {shown}`, if it is a program"
        ));
    }
    check_file(path, info, account)
}

/// Checks that only root and the account can write to a file.
fn check_file(path: &Path, info: &FileInfo, account: &Account) -> Result<(), String> {
    let shown = path.display();
    let Some(flaw) = flaw(info, account) else {
        return Ok(());
    };
    let remedy = match flaw {
        Flaw::Owner(..) => "chown root",
        Flaw::Others => "chmod o-w",
        Flaw::Group => "chmod g-w",
    };
    Err(format!(
        "`{shown}` {flaw}, and the program would run as {account}: `{remedy} {shown}`, or move the program elsewhere"
    ))
}

/// Checks that only root and the account can decide what `entry` of a directory is. Who can write to the directory can replace its
/// entries. The exception is a sticky directory of root's, such as `/tmp`: there nobody but root and its owner can remove or
/// rename an entry. A file with several hard links does not count as such: others may have made the one in this directory. Names that
/// do not exist there yet can be taken by others. Programs may rely on a directory's permissions, so the sentence advises
/// moving the program, not changing them.
fn check_directory(
    path: &Path,
    info: &FileInfo,
    entry: Option<&FileInfo>,
    account: &Account,
) -> Result<(), String> {
    let shown = path.display();
    let is_safe = |entry: &FileInfo| {
        account.trusts(entry.owner) && (entry.kind == FileKind::Directory || entry.links == 1)
    };
    if info.owner == 0 && info.mode & STICKY != 0 && entry.is_some_and(is_safe) {
        return Ok(());
    }
    flaw(info, account).map_or(Ok(()), |flaw| {
        Err(format!(
            "`{shown}` {flaw}, and the program would run as {account}: move the program to a folder that only {} may \
             write to",
            account.and_root("or")
        ))
    })
}

/// Why others can change a file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw<'a> {
    Owner(u32, &'a Account),
    Others,
    Group,
}

impl fmt::Display for Flaw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(owner, account) => {
                write!(
                    f,
                    "belongs to user {owner}, not to {}",
                    account.and_root("or")
                )
            }
            Self::Others => f.write_str("can be written by others"),
            Self::Group => f.write_str("can be written by its group"),
        }
    }
}

const fn flaw<'a>(info: &FileInfo, account: &'a Account) -> Option<Flaw<'a>> {
    if !account.trusts(info.owner) {
        Some(Flaw::Owner(info.owner, account))
    } else if info.mode & OTHERS_WRITE != 0 {
        Some(Flaw::Others)
    } else if info.mode & GROUP_WRITE != 0 {
        Some(Flaw::Group)
    } else {
        None
    }
}

#[cfg(test)]
pub mod tests {
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
            let told = check_program_file(path, &info, &Account::root())
                .err()
                .unwrap_or_default();
            assert_eq!(told, sentence, "{info:?}");
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
            let told = check_directory(path, &info, None, &Account::root())
                .err()
                .unwrap_or_default();
            assert_eq!(told, sentence, "{info:?}");
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
            let checked = check_program_file(path, &info(FileKind::File, owner, mode), &account);
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
            let told = check_program(Path::new(path), &Account::root()).unwrap_err();
            assert!(told.ends_with(sentence), "{path}: {told}");
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
        let told = resolve(&directory.join("a"), &Account::root())
            .end
            .unwrap_err();
        assert!(
            told.ends_with("goes through too many symbolic links"),
            "{told}"
        );
    }
}
