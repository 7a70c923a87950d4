//! Which characters may reach a terminal or a log from elsewhere.

use std::io::{self, Write};

/// Whether a character is shown as itself: no control character, and none of those that have no shape of their own but order, join or
/// hide the others (Unicode's category Cf, and what it calls default ignorable), by which a text could show what it does not say.
#[must_use]
pub fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}'
                | '\u{34f}'
                | '\u{600}'..='\u{605}'
                | '\u{61c}'
                | '\u{6dd}'
                | '\u{70f}'
                | '\u{890}'..='\u{891}'
                | '\u{8e2}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{110bd}'
                | '\u{110cd}'
                | '\u{13430}'..='\u{1343f}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// A text in which what is not printable is written as `\\u{1b}`.
#[must_use]
pub fn printable(text: &str) -> String {
    escaped(text, |_| None)
}

/// The same for a text of several lines: it stays so.
#[must_use]
pub fn printable_lines(text: &str) -> String {
    escaped(text, |rest| rest.starts_with('\n').then_some(1))
}

/// The same for a text of several lines that holds the sequences with which this program colours words; no others pass.
#[must_use]
pub fn printable_output(text: &str) -> String {
    escaped(text, |rest| match rest.starts_with('\n') {
        true => Some(1),
        false => style(rest),
    })
}

/// A JSON document of which a terminal shows all: what is not printable in its strings is written as JSON's escapes.
#[must_use]
pub fn printable_json(document: &str) -> String {
    let is_plain = |byte: u8| byte == b'\n' || byte.is_ascii_graphic() || byte == b' ';
    if document.bytes().all(is_plain) {
        return document.to_owned();
    }
    let mut shown = String::with_capacity(document.len());
    for character in document.chars() {
        // Between strings there are no such characters but line ends.
        if character == '\n' || is_printable(character) {
            shown.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    shown
}

/// Escapes what is not printable, except where `allowed`, given the text from there on, says that so many bytes may stay.
fn escaped(text: &str, allowed: impl Fn(&str) -> Option<usize>) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let mut length = character.len_utf8();
        if is_printable(character) {
            shown.push(character);
        } else if let Some(stays) = allowed(rest) {
            shown.push_str(&rest[..stays]);
            length = stays;
        } else {
            shown.extend(character.escape_unicode());
        }
        rest = &rest[length..];
    }
    shown
}

/// Length of the escape sequence that a text begins with, if it is one of those that this program and its log use: bold, dim, italic,
/// underlined, red to magenta, and back to normal. None of them hides a word.
fn style(text: &str) -> Option<usize> {
    let sequence = text.strip_prefix("\u{1b}[")?;
    let (number, _) = sequence.split_once('m')?;
    let is_used = ["0", "1", "2", "3", "4", "31", "32", "33", "34", "35"].contains(&number);
    is_used.then_some(number.len() + 3)
}

/// A log's output: each write is one entry of the log, and becomes one printable line, so that no text in it passes for another entry.
#[derive(Debug)]
pub struct PrintableLog<W>(pub W);

impl<W: Write> Write for PrintableLog<W> {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(entry);
        let (line, end) = match text.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (&*text, ""),
        };
        let line = escaped(line, style);
        self.0.write_all(format!("{line}{end}").as_bytes())?;
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_or_hides_text_is_not_printable() {
        for shown in ['a', '\u{e9}', '\u{301}', '\u{6771}', '\u{fffd}', ' '] {
            assert!(is_printable(shown), "{shown:?}");
        }
        for hidden in [
            '\0',
            '\n',
            '\u{1b}',
            '\u{7f}',
            '\u{9b}',
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{2028}',
            '\u{2029}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{e0100}',
        ] {
            assert!(!is_printable(hidden), "{hidden:?}");
        }
        for range in [
            '\u{200b}'..='\u{200f}',
            '\u{202a}'..='\u{202e}',
            '\u{2066}'..='\u{2069}',
            '\u{e0000}'..='\u{e007f}',
        ] {
            for hidden in range {
                assert!(!is_printable(hidden), "{hidden:?}");
            }
        }
        assert_eq!(printable("a\u{1b}[31m \u{e9}"), "a\\u{1b}[31m \u{e9}");
        assert_eq!(printable("a\u{202e}b\n"), "a\\u{202e}b\\u{a}");
        assert_eq!(printable_lines("a\u{200b}\nb\r"), "a\\u{200b}\nb\\u{d}");
    }

    #[test]
    fn the_program_s_own_colours_pass_and_no_other_sequence() {
        let own = "\u{1b}[31mdown\u{1b}[0m\nup";
        assert_eq!(printable_output(own), own);
        for hidden in [
            "[8m",
            "[30m",
            "[7m",
            "[2J",
            "[31;8m",
            "]0;x\u{7}",
            "[31",
            "",
        ] {
            let shown = printable_output(&format!("\u{1b}{hidden}"));
            assert!(shown.starts_with("\\u{1b}"), "{shown}");
        }
    }

    #[test]
    fn json_stays_the_same_document() {
        let value = serde_json::json!({ "a": "x\u{202e}\u{e0041}\u{9b}\ny" });
        let text = printable_json(&serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(text, "{\n  \"a\": \"x\\u202e\\udb40\\udc41\\u009b\\ny\"\n}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }

    #[test]
    fn an_entry_of_the_log_is_one_line() {
        let mut log = PrintableLog(Vec::new());
        log.write_all("\u{1b}[33m WARN\u{1b}[0m a\n INFO b\u{202e}\r\n".as_bytes())
            .unwrap();
        assert_eq!(
            String::from_utf8(log.0).unwrap(),
            "\u{1b}[33m WARN\u{1b}[0m a\\u{a} INFO b\\u{202e}\\u{d}\n"
        );
    }
}
