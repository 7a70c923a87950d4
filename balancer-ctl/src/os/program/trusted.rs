//! Which files may run as root: those that only root can change.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

/// Most symbolic links in a path; the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Permission bits: writable by the group, writable by others.
const GROUP_WRITE: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
/// Permission bits: executable by owner, group or others; root needs one of them.
const ANY_EXECUTE: u32 = 0o111;

/// Checks that root may run a program: it exists, and nobody else can change it, a directory above it or a link to it.
/// Returns its path with all links resolved.
///
/// # Errors
/// A sentence that says why it may not run.
pub fn program(path: &Path) -> Result<PathBuf, String> {
    if !path.is_absolute() {
        return Err(format!(
            "program `{}` is not an absolute path: write it in full, as in `/usr/local/bin/alert`",
            path.display()
        ));
    }
    // That the program does not exist is the more helpful error, so it comes before that of an open directory.
    let ResolvedPath { rights, end } = resolve(path);
    let (found, facts) = end?;
    rights?;
    check_program_file(&found, &facts)?;
    Ok(found)
}

/// Checks that a path may be an argument of a program that runs its arguments: nobody but root can decide what it leads to,
/// even if nothing exists there yet. Returns the program that it leads to, if it is one.
///
/// # Errors
/// A sentence that says why it may not.
pub fn argument(path: &Path) -> Result<Option<PathBuf>, String> {
    let ResolvedPath { rights, end } = resolve(path);
    rights?;
    let Some((found, facts)) = end.ok().filter(|(_, facts)| facts.kind == FileKind::File) else {
        return Ok(None);
    };
    check_file(&found, &facts)?;
    Ok((facts.mode & ANY_EXECUTE != 0).then_some(found))
}

/// Result of following a path.
struct ResolvedPath {
    /// The sentence of the first directory on the path that others can change.
    rights: Result<(), String>,
    /// The file at its end, or why there is none.
    end: Result<(PathBuf, FileInfo), String>,
}

/// Follows a path link by link, as the kernel does, and checks every directory on it.
fn resolve(path: &Path) -> ResolvedPath {
    let mut rights = Ok(());
    let end = visit(path, |at, facts| {
        if rights.is_ok() {
            rights = check_directory(at, facts);
        }
    });
    ResolvedPath { rights, end }
}

fn visit(
    path: &Path,
    mut pass: impl FnMut(&Path, &FileInfo),
) -> Result<(PathBuf, FileInfo), String> {
    let mut links = 0;
    let mut ahead: VecDeque<OsString> = components(path);
    let mut at = PathBuf::from("/");
    let mut facts = FileInfo::of(&at)?;
    while let Some(step) = ahead.pop_front() {
        if facts.kind != FileKind::Directory {
            return Err(format!("`{}` is not a directory", at.display()));
        }
        pass(&at, &facts);
        if step == ".." {
            at.pop();
            facts = FileInfo::of(&at)?;
            continue;
        }
        let next = at.join(&step);
        facts = FileInfo::of(&next)?;
        if facts.kind != FileKind::Link {
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
        facts = FileInfo::of(&at)?;
    }
    Ok((at, facts))
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

fn check_program_file(path: &Path, facts: &FileInfo) -> Result<(), String> {
    let shown = path.display();
    match facts.kind {
        FileKind::File => {}
        FileKind::Directory => return Err(format!("`{shown}` is a directory, not a program")),
        FileKind::Link | FileKind::Other => return Err(format!("`{shown}` is not a regular file")),
    }
    if facts.mode & ANY_EXECUTE == 0 {
        return Err(format!(
            "`{shown}` is not executable: `chmod 755 {shown}`, if it is a program"
        ));
    }
    check_file(path, facts)
}

/// Checks that only root can write to a file.
fn check_file(path: &Path, facts: &FileInfo) -> Result<(), String> {
    let shown = path.display();
    let Some(flaw) = flaw(facts) else {
        return Ok(());
    };
    let mend = match flaw {
        Flaw::Owner(_) => "chown root",
        Flaw::Others => "chmod o-w",
        Flaw::Group => "chmod g-w",
    };
    Err(format!(
        "`{shown}` {flaw}, and the program would run as root: `{mend} {shown}`, or move the program elsewhere"
    ))
}

/// Who can write to a directory can put another program in the place of the one there; the sticky bit of `/tmp` does
/// not keep them from a name that is still free. Others may rely on the directory's rights, so that none is advised to
/// change them.
fn check_directory(path: &Path, facts: &FileInfo) -> Result<(), String> {
    let shown = path.display();
    flaw(facts).map_or(Ok(()), |flaw| {
        Err(format!(
            "`{shown}` {flaw}, and the program would run as root: move the program to a folder that only root may \
             write to"
        ))
    })
}

/// Why others than root can change a file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    Owner(u32),
    Others,
    Group,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(owner) => write!(f, "belongs to user {owner}, not to root"),
            Self::Others => f.write_str("can be written by others"),
            Self::Group => f.write_str("can be written by its group"),
        }
    }
}

