//! Which command lines may run. Nobody but root, and the account that a program runs as, may be able to change any of these:
//!
//! - the program,
//! - the interpreter that its `#!` line names,
//! - each file that an argument leads to by a path, with its interpreter if it is a program. A path is a word with a `/` that
//!   is no option (`-x/y`) and no variable (`A=/x`); one without a leading `/` starts at `/`, where programs run.
//!
//! "Change" includes every directory and link on the way. A path under which others could put a file counts even if there is
//! none yet; directories, sockets and devices as arguments are not checked.
//!
//! Between this check and the start nobody else can replace what passed: for that they would have to write to it or to a
//! directory on its path, which is what was checked. Not checked is what no path shows: the text behind `sh -c`, paths within
//! options, and what a program runs by itself.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use super::{
    account::Account,
    trusted::{check_argument, check_program},
};
use crate::os::file::open_regular_file;

/// Bytes of a file that the kernel searches for a `#!` line.
const SCRIPT_HEAD: u64 = 256;
/// Scripts whose interpreter is a script, and so on: the kernel's own limit.
const MAX_INTERPRETERS: usize = 5;

/// Shells, which run commands from standard input when they are given `-s`. Those in [`SHELLS_FILE`] count too.
const SHELLS: [&str; 12] = [
    "ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "sh", "tcsh", "yash", "zsh",
];
/// This host's shells, a path a line.
const SHELLS_FILE: &str = "/etc/shells";

/// Checks that a command line may run as `account`: the program and its arguments.
///
/// # Errors
/// A sentence that says why it may not run.
pub fn trusted(run: &[String], account: &Account) -> Result<(), String> {
    check_command(run, account).map(|_| ())
}

/// The same for a command line of `[[notify]]`, which is given the options `-s SERVICE -g GROUP …` and whose standard input
/// contains text from real servers: a shell would take the options for its own and, started with `-s`, run that text.
///
/// # Errors
/// A sentence that says why it may not run.
pub fn trusted_for_notify(run: &[String], account: &Account) -> Result<(), String> {
    let programs = check_command(run, account)?;
    let shells = fs::read_to_string(SHELLS_FILE).unwrap_or_default();
    let words = run.iter().map(Path::new);
    let shell = words
        .chain(programs.iter().map(PathBuf::as_path))
        .position(|path| is_shell(path, &shells));
    // A resolved path stands for the word that led to it; the first one leads to the program.
    let Some(index) = shell else { return Ok(()) };
    let name = run.get(index).map_or_else(
        || programs[index - run.len()].display().to_string(),
        String::clone,
    );
    Err(format!(
        "a shell would take the options of a notify program, `-s SERVICE -g GROUP …`, for its own: name a script that \
         begins with `#!{name}`"
    ))
}

/// Returns the programs among the words, with links resolved.
fn check_command(run: &[String], account: &Account) -> Result<Vec<PathBuf>, String> {
    let (name, arguments) = run.split_first().ok_or("there is no program")?;
    let program = check_program(Path::new(name), account)?;
    check_interpreter(&program, account)?;
    let mut programs = vec![program];
    for word in arguments.iter().filter(|word| is_path(word)) {
        let checked = check_argument(&Path::new("/").join(word), account).and_then(|found| {
            if let Some(program) = &found {
                check_interpreter(program, account)?;
            }
            Ok(found)
        });
        programs.extend(checked.map_err(|reason| format!("argument {word}: {reason}"))?);
    }
    Ok(programs)
}

/// Checks the interpreter of a script, and its interpreter if that is a script too. One that does not exist is no error here:
/// starting the script fails.
fn check_interpreter(program: &Path, account: &Account) -> Result<(), String> {
    let mut program = program.to_owned();
    for _ in 0..MAX_INTERPRETERS {
        let Some(interpreter) = interpreter_of(&program) else {
            break;
        };
        let checked = check_argument(&interpreter, account);
        match checked.map_err(|reason| format!("its `#!` line: {reason}"))? {
            Some(found) => program = found,
            None => break,
        }
    }
    Ok(())
}

