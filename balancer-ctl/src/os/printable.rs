//! Which characters may reach a terminal or a log from elsewhere.

/// Whether a character is shown as itself: no control character, and none of those that have no shape of their own but order, join or
/// hide the others (Unicode's category Cf), by which a text could show what it does not say.
#[must_use]
pub fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{ad}'
                | '\u{600}'..='\u{605}'
                | '\u{61c}'
                | '\u{6dd}'
                | '\u{70f}'
                | '\u{890}'..='\u{891}'
                | '\u{8e2}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{110bd}'
                | '\u{110cd}'
                | '\u{13430}'..='\u{1343f}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// A text in which what is not printable is written as `\\u{1b}`.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_printable(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_unicode());
        }
    }
    shown
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
            '\0', '\n', '\u{1b}', '\u{7f}', '\u{9b}', '\u{200b}', '\u{202e}', '\u{2066}',
            '\u{feff}',
        ] {
            assert!(!is_printable(hidden), "{hidden:?}");
        }
        assert_eq!(printable("a\u{1b}[31m \u{e9}"), "a\\u{1b}[31m \u{e9}");
    }
}
