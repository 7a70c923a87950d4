//! What root runs with a command line: the program, and the words that an interpreter or a wrapper among them runs.
//!
//! Between judging and starting nobody else can put another file in the place of one that passed: for that they would
//! have to write to it or to a directory on its path, and who may was what has been judged. (Root may; root need not.)
//! What no path shows is not judged: the text behind `sh -c`, paths within options, and what a program runs that is not
//! known here.

use std::{fs, path::Path};

use super::trusted::{check_argument, check_program};

/// Programs that read a file that they are given as their script, whatever its permissions. `-static` and a version at
/// the end of a name (`python3.11`) do not count.
const INTERPRETERS: [&str; 60] = [
    "ash",
    "awk",
    "bash",
    "bsd-csh",
    "bun",
    "busybox",
    "csh",
    "dash",
    "deno",
    "elvish",
    "es",
    "expect",
    "fish",
    "gawk",
    "gdb",
    "guile",
    "ion",
    "java",
    "jruby",
    "ksh",
    "ksh93u+m",
    "ld-linux-x86-64.so",
    "ld-linux.so",
    "ld.so",
    "lksh",
    "lua",
    "luajit",
    "make",
    "mawk",
    "mksh",
    "nawk",
    "node",
    "nodejs",
    "nu",
    "oksh",
    "original-awk",
    "osh",
    "pdksh",
    "perl",
    "php",
    "posh",
    "pwsh",
    "pypy",
    "python",
    "rbash",
    "rc",
    "rksh",
    "ruby",
    "sash",
    "scsh",
    "sed",
    "sh",
    "tclsh",
    "tcsh",
    "toybox",
    "wish",
    "xonsh",
    "yash",
    "ysh",
    "zsh",
];

/// Programs that run the program that they are given.
const WRAPPERS: [&str; 42] = [
    "capsh",
    "cgexec",
    "choom",
    "chpst",
    "chronic",
    "chroot",
    "chrt",
    "doas",
    "env",
    "fakeroot",
    "faketime",
    "firejail",
    "flock",
    "ionice",
    "ip",
    "ltrace",
    "nice",
    "nohup",
    "nsenter",
    "numactl",
    "parallel",
    "pkexec",
    "prlimit",
    "runcon",
    "runuser",
    "script",
    "setarch",
    "setpriv",
    "setsid",
    "softlimit",
    "start-stop-daemon",
    "stdbuf",
    "strace",
    "su",
    "sudo",
    "systemd-run",
    "taskset",
    "time",
    "timeout",
    "unshare",
    "watch",
    "xargs",
];

/// Shells of this host, a path a line.
const SHELLS: &str = "/etc/shells";

/// What a program does with the words behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It may run each of them.
    Interpreter,
    /// One of them is a program, which is given the rest.
    Wrapper,
    /// They are data, as far as is known.
    Plain,
}

/// Whether root may run these words, the first of which is the program: all of it is there, and nobody else can change
/// it, a directory above it or a link to it. So it must be with each file that follows an interpreter and with the
/// program that follows a wrapper. Files that others are given are not even looked at: they may lie anywhere.
///
/// # Errors
/// It may not: a sentence.
pub fn trusted(run: &[String]) -> Result<(), String> {
    judge(run).map(|_| ())
}

/// The same for a program that is told of events, which is given options before its own words and real servers' words
/// on standard input: a shell with `-s` would run those.
///
/// # Errors
/// It may not be run: a sentence.
pub fn trusted_with_news(run: &[String]) -> Result<(), String> {
    let role = judge(run)?;
    let name = run.first().map_or("", String::as_str);
    let mend = match role {
        Role::Plain => return Ok(()),
        Role::Interpreter => format!("name a script that begins with `#!{name}`"),
        Role::Wrapper => format!("name a script that runs `{name}`"),
    };
    Err(format!(
        "it would take what it is told, `-s SERVICE -g GROUP …`, for its own arguments: {mend}"
    ))
}

/// Returns the first program's role.
fn judge(run: &[String]) -> Result<Role, String> {
    let (name, arguments) = run.split_first().ok_or("there is no program")?;
    let found = check_program(Path::new(name))?;
    let shells = fs::read_to_string(SHELLS).unwrap_or_default();
    let role_of = |name: &Path, found: &Path| match role(name, &shells) {
        Role::Plain => role(found, &shells),
        known => known,
    };
    let first = role_of(Path::new(name), &found);
    let mut now = first;
    let mut before_lock = is_lock(&found);
    for word in arguments {
        let named = Path::new(word);
        // Programs run in `/`.
        let path = Path::new("/").join(word);
        let judged =
            || check_argument(&path).map_err(|reason| format!("argument {word}: {reason}"));
        now = match now {
            Role::Interpreter => {
                judged()?;
                Role::Interpreter
            }
            Role::Wrapper if is_path(word) && before_lock => {
                before_lock = false;
                Role::Wrapper
            }
            Role::Wrapper if is_path(word) => match judged()? {
                Some(found) => {
                    before_lock = is_lock(&found);
                    role_of(named, &found)
                }
                None => Role::Wrapper,
            },
            // It is looked for where the system's programs are; where it is none that is known, the next may be.
            Role::Wrapper => {
                before_lock |= is_lock(named);
                match role(named, &shells) {
                    Role::Interpreter => Role::Interpreter,
                    Role::Wrapper | Role::Plain => Role::Wrapper,
                }
            }
            // Its name alone says what it is, so that no file is touched.
            Role::Plain if named.is_absolute() => {
                before_lock = is_lock(named);
                role(named, &shells)
            }
            Role::Plain => Role::Plain,
        };
    }
    Ok(first)
}

