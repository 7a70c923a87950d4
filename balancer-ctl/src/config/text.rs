//! Parses strings of the file: addresses, parts of HTTP requests, programs. An error continues a sentence that begins with the key
//! and the value. Pure.

use std::net::IpAddr;

/// Parses an address without a port.
pub fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        "is not an address: write `192.0.2.80` or `2001:db8::80` (names are not looked up)"
            .to_owned()
    })
}

/// Parses bytes as pairs of hexadecimal digits, optionally with spaces between them.
pub fn hex(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || "is not hexadecimal: write pairs of digits, as in \"0d 0a\"".to_owned();
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).ok_or_else(wrong))
        .collect::<Result<_, _>>()?;
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(high * 16 + low).map_err(|_| wrong()),
        _ => Err(wrong()),
    });
    pairs.collect()
}

/// Parses HTTP statuses and ranges of them.
pub fn statuses(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let status = |text: &str| {
        let text = text.trim();
        let status = text.parse().ok().filter(|_| text.len() == 3);
        status.filter(|status| (100..=599).contains(status))
    };
    text.split(',')
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((status(first)?, status(last)?)).filter(|(first, last)| first <= last)
        })
        .collect::<Option<_>>()
        .ok_or_else(|| {
            "is no list of statuses: write statuses from 100 to 599 and ranges of them, as in \"200-299,304\""
                .to_owned()
        })
}

/// Checks an HTTP method.
pub fn method(text: &str) -> Result<String, String> {
    let good = (1..=20).contains(&text.len())
        && text != "CONNECT"
        && text
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    good.then(|| text.to_owned())
        .ok_or_else(|| "is no method for a check: write it in capitals, as in \"HEAD\"".to_owned())
}

/// Checks an HTTP request's path and query.
pub fn path(text: &str) -> Result<String, String> {
    let good = text.starts_with('/')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&byte));
    good.then(|| text.to_owned()).ok_or_else(|| {
        "is no path: it begins with `/`, and what is not plain in it is written as in \"%20\""
            .to_owned()
    })
}

/// Checks the host of an HTTP request, with an optional port.
pub fn host(text: &str) -> Result<String, String> {
    let bare = text
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        .map_or(text, |(bare, _)| bare);
    let is_ipv6 = bare
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    (is_ipv6 || is_host_name(bare))
        .then(|| text.to_owned())
        .ok_or_else(|| "is no host: write a name, as in \"www.example.org\"".to_owned())
}

/// Checks a name for TLS: a host's name or an address.
pub fn server_name(text: &str) -> Result<String, String> {
    (is_host_name(text) || text.parse::<IpAddr>().is_ok())
        .then(|| text.to_owned())
        .ok_or_else(|| "is no name of a server: write it as in \"www.example.org\"".to_owned())
}

/// Checks a name in the DNS.
pub fn dns_name(text: &str) -> Result<String, String> {
    (text == "." || is_host_name(text))
        .then(|| text.to_owned())
        .ok_or_else(|| "is no name in the DNS: write it as in \"www.example.org\"".to_owned())
}

fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        })
}

/// Checks a header field of a request.
pub fn header(name: &str, value: &str) -> Result<(), String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(format!("`{name}` is no name of a header field"));
    }
    if name.eq_ignore_ascii_case("host") {
        return Err("the header field Host has a key of its own: write `host`".to_owned());
    }
    if [
        "connection",
        "content-length",
        "transfer-encoding",
        "upgrade",
    ]
    .iter()
    .any(|own| name.eq_ignore_ascii_case(own))
    {
        return Err(format!(
            "the header field {name} is the connection's own: remove it"
        ));
    }
    if !value
        .bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic())
    {
        return Err(format!(
            "the value of the header field {name} holds more than plain characters"
        ));
    }
    Ok(())
}

