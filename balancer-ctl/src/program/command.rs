//! What root runs with a command line: the program, and files among its arguments that it runs in turn.
//!
//! Between judging and starting nobody else can put another file in the place of one that passed: for that they would
//! have to write to it or to a directory on its path, and who may was what has been judged. (Root may; root need not.)
//! What remains is what no path shows: a program may run other files than its arguments, which are its own affair.

use std::path::Path;

use super::trusted::{argument, program};

/// Programs that run, or read as their script, a file that they are given, whatever its permissions. A version at the
/// end of a name (`python3.11`) does not count.
const RUN_OTHERS: [&str; 43] = [
    "ash", "awk", "bash", "busybox", "chroot", "chrt", "csh", "dash", "doas", "env", "expect",
    "fish", "flock", "gawk", "ionice", "ksh", "lua", "make", "mawk", "mksh", "nice", "node",
    "nohup", "nsenter", "perl", "php", "python", "rbash", "ruby", "runuser", "script", "sed",
    "setpriv", "setsid", "sh", "stdbuf", "su", "sudo", "tclsh", "timeout", "unshare", "xargs",
    "zsh",
];

/// Whether root may run these words, the first of which is the program: all of it is there, and nobody else can change
/// it, a directory above it or a link to it. An argument counts as a file to run if it is the absolute path of a file
/// that is executable or begins with `#!`; behind an interpreter or the like, each absolute path does.
///
/// # Errors
/// It may not: a sentence.
pub fn trusted(run: &[String]) -> Result<(), String> {
    let Some((name, arguments)) = run.split_first() else {
        return Err("there is no program".to_owned());
    };
    let found = program(Path::new(name))?;
    let strict = runs_others(Path::new(name)) || runs_others(&found);
    let mut paths = arguments.iter().filter(|word| word.starts_with('/'));
    paths.try_for_each(|word| {
        argument(Path::new(word), strict).map_err(|reason| format!("argument {word}: {reason}"))
    })
}

/// Whether a program, by its name, runs files that it is given.
#[must_use]
pub fn runs_others(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    RUN_OTHERS.contains(&name)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn judged(words: &[&str]) -> Result<(), String> {
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        trusted(&words)
    }

    const OPEN: &str = "`/tmp` can be written by others, and the program would run as root: move the program to a \
                        folder that only root may write to";

    #[test]
    fn what_an_interpreter_is_given_is_judged_whatever_its_permissions_and_before_it_is_there() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let script = folder.path().join("x.sh");
        let script = script.to_str().unwrap();
        let refused = Err(format!("argument {script}: {OPEN}"));
        for program in ["/bin/sh", "/usr/bin/env", "/usr/bin/timeout"] {
            assert_eq!(judged(&[program, "9", script]), refused, "{program}");
        }
        fs::write(script, "exit 0\n").unwrap();
        assert_eq!(judged(&["/bin/sh", script]), refused);
        assert_eq!(
            judged(&[
                "/bin/sh",
                "-c",
                "exit 0",
                "-",
                "/etc/passwd",
                "/dev/null",
                "/run/none"
            ]),
            Ok(())
        );
    }

    #[test]
    fn what_other_programs_are_given_is_judged_where_it_can_be_run() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let file = folder.path().join("file");
        let name = file.to_str().unwrap();
        let refused = Err(format!("argument {name}: {OPEN}"));
        let words = ["/bin/cat", "relative", name];
        assert_eq!(judged(&words), Ok(()));
        fs::write(&file, "data").unwrap();
        assert_eq!(judged(&words), Ok(()));
        fs::write(&file, "#!/bin/sh").unwrap();
        assert_eq!(judged(&words), refused);
        fs::write(&file, "#").unwrap();
        assert_eq!(judged(&words), Ok(()));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(judged(&words), refused);
        // A folder is no program, and neither is what the system guards.
        assert_eq!(judged(&["/bin/cat", "/tmp", "/bin/sh"]), Ok(()));
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
    fn interpreters_are_known_by_their_names_without_versions() {
        for name in [
            "sh",
            "dash",
            "python3",
            "python3.11",
            "lua5.4",
            "tclsh8.6",
            "busybox",
        ] {
            assert!(runs_others(&Path::new("/usr/bin").join(name)), "{name}");
        }
        for name in ["alert", "sha256sum", "test", "check-queue", ""] {
            assert!(!runs_others(&Path::new("/usr/bin").join(name)), "{name}");
        }
        // Behind a link with another name too.
        assert!(runs_others(&program(Path::new("/bin/sh")).unwrap()));
    }
}