/// Opens a regular file of root's; `None` if it is something else. What a program's own account may change could make the daemon wait
/// or hand it a device, and the account gains nothing by the interpreter that it names.
fn open_roots_own(path: &Path) -> Option<File> {
    open_regular_file(path, libc::O_NOFOLLOW, |file| file.uid() == 0).ok()
}

/// The interpreter that the `#!` line of a file of root's names; `None` if it has no such line or cannot be read.
fn interpreter_of(program: &Path) -> Option<PathBuf> {
    let mut head = Vec::new();
    let file = open_roots_own(program)?;
    file.take(SCRIPT_HEAD).read_to_end(&mut head).ok()?;
    let line = head
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let name = line
        .trim_ascii_start()
        .split(u8::is_ascii_whitespace)
        .next()?;
    // Relative paths start at `/`, where programs run.
    (!name.is_empty()).then(|| Path::new("/").join(OsStr::from_bytes(name)))
}

/// Whether a program is a shell, by its file name. A version at its end (`zsh5`) and `-static` are ignored.
fn is_shell(program: &Path, shells: &str) -> bool {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let short = name.strip_suffix("-static").unwrap_or(&name);
    let short = short.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    let mut shells = shells.lines().map(Path::new);
    SHELLS.contains(&short)
        || shells.any(|shell| shell.is_absolute() && shell.file_name() == program.file_name())
}

