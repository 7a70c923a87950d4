//! The letters of ipvsadm: no options here, but answered with the command that does the same. Pure.

use clap::CommandFactory as _;

use super::arguments::{Arguments, with_required};

/// Each letter, its long form, and the command.
const LETTERS: [(char, &str, &str); 12] = [
    ('A', "--add-service", "add-service"),
    ('E', "--edit-service", "edit-service"),
    ('D', "--delete-service", "del-service"),
    ('a', "--add-server", "add-real"),
    ('e', "--edit-server", "edit-real"),
    ('d', "--delete-server", "del-real"),
    ('C', "--clear", "clear"),
    ('L', "--list", "list"),
    ('l', "--list", "list"),
    ('S', "--save", "save"),
    ('R', "--restore", "restore"),
    ('Z', "--zero", "zero"),
];

/// Options of ipvsadm by their long forms, and what they are here.
const OPTIONS: [(&str, &str); 6] = [
    ("--tcp-service", "-t"),
    ("--udp-service", "-u"),
    ("--real-server", "-r"),
    ("--masquerading", "-m"),
    ("--u-threshold", "-x"),
    ("--l-threshold", "-y"),
];

/// What to write instead, if the command line, without the program's name, begins with one of ipvsadm's letters.
pub fn refusal(words: &[String]) -> Option<String> {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        at += match word.as_str() {
            "--json" => 1,
            "--socket" | "--instance" => 2,
            word if word.starts_with("--socket=") || word.starts_with("--instance=") => 1,
            _ => break,
        };
    }
    let (global, words) = words.split_at_checked(at)?;
    let (first, words) = words.split_first()?;
    let (command, letters) = command_of(first)?;
    let line = typed(command, letters, words).and_then(|typed| {
        let all = ["balancer-ctl".to_owned()].into_iter();
        let all: Vec<_> = all.chain(global.iter().cloned()).chain(typed).collect();
        let read = with_required(Arguments::command()).try_get_matches_from(&all);
        read.is_ok().then(|| all.join(" "))
    });
    Some(match line {
        Some(line) => format!("`{first}` is `{line}` here"),
        None => format!(
            "`{first}` is `balancer-ctl {command}` here: `balancer-ctl {command} --help` shows its options"
        ),
    })
}

/// The command of a letter or a long form, and the letters that stand behind it in the same word.
fn command_of(word: &str) -> Option<(&'static str, &str)> {
    let mut known = LETTERS.iter();
    if word.starts_with("--") {
        let (_, _, command) = known.find(|(_, long, _)| *long == word)?;
        return Some((command, ""));
    }
    let mut letters = word.strip_prefix('-')?.chars();
    let first = letters.next()?;
    let (_, _, command) = known.find(|(letter, _, _)| *letter == first)?;
    Some((command, letters.as_str()))
}

/// The command with its options as they are written here, if each has its like.
fn typed(command: &str, letters: &str, words: &[String]) -> Option<Vec<String>> {
    let mut command = command.to_owned();
    let (mut real, mut options) = (None, Vec::new());
    let bundled = letters.chars().map(|letter| format!("-{letter}"));
    let mut words = bundled.chain(words.iter().cloned());
    while let Some(word) = words.next() {
        let mut known = OPTIONS.iter();
        let here = known.find(|(long, _)| *long == word);
        match here.map_or(word.as_str(), |(_, here)| here) {
            "-r" => real = Some(words.next()?),
            // Addresses are always numbers.
            "-n" | "--numeric" => {}
            "-c" | "--connection" if command == "list" => "connections".clone_into(&mut command),
            // There is NAT only.
            "-g" | "-i" => return None,
            here => options.push(here.to_owned()),
        }
    }
    let command = [command].into_iter().chain(real);
    Some(command.chain(options).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_letter_is_answered_with_the_command_and_the_given_options() {
        for (given, here) in [
            (
                "-A -t 192.0.2.80:80 -s rr",
                "add-service -t 192.0.2.80:80 -s rr",
            ),
            (
                "--add-service --udp-service 192.0.2.80:53 --scheduler wlc --persistent 600",
                "add-service -u 192.0.2.80:53 --scheduler wlc --persistent 600",
            ),
            ("-At 192.0.2.80:80 -p", "add-service -t 192.0.2.80:80 -p"),
            (
                "-E -t 192.0.2.80:80 -s wrr",
                "edit-service -t 192.0.2.80:80 -s wrr",
            ),
            ("-D -t 192.0.2.80:80", "del-service -t 192.0.2.80:80"),
            (
                "-a -t 192.0.2.80:80 -r 10.0.0.2:80 -m -w 2",
                "add-real 10.0.0.2:80 -t 192.0.2.80:80 -m -w 2",
            ),
            (
                "--add-server -t 192.0.2.80:80 --real-server 10.0.0.2:80 --masquerading --u-threshold 9",
                "add-real 10.0.0.2:80 -t 192.0.2.80:80 -m -x 9",
            ),
            (
                "-e -t 192.0.2.80:80 -r 10.0.0.2:80 -w 0",
                "edit-real 10.0.0.2:80 -t 192.0.2.80:80 -w 0",
            ),
            (
                "-d -t 192.0.2.80:80 -r 10.0.0.2:80",
                "del-real 10.0.0.2:80 -t 192.0.2.80:80",
            ),
            ("-C", "clear"),
            ("-L", "list"),
            ("-l", "list"),
            ("-Ln", "list"),
            ("-L -n --stats", "list --stats"),
            ("-Lnc", "connections"),
            ("--list --connection", "connections"),
            ("-S", "save"),
            ("-S -n", "save"),
            ("-R", "restore"),
            ("-Z", "zero"),
            ("-Z -t 192.0.2.80:80", "zero -t 192.0.2.80:80"),
        ] {
            let first = given.split(' ').next().unwrap();
            let sentence = format!("`{first}` is `balancer-ctl {here}` here");
            assert_eq!(refused(given), Some(sentence), "{given}");
        }
        assert_eq!(
            refused("--json --socket /s -L").unwrap(),
            "`-L` is `balancer-ctl --json --socket /s list` here"
        );
    }

    #[test]
    fn where_options_have_no_like_the_command_is_named() {
        for (given, command) in [
            ("-A", "add-service"),
            ("-A -f 1 -s rr", "add-service"),
            ("-a -t 192.0.2.80:80 -r 10.0.0.2:80 -g", "add-real"),
            ("-a -t 192.0.2.80:80 -r", "add-real"),
            ("-L --daemon", "list"),
        ] {
            let first = given.split(' ').next().unwrap();
            let sentence = format!(
                "`{first}` is `balancer-ctl {command}` here: `balancer-ctl {command} --help` shows its options"
            );
            assert_eq!(refused(given), Some(sentence), "{given}");
        }
    }

    #[test]
    fn what_the_tool_takes_is_left_alone() {
        for given in [
            "",
            "list -n",
            "-h",
            "--help",
            "-V",
            "add-service -t 192.0.2.80:80",
            "--socket -A",
            "--socket",
        ] {
            assert_eq!(refused(given), None, "{given}");
        }
    }

    fn refused(line: &str) -> Option<String> {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        refusal(&words)
    }
}
