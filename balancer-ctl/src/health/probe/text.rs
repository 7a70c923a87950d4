//! What others said, made fit for a reason: short, of one line, and printable.

/// Longest quotation in a reason, in characters.
const LONGEST: usize = 120;

/// The first line of `bytes` that is not empty.
pub fn first_line(bytes: &[u8]) -> Option<String> {
    bytes
        .split(|byte| matches!(byte, b'\n' | b'\r'))
        .map(<[u8]>::trim_ascii)
        .find(|line| !line.is_empty())
        .map(quoted)
}

/// Text without control characters, cut where it is too long.
pub fn quoted(bytes: &[u8]) -> String {
    // A character has four bytes at most.
    let (start, cut) = match bytes.get(..LONGEST * 4) {
        Some(start) => (start, true),
        None => (bytes, false),
    };
    let text = String::from_utf8_lossy(start);
    let mut shown: String = text
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_control() { '.' } else { c })
        .collect();
    if cut || text.chars().count() > LONGEST {
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
        assert_eq!(long, format!("{}...", "x".repeat(LONGEST)));
        assert_eq!(quoted(&[b'x'; LONGEST]), "x".repeat(LONGEST));
    }
}
