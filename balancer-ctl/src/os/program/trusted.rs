//! Which files an account may run for the daemon: those that only root and that account itself can change. Likewise, which files
//! may name programs for it.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fmt, fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
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
    check_program_file(&FoundFile::new(path, &found), &info, account)?;
    Ok(found)
}

/// Checks that a path may be an argument of a program, which may run it: nobody but root and `account` can decide what it leads to,
/// even if nothing exists there yet. Returns the program that it leads to, if it is one.
///
/// # Errors
/// A sentence that says why it may not be one.
pub fn check_argument(path: &Path, account: &Account) -> Result<Option<PathBuf>, String> {
    let ResolvedPath { rights, end } = resolve(path, account);
    rights?;
    let Some((found, info)) = end.ok().filter(|(_, info)| info.kind == FileKind::File) else {
        return Ok(None);
    };
    check_file(&FoundFile::new(path, &found), &info, account)?;
    Ok((info.mode & ANY_EXECUTE != 0).then_some(found))
}

/// Checks that nobody but root, and this process's own user, can decide what a file says: the file, each directory above it, and each
/// link on the way. Nobody else can put another file in its place after this check; who opened it to write before may write to it still.
///
/// # Errors
/// A sentence that says who else can, with the remedy.
pub fn check_origin(path: &Path) -> Result<(), String> {
    let account = Account::own();
    let mut flawed: Option<(PathBuf, Flaw<'_>)> = None;
    let end = visit(path, |at, info, entry| {
        if flawed.is_none()
            && let Some(flaw) = directory_flaw(info, entry, &account)
        {
            flawed = Some((at.to_owned(), flaw));
        }
    });
    let (found, info) = end?;
    if let Some((directory, flaw)) = flawed {
        return Err(format!(
            "`{}` {flaw}: let only root write to it, or move the file to a folder that only root may write to",
            directory.display()
        ));
    }
    flaw(&info, &account).map_or(Ok(()), |flaw| {
        let command = format!("{} {}", flaw.remedy(), found.display());
        let remedy = if FoundFile::new(path, &found).may_be_advised {
            format!("`{command}`")
        } else {
            "let only root write to it".to_owned()
        };
        Err(format!("`{}` {flaw}: {remedy}", found.display()))
    })
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
                "`{}` goes through too many symbolic links",
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

/// A file that a configured path leads to.
struct FoundFile<'a> {
    path: &'a Path,
    /// Whether a sentence may advise a command with its path: it is the configured one itself, which nobody can have made a link to
    /// another file, and no shell takes it for more than a path.
    may_be_advised: bool,
}

impl<'a> FoundFile<'a> {
    fn new(configured: &Path, found: &'a Path) -> Self {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+@%:,".contains(byte);
        Self {
            path: found,
            may_be_advised: configured == found
                && found.as_os_str().as_bytes().iter().all(is_plain),
        }
    }

    /// The beginning of a sentence's remedy: this command, if it may be advised, then `rest`; or `other`.
    fn remedy(&self, command: &str, rest: &str, other: &str) -> String {
        if self.may_be_advised {
            format!(": `{command} {}`, {rest}", self.path.display())
        } else {
            other.to_owned()
        }
    }
}

fn check_program_file(
    found: &FoundFile<'_>,
    info: &FileInfo,
    account: &Account,
) -> Result<(), String> {
    let shown = found.path.display();
    match info.kind {
        FileKind::File => {}
        FileKind::Directory => return Err(format!("`{shown}` is a directory, not a program")),
        FileKind::Link | FileKind::Other => return Err(format!("`{shown}` is not a regular file")),
    }
    if info.mode & ANY_EXECUTE == 0 {
        let remedy = found.remedy("chmod 755", "if it is a program", "");
        return Err(format!("`{shown}` is not executable{remedy}"));
    }
    check_file(found, info, account)
}

/// Checks that only root and the account can write to a file.
fn check_file(found: &FoundFile<'_>, info: &FileInfo, account: &Account) -> Result<(), String> {
    let shown = found.path.display();
    let Some(flaw) = flaw(info, account) else {
        return Ok(());
    };
    let elsewhere = "or move the program elsewhere";
    let remedy = found.remedy(flaw.remedy(), elsewhere, ": move the program elsewhere");
    Err(format!(
        "`{shown}` {flaw}, and the program would run as {account}{remedy}"
    ))
}

/// Checks that only root and the account can decide what `entry` of a directory is. Other programs may rely on a directory's
/// permissions, so the sentence advises moving the program, not changing them.
fn check_directory(
    path: &Path,
    info: &FileInfo,
    entry: Option<&FileInfo>,
    account: &Account,
) -> Result<(), String> {
    directory_flaw(info, entry, account).map_or(Ok(()), |flaw| {
        Err(format!(
            "`{}` {flaw}, and the program would run as {account}: move the program to a folder that only {} may \
             write to",
            path.display(),
            account.and_root("or")
        ))
    })
}

/// Why others than root and the account can decide what `entry` of a directory is. Whoever can write to the directory can replace
/// its entries. The exception is a sticky directory of root's, such as `/tmp`: there only root and the owner of an entry can
/// remove or rename it. That does not make a file with several hard links safe, since others may have made the link in this
/// directory, nor a name that does not exist yet, which others can take.
fn directory_flaw<'a>(
    info: &FileInfo,
    entry: Option<&FileInfo>,
    account: &'a Account,
) -> Option<Flaw<'a>> {
    let is_safe = |entry: &FileInfo| {
        account.trusts(entry.owner) && (entry.kind == FileKind::Directory || entry.links == 1)
    };
    if info.owner == 0 && info.mode & STICKY != 0 && entry.is_some_and(is_safe) {
        return None;
    }
    flaw(info, account)
}

/// Why others can change a file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw<'a> {
    Owner(u32, &'a Account),
    Others,
    Group,
}

impl Flaw<'_> {
    /// The command that ends it, without the path.
    const fn remedy(self) -> &'static str {
        match self {
            Self::Owner(..) => "chown root",
            Self::Others => "chmod o-w",
            Self::Group => "chmod g-w",
        }
    }
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
pub mod tests;
