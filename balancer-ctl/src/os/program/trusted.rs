//! Which programs may run as root: those that none but root can change.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

/// Symbolic links that a path may go through; the kernel's own limit.
const MOST_LINKS: usize = 40;

/// Bits of a mode: written by the group, written by others.
const BY_GROUP: u32 = 0o020;
const BY_OTHERS: u32 = 0o002;
/// Run by owner, group or others: root needs one of them.
const RUN_BY_ANY: u32 = 0o111;

/// Whether root may run the program: it is there, and nobody else can change it, a directory above it or a link to it.
/// Returns where it is behind its links.
///
/// # Errors
/// It may not: a sentence.
pub fn program(path: &Path) -> Result<PathBuf, String> {
    if !path.is_absolute() {
        return Err(format!(
            "program `{}` is not an absolute path: write it in full, as in `/usr/local/bin/alert`",
            path.display()
        ));
    }
    // That a directory is open to others is told last: of a program that is not there, it would be no help.
    let Way { rights, end } = walk(path);
    let (found, facts) = end?;
    rights?;
    judge_program(&found, &facts)?;
    Ok(found)
}

/// Whether a program that runs what it is given may be given this path: nobody else may decide what it leads to, be it
/// nothing so far. Returns the program that it leads to, if it is one.
///
/// # Errors
/// It may not: a sentence.
pub fn argument(path: &Path) -> Result<Option<PathBuf>, String> {
    let Way { rights, end } = walk(path);
    rights?;
    let Some((found, facts)) = end.ok().filter(|(_, facts)| facts.kind == Kind::File) else {
        return Ok(None);
    };
    judge_file(&found, &facts)?;
    Ok((facts.mode & RUN_BY_ANY != 0).then_some(found))
}

/// Where a path leads.
struct Way {
    /// Whether any directory on it is open to others: the first that is.
    rights: Result<(), String>,
    /// Where it ends, or why it does not get there.
    end: Result<(PathBuf, Facts), String>,
}

/// Follows a path link by link as the kernel does, and judges every directory on the way.
fn walk(path: &Path) -> Way {
    let mut rights = Ok(());
    let end = follow(path, |at, facts| {
        if rights.is_ok() {
            rights = judge_directory(at, facts);
        }
    });
    Way { rights, end }
}

fn follow(path: &Path, mut pass: impl FnMut(&Path, &Facts)) -> Result<(PathBuf, Facts), String> {
    let mut links = 0;
    let mut ahead: VecDeque<OsString> = steps(path);
    let mut at = PathBuf::from("/");
    let mut facts = Facts::of(&at)?;
    while let Some(step) = ahead.pop_front() {
        if facts.kind != Kind::Directory {
            return Err(format!("`{}` is not a directory", at.display()));
        }
        pass(&at, &facts);
        if step == ".." {
            at.pop();
            facts = Facts::of(&at)?;
            continue;
        }
        let next = at.join(&step);
        facts = Facts::of(&next)?;
        if facts.kind != Kind::Link {
            at = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(format!(
                "program `{}` goes through too many symbolic links",
                path.display()
            ));
        }
        let target = fs::read_link(&next).map_err(|error| unreadable(&next, &error))?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        for step in steps(&target).into_iter().rev() {
            ahead.push_front(step);
        }
        facts = Facts::of(&at)?;
    }
    Ok((at, facts))
}

/// The names in a path, `..` among them.
fn steps(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Link,
    Other,
}

/// What the file system says of a name.
#[derive(Clone, Copy, Debug)]
struct Facts {
    kind: Kind,
    /// Owner.
    owner: u32,
    /// Permissions. An access list shows in the group's bits, which are its mask.
    mode: u32,
}

