//! Makes bytes from a target fit for a reason: short, one line, printable.

use crate::os::printable::is_printable;

/// Longest quotation in a reason, in characters.
const MAX_CHARACTERS: usize = 120;

/// The first line that is not empty, quoted; `None` if there is none.
pub fn first_line(bytes: &[u8]) -> Option<String> {
    bytes
        .split(|byte| matches!(byte, b'\n' | b'\r'))
        .map(<[u8]>::trim_ascii)
        .find(|line| !line.is_empty())
        .map(quoted)
}

/// Bytes as text: characters that are not printable replaced by `.`, cut after [`MAX_CHARACTERS`] with `...`.
pub fn quoted(bytes: &[u8]) -> String {
    // A character has four bytes at most.
    let (start, cut) = match bytes.get(..MAX_CHARACTERS * 4) {
        Some(start) => (start, true),
        None => (bytes, false),
    };
    let text = String::from_utf8_lossy(start);
    let mut shown: String = text
        .chars()
        .take(MAX_CHARACTERS)
        .map(|c| if is_printable(c) { c } else { '.' })
        .collect();
    if cut || text.chars().count() > MAX_CHARACTERS {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quotation_is_one_short_printable_line() {
        assert_eq!(
            first_line(b"\r\n  SSH-2.0-x \r\nmore").as_deref(),
            Some("SSH-2.0-x")
        );
        assert_eq!(first_line(b" \n\t\n"), None);
        assert_eq!(quoted(b"a\x1b[31m\xff\0b"), "a.[31m\u{fffd}.b");
        let long = quoted(&vec![b'x'; 1 << 20]);
        assert_eq!(long, format!("{}...", "x".repeat(MAX_CHARACTERS)));
        assert_eq!(quoted(&[b'x'; MAX_CHARACTERS]), "x".repeat(MAX_CHARACTERS));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_target_says_a_reason_is_one_short_printable_line(
            bytes in crate::os::fuzz::bytes(&[b"SSH-2.0-x\r\n", b"h\xc3\xa9llo\n\x1b[31mred"]),
        ) {
            let shown = quoted(&bytes);
            proptest::prop_assert!(shown.chars().count() <= MAX_CHARACTERS + 3);
            proptest::prop_assert!(shown.chars().all(is_printable), "{shown:?}");
            if let Some(line) = first_line(&bytes) {
                proptest::prop_assert!(crate::os::fuzz::is_printable_line(&line), "{line:?}");
            }
        }
    }
}