/// Checks a program with its arguments.
pub fn program(words: &[String]) -> Result<(), String> {
    let Some(program) = words.first() else {
        return Err(
            "run is empty: name a program, as in `run = [\"/usr/local/bin/alert\"]`".to_owned(),
        );
    };
    if !program.starts_with('/') {
        return Err(format!(
            "program `{program}` is no absolute path: write it from `/` on"
        ));
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err(format!(
            "program `{program}` or an argument of it holds a zero byte"
        ));
    }
    Ok(())
}

/// The byte offset of the n-th character (from 1) of a TOML string's value in the string as it is written.
#[must_use]
pub fn offset_in_token(token: &str, position: usize) -> Option<usize> {
    let quote = token.chars().next()?;
    let triple: String = std::iter::repeat_n(quote, 3).collect();
    let opening = match token.strip_prefix(&triple) {
        // A line break after the opening quotes is not part of the value.
        Some(rest) if rest.starts_with("\r\n") => 5,
        Some(rest) if rest.starts_with('\n') => 4,
        Some(_) if token.len() >= 6 => 3,
        _ => 1,
    };
    let mut offset = opening;
    for _ in 1..position {
        let rest = token.get(offset..)?;
        let length = match (quote, rest.as_bytes()) {
            ('"', [b'\\', b'u', ..]) => 6,
            ('"', [b'\\', b'U', ..]) => 10,
            ('"', [b'\\', b'x', ..]) => 4,
            // A line break after a backslash, and the spaces after it, are not part of the value.
            ('"', [b'\\', b'\n' | b'\r' | b' ', ..]) => return None,
            ('"', [b'\\', ..]) => 2,
            _ => rest.chars().next()?.len_utf8(),
        };
        offset += length;
    }
    (offset < token.len()).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::check::from_statuses;

    #[test]
    fn a_character_is_found_in_every_kind_of_string() {
        for (token, position, expected) in [
            ("'a(b'", 2, Some(2)),
            ("\"a(b\"", 2, Some(2)),
            (r#""\r\n(b""#, 3, Some(5)),
            (r#""é(b""#, 2, Some(3)),
            (r#""\u00e9(b""#, 2, Some(7)),
            ("'''\na(b'''", 2, Some(5)),
            ("\"\"\"a(b\"\"\"", 2, Some(4)),
            // After the last character: the closing quote.
            ("'a('", 3, Some(3)),
            ("''", 1, Some(1)),
            ("'a'", 9, None),
            ("\"\"\"a\\\n  (b\"\"\"", 2, None),
        ] {
            let offset = offset_in_token(token, position);
            if token.contains("\\\n") {
                assert_eq!(offset, Some(4), "the break itself");
                assert_eq!(offset_in_token(token, 3), None);
            } else {
                assert_eq!(offset, expected, "{token}");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["200-299", "200", "200-299,304", "100-599"] {
            assert_eq!(from_statuses(&statuses(text).unwrap()), text);
        }
        for text in [
            "", "2xx", "200-", "299-200", "99", "600", "200,,204", "+20", "0200",
        ] {
            assert!(statuses(text).is_err(), "{text}");
        }
        assert_eq!(hex("0d0A ff"), Ok(vec![13, 10, 255]));
        assert!(hex("0d0").is_err() && hex("zz").is_err());
    }

    #[test]
    fn names_and_paths_are_judged() {
        for good in [
            "www.example.org",
            "a",
            "example.org.",
            "_dns.example",
            "[::1]:80",
            "10.0.0.1:81",
        ] {
            assert!(host(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a..b", "::1", "é.org", "a/b"] {
            assert!(host(bad).is_err(), "{bad}");
        }
        assert!(path("/health?deep=1&x=%20").is_ok());
        for bad in ["", "health", "/a b", "/é", "/a#b"] {
            assert!(path(bad).is_err(), "{bad}");
        }
        assert!(method("GET").is_ok() && method("get").is_err() && method("CONNECT").is_err());
    }
}