/// What programs of a name do.
fn role(program: &Path, shells: &str) -> Role {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let short = name.strip_suffix("-static").unwrap_or(&name);
    let short = short.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    let mut shells = shells.lines().map(Path::new);
    if INTERPRETERS.contains(&short)
        || shells.any(|shell| shell.is_absolute() && shell.file_name() == program.file_name())
    {
        Role::Interpreter
    } else if WRAPPERS.contains(&short) {
        Role::Wrapper
    } else {
        Role::Plain
    }
}

/// Whether a wrapper is given a file to lock before the program: never run, and in a folder where others write.
fn is_lock(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == "flock")
}

/// Whether a wrapper may be given this word as a path: no option, and no variable.
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

    fn judged(run: &[&str]) -> Result<(), String> {
        trusted(&words(run))
    }

    const OPEN: &str = "`/tmp` can be written by others, and the program would run as root: move the program to a \
                        folder that only root may write to";

    #[test]
    fn what_an_interpreter_or_a_wrapper_runs_is_judged_whatever_its_permissions_and_before_it_is_there()
     {
        let (folder, open) = open_folder();
        let script = folder.path().join("x.sh");
        let script = script.to_str().unwrap();
        let lines = [
            &["/bin/sh", "9"][..],
            &["/usr/bin/env", "A=/tmp/b"],
            &["/usr/bin/timeout", "9"],
            &["/usr/bin/timeout", "9", "/bin/sh"],
            &["/usr/bin/timeout", "9", "sh"],
            &["/usr/bin/env", "nice", "/usr/bin/timeout", "9"],
            &["/usr/bin/flock", "/run/lock/x"],
            &["/usr/bin/env", "flock", "/run/lock/x"],
            &["/usr/bin/flock", "/run/lock/x", "/bin/sh"],
            // Not known to run others; the shell is.
            &["/bin/true", "exec", "/bin/sh"],
        ];
        for write in [false, true] {
            if write {
                fs::write(script, "exit 0\n").unwrap();
            }
            // As it is, and from `/`, where programs run.
            for word in [script, script.strip_prefix('/').unwrap()] {
                let refused = Err(format!("argument {word}: {open}"));
                for line in lines {
                    assert_eq!(judged(&[line, &[word]].concat()), refused, "{line:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_run_is_let_be() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let file = folder.path().join("file");
        let name = file.to_str().unwrap();
        fs::write(&file, "#!/bin/sh").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        for line in [
            &["/bin/sh", "-c", "exit 0", "-", "/etc/passwd", "/etc/none"][..],
            &[
                "/bin/sh",
                "-c",
                "exit 0",
                "",
                "/tmp",
                "http://192.0.2.1/tmp/x",
            ],
            &["/bin/cat", name, "/tmp/none", "relative"],
            &["/usr/bin/flock", name, "/bin/true"],
            &["/usr/bin/flock", "/run/lock/none", "/bin/true", name],
            &["/usr/bin/timeout", "9", "/bin/cat", name],
            &["/usr/bin/env", "LOG=/tmp/x", "/bin/cat", "/bin/sh"],
        ] {
            assert_eq!(judged(line), Ok(()), "{line:?}");
        }
    }

    #[test]
    fn what_is_told_of_events_is_neither_interpreter_nor_wrapper() {
        let told = |program: &str| trusted_with_news(&words(&[program, "5", "/bin/true"]));
        let refused = |mend: &str| {
            Err(format!(
                "it would take what it is told, `-s SERVICE -g GROUP …`, for its own arguments: {mend}"
            ))
        };
        assert_eq!(
            told("/bin/sh"),
            refused("name a script that begins with `#!/bin/sh`")
        );
        assert_eq!(
            told("/usr/bin/timeout"),
            refused("name a script that runs `/usr/bin/timeout`")
        );
        assert_eq!(told("/bin/cat"), Ok(()));
        // Links to it have other names. Only root can make one that is trusted.
        if let Ok(folder) = tempfile::tempdir_in("/root") {
            let link = folder.path().join("mine");
            symlink("/bin/dash", &link).unwrap();
            let link = link.to_str().unwrap();
            let mend = format!("name a script that begins with `#!{link}`");
            assert_eq!(told(link), refused(&mend));
            // An interpreter under another name is one for what follows it, too.
            let refused = Err(format!("argument /tmp/none: {OPEN}"));
            assert_eq!(judged(&[link, "/tmp/none"]), refused);
            assert_eq!(judged(&["/bin/nice", link, "/tmp/none"]), refused);
        }
    }

    #[test]
    fn no_program_is_no_good_program() {
        assert_eq!(judged(&[]), Err("there is no program".to_owned()));
        assert_eq!(
            judged(&["/etc/passwd/x"]),
            Err("`/etc/passwd` is not a directory".to_owned())
        );
    }

    #[test]
    fn programs_are_known_by_their_names_without_versions() {
        let of = |name: &str| {
            role(
                &Path::new("/usr/bin").join(name),
                "# shells\n/opt/bin/own-shell\n",
            )
        };
        for name in [
            "sh",
            "dash",
            "tcsh",
            "yash",
            "posh",
            "python3",
            "python3.11",
            "lua5.4",
            "tclsh8.6",
            "busybox",
            "bash-static",
            "zsh5-static",
            "own-shell",
        ] {
            assert_eq!(of(name), Role::Interpreter, "{name}");
        }
        for name in ["env", "timeout", "flock", "ip", "nsenter", "sudo"] {
            assert_eq!(of(name), Role::Wrapper, "{name}");
        }
        for name in ["alert", "sha256sum", "test", "check-queue", "# shells", ""] {
            assert_eq!(of(name), Role::Plain, "{name}");
        }
    }
}