/// Whether an argument is a path: it has a `/`, and is no option and no variable.
fn is_path(word: &str) -> bool {
    let (before, _) = word.split_once('/').unwrap_or(("-", ""));
    !before.starts_with('-') && !before.contains('=')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::{super::trusted::tests::open_folder, *};

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    fn checked(run: &[&str]) -> Result<(), String> {
        trusted(&words(run), &Account::root())
    }

    /// Makes a file with these permissions.
    fn file(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn paths_as_arguments_are_checked_whatever_their_permissions_and_before_they_exist() {
        let (folder, open) = open_folder();
        let path = folder.path().join("x.sh");
        let name = path.to_str().unwrap();
        for mode in [None, Some(0o644), Some(0o755)] {
            if let Some(mode) = mode {
                file(&path, "exit 0\n", mode);
            }
            // From `/`, where programs run, too.
            for word in [name, name.strip_prefix('/').unwrap()] {
                let refused = Err(format!("argument {word}: {open}"));
                for line in [
                    &["/bin/sh"][..],
                    &["/usr/bin/timeout", "9"],
                    &["/usr/bin/env", "A=/tmp/b", "nice", "sh"],
                    &["/bin/cat", "-"],
                ] {
                    assert_eq!(checked(&[line, &[word]].concat()), refused, "{line:?}");
                }
            }
        }
    }

    #[test]
    fn what_the_account_itself_can_change_is_not_looked_into() {
        let account = Account {
            name: "monitor".to_owned(),
            user: nix::unistd::Uid::from_raw(1000),
            ..Account::root()
        };
        let Ok(folder) = tempfile::tempdir_in("/root") else {
            return;
        };
        let (others, open) = open_folder();
        let path = folder.path().join("own");
        file(
            &path,
            &format!("#!{}\n", others.path().join("sh").display()),
            0o755,
        );
        let run = words(&[path.to_str().unwrap()]);
        let refused = format!("its `#!` line: {open}");
        let as_account = refused
            .replace("run as root", "run as monitor")
            .replace("only root may", "only root or monitor may");
        assert_eq!(trusted(&run, &account), Err(as_account));
        std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
        assert_eq!(trusted(&run, &account), Ok(()));
        // Nor is anything but a file of root's opened.
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(open_roots_own(&pipe).is_none());
        let link = folder.path().join("link");
        symlink("/bin/sh", &link).unwrap();
        assert!(open_roots_own(&link).is_none());
        assert!(open_roots_own(&path).is_none());
    }

    #[test]
    fn what_is_no_path_to_a_file_is_not_checked() {
        for line in [
            &["/bin/sh", "-c", "exit 0", "-", "/etc/passwd", "/etc/none"][..],
            &[
                "/bin/cat",
                "",
                "/tmp",
                "/dev/null",
                "http://192.0.2.1/tmp/x",
            ],
            &["/bin/cat", "-o/tmp/x", "--log=/tmp/x", "LOG=/tmp/x", "x"],
        ] {
            assert_eq!(checked(line), Ok(()), "{line:?}");
        }
    }

    #[test]
    fn the_interpreter_of_a_script_is_checked() {
        // Only root can make a script that is trusted.
        let Ok(folder) = tempfile::tempdir_in("/root") else {
            return;
        };
        let (others, open) = open_folder();
        let interpreter = others.path().join("sh");
        symlink("/bin/sh", &interpreter).unwrap();
        let script = |name: &str, head: &str| {
            let path = folder.path().join(name);
            file(&path, &format!("{head}\nexit 0\n"), 0o755);
            path.to_str().unwrap().to_owned()
        };
        let refused = format!("its `#!` line: {open}");
        let bad = script("bad", &format!("#! {} -e", interpreter.display()));
        assert_eq!(checked(&[&bad]), Err(refused.clone()));
        assert_eq!(
            checked(&["/bin/nice", &bad]),
            Err(format!("argument {bad}: {refused}"))
        );
        let nested = script("nested", &format!("#!{bad}"));
        assert_eq!(checked(&[&nested]), Err(refused));
        let itself = script("itself", &format!("#!{}/itself", folder.path().display()));
        for good in [
            script("good", "#!/bin/sh"),
            script("env", "#!/usr/bin/env sh"),
            script("plain", "exit 0"),
            script("empty", "#!"),
            // Starting it says so.
            script("missing", "#!/nowhere/sh"),
            itself,
        ] {
            assert_eq!(checked(&[&good]), Ok(()), "{good}");
        }
    }

    #[test]
    fn a_shell_is_refused_as_a_notify_program() {
        let checked = |run: &[&str]| trusted_for_notify(&words(run), &Account::root());
        let refused = |name: &str| {
            Err(format!(
                "a shell would take the options of a notify program, `-s SERVICE -g GROUP …`, for its own: name a \
                 script that begins with `#!{name}`"
            ))
        };
        assert_eq!(checked(&["/bin/sh", "5"]), refused("/bin/sh"));
        assert_eq!(checked(&["/usr/bin/timeout", "5", "sh"]), refused("sh"));
        assert_eq!(checked(&["/bin/nice", "/bin/dash"]), refused("/bin/dash"));
        assert_eq!(checked(&["/bin/cat"]), Ok(()));
        assert_eq!(checked(&["/usr/bin/timeout", "5", "/bin/true"]), Ok(()));
        // A link to one has another name. Only root can make one that is trusted.
        if let Ok(folder) = tempfile::tempdir_in("/root") {
            let link = folder.path().join("mine");
            symlink("/bin/sh", &link).unwrap();
            let shell = link.canonicalize().unwrap();
            let checked = checked(&[link.to_str().unwrap()]);
            assert_eq!(checked, refused(shell.to_str().unwrap()));
        }
    }

    #[test]
    fn no_program_is_no_good_program() {
        assert_eq!(checked(&[]), Err("there is no program".to_owned()));
        assert_eq!(
            checked(&["/etc/passwd/x"]),
            Err("`/etc/passwd` is not a directory".to_owned())
        );
    }

    #[test]
    fn shells_are_known_by_their_names_without_versions() {
        let is = |name: &str| {
            let program = Path::new("/usr/bin").join(name);
            is_shell(&program, "# shells\n/opt/bin/own-shell\n")
        };
        for name in [
            "sh",
            "dash",
            "busybox",
            "bash-static",
            "zsh5-static",
            "own-shell",
        ] {
            assert!(is(name), "{name}");
        }
        for name in ["alert", "test", "python3", "timeout", "# shells", ""] {
            assert!(!is(name), "{name}");
        }
    }
}
