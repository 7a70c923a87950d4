//! Commands that a sentence advises: what an operator pastes into a shell must do no more than it says.

use std::{borrow::Cow, path::Path};

/// A text as one word of a POSIX shell: in single quotes where it holds more than letters, digits and `_@%+=:,./-~`, or begins with `~`.
#[must_use]
pub fn word(text: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-~".contains(&byte);
    if !text.is_empty() && !text.starts_with('~') && text.bytes().all(is_plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
}

/// A path as one word of a shell, see [`word`].
#[must_use]
pub fn path(path: &Path) -> String {
    word(&path.to_string_lossy()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_a_word_as_it_was() {
        for (text, shown) in [
            (
                "/etc/balancer/balancer.toml~",
                "/etc/balancer/balancer.toml~",
            ),
            ("~root", "'~root'"),
            ("eth0.10", "eth0.10"),
            ("", "''"),
            ("e;id", "'e;id'"),
            ("p$(id)", "'p$(id)'"),
            ("a b\t*", "'a b\t*'"),
            ("it's", r"'it'\''s'"),
            ("ä", "'ä'"),
        ] {
            assert_eq!(word(text), shown);
            let script = format!("printf %s {shown}");
            let read = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(read.stdout, text.as_bytes());
        }
        assert_eq!(path(Path::new("/a b")), "'/a b'");
    }
}