impl Facts {
    fn of(path: &Path) -> Result<Self, String> {
        let metadata = fs::symlink_metadata(path).map_err(|error| unreadable(path, &error))?;
        let kind = match metadata.file_type() {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_symlink() => Kind::Link,
            _ => Kind::Other,
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

fn judge_program(path: &Path, facts: &Facts) -> Result<(), String> {
    let shown = path.display();
    match facts.kind {
        Kind::File => {}
        Kind::Directory => return Err(format!("`{shown}` is a directory, not a program")),
        Kind::Link | Kind::Other => return Err(format!("`{shown}` is not a regular file")),
    }
    if facts.mode & RUN_BY_ANY == 0 {
        return Err(format!(
            "`{shown}` is not executable: `chmod 755 {shown}`, if it is a program"
        ));
    }
    judge_file(path, facts)
}

/// Who can write to a file decides what runs as root.
fn judge_file(path: &Path, facts: &Facts) -> Result<(), String> {
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
fn judge_directory(path: &Path, facts: &Facts) -> Result<(), String> {
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

const fn flaw(facts: &Facts) -> Option<Flaw> {
    if facts.owner != 0 {
        Some(Flaw::Owner(facts.owner))
    } else if facts.mode & BY_OTHERS != 0 {
        Some(Flaw::Others)
    } else if facts.mode & BY_GROUP != 0 {
        Some(Flaw::Group)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const fn facts(kind: Kind, owner: u32, mode: u32) -> Facts {
        Facts { kind, owner, mode }
    }

    #[test]
    fn each_way_in_which_a_file_is_not_to_be_run_has_its_sentence() {
        let path = Path::new("/opt/alert");
        for (facts, sentence) in [
            (facts(Kind::File, 0, 0o755), ""),
            (facts(Kind::File, 0, 0o100), ""),
            (facts(Kind::File, 0, 0o4755), ""),
            (
                facts(Kind::Directory, 0, 0o755),
                "`/opt/alert` is a directory, not a program",
            ),
            (
                facts(Kind::Other, 0, 0o755),
                "`/opt/alert` is not a regular file",
            ),
            (
                facts(Kind::File, 0, 0o644),
                "`/opt/alert` is not executable: `chmod 755 /opt/alert`, if it is a program",
            ),
            (
                facts(Kind::File, 1000, 0o755),
                "`/opt/alert` belongs to user 1000, not to root, and the program would run as root: \
                 `chown root /opt/alert`, or move the program elsewhere",
            ),
            (
                facts(Kind::File, 0, 0o775),
                "`/opt/alert` can be written by its group, and the program would run as root: \
                 `chmod g-w /opt/alert`, or move the program elsewhere",
            ),
            (
                facts(Kind::File, 0, 0o777),
                "`/opt/alert` can be written by others, and the program would run as root: \
                 `chmod o-w /opt/alert`, or move the program elsewhere",
            ),
        ] {
            let told = judge_program(path, &facts).err().unwrap_or_default();
            assert_eq!(told, sentence, "{facts:?}");
        }
    }

    #[test]
    fn each_way_in_which_a_directory_is_open_has_its_sentence() {
        let path = Path::new("/opt");
        for (facts, sentence) in [
            (facts(Kind::Directory, 0, 0o755), ""),
            (
                facts(Kind::Directory, 7, 0o755),
                "`/opt` belongs to user 7, not to root, and the program would run as root: move the program to a \
                 folder that only root may write to",
            ),
            (
                facts(Kind::Directory, 0, 0o2775),
                "`/opt` can be written by its group, and the program would run as root: move the program to a folder \
                 that only root may write to",
            ),
            (
                facts(Kind::Directory, 0, 0o1777),
                "`/opt` can be written by others, and the program would run as root: move the program to a folder \
                 that only root may write to",
            ),
        ] {
            let told = judge_directory(path, &facts).err().unwrap_or_default();
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
        let told = walk(&directory.join("a")).end.unwrap_err();
        assert!(
            told.ends_with("goes through too many symbolic links"),
            "{told}"
        );
    }
}