const fn flaw(facts: &FileInfo) -> Option<Flaw> {
    if facts.owner != 0 {
        Some(Flaw::Owner(facts.owner))
    } else if facts.mode & OTHERS_WRITE != 0 {
        Some(Flaw::Others)
    } else if facts.mode & GROUP_WRITE != 0 {
        Some(Flaw::Group)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const fn facts(kind: FileKind, owner: u32, mode: u32) -> FileInfo {
        FileInfo { kind, owner, mode }
    }

    #[test]
    fn each_way_in_which_a_file_is_not_to_be_run_has_its_sentence() {
        let path = Path::new("/opt/alert");
        for (facts, sentence) in [
            (facts(FileKind::File, 0, 0o755), ""),
            (facts(FileKind::File, 0, 0o100), ""),
            (facts(FileKind::File, 0, 0o4755), ""),
            (
                facts(FileKind::Directory, 0, 0o755),
                "`/opt/alert` is a directory, not a program",
            ),
            (
                facts(FileKind::Other, 0, 0o755),
                "`/opt/alert` is not a regular file",
            ),
            (
                facts(FileKind::File, 0, 0o644),
                "`/opt/alert` is not executable: `chmod 755 /opt/alert`, if it is a program",
            ),
            (
                facts(FileKind::File, 1000, 0o755),
                "`/opt/alert` belongs to user 1000, not to root, and the program would run as root: \
                 `chown root /opt/alert`, or move the program elsewhere",
            ),
            (
                facts(FileKind::File, 0, 0o775),
                "`/opt/alert` can be written by its group, and the program would run as root: \
                 `chmod g-w /opt/alert`, or move the program elsewhere",
            ),
            (
                facts(FileKind::File, 0, 0o777),
                "`/opt/alert` can be written by others, and the program would run as root: \
                 `chmod o-w /opt/alert`, or move the program elsewhere",
            ),
        ] {
            let told = check_program_file(path, &facts).err().unwrap_or_default();
            assert_eq!(told, sentence, "{facts:?}");
        }
    }

    #[test]
    fn each_way_in_which_a_directory_is_open_has_its_sentence() {
        let path = Path::new("/opt");
        for (facts, sentence) in [
            (facts(FileKind::Directory, 0, 0o755), ""),
            (
                facts(FileKind::Directory, 7, 0o755),
                "`/opt` belongs to user 7, not to root, and the program would run as root: move the program to a \
                 folder that only root may write to",
            ),
            (
                facts(FileKind::Directory, 0, 0o2775),
                "`/opt` can be written by its group, and the program would run as root: move the program to a folder \
                 that only root may write to",
            ),
            (
                facts(FileKind::Directory, 0, 0o1777),
                "`/opt` can be written by others, and the program would run as root: move the program to a folder \
                 that only root may write to",
            ),
        ] {
            let told = check_directory(path, &facts).err().unwrap_or_default();
            assert_eq!(told, sentence, "{facts:?}");
        }
    }

    #[test]
    fn the_systems_own_programs_are_trusted_through_their_links() {
        for path in ["/bin/sh", "/usr/bin/env", "/usr/../bin/./sh"] {
            assert!(program(Path::new(path)).is_ok(), "{path}");
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
            let told = program(Path::new(path)).unwrap_err();
            assert!(told.ends_with(sentence), "{path}: {told}");
        }
    }

    #[test]
    fn a_trusted_program_behind_a_link_that_others_can_change_is_refused() {
        // Wherever this lies: below it or above it, the directory of the link is the tester's or everybody's.
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let link = directory.path().join("alert");
        symlink("/bin/sh", &link).unwrap();
        let told = program(&link).unwrap_err();
        assert!(
            told.starts_with("`/tmp` can be written by others"),
            "{told}"
        );
    }

    #[test]
    fn links_that_go_round_end() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        symlink("b", directory.join("a")).unwrap();
        symlink("a", directory.join("b")).unwrap();
        assert!(program(&directory.join("a")).is_err());
        // Wherever this lies, that is told first.
        let told = resolve(&directory.join("a")).end.unwrap_err();
        assert!(
            told.ends_with("goes through too many symbolic links"),
            "{told}"
        );
    }
}
