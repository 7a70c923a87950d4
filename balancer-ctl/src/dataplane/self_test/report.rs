//! How the self-test reports a wrong answer of the packet program.

use std::fs;

/// The first difference between the expected and the found verdict and frame; `None` if they are equal.
pub fn difference(expected: (u32, &[u8]), found: (u32, &[u8])) -> Option<String> {
    if found.0 != expected.0 {
        return Some(format!(
            "got the verdict {} instead of {}",
            verdict_name(found.0),
            verdict_name(expected.0)
        ));
    }
    if found.1.len() != expected.1.len() {
        return Some(format!(
            "came out with {} bytes instead of {}",
            found.1.len(),
            expected.1.len()
        ));
    }
    let mut bytes = found.1.iter().zip(expected.1);
    let position = bytes.position(|(found, expected)| found != expected)?;
    Some(format!("came out wrong from byte {position} on"))
}

/// The kernel's name of a verdict.
fn verdict_name(number: u32) -> String {
    match number {
        0 => "XDP_ABORTED".to_owned(),
        1 => "XDP_DROP".to_owned(),
        2 => "XDP_PASS".to_owned(),
        3 => "XDP_TX".to_owned(),
        4 => "XDP_REDIRECT".to_owned(),
        other => other.to_string(),
    }
}

/// The sentence that says why the program is not attached.
pub fn refusal(fault: &str) -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "this kernel's verifier ({}) has made another program of the packet program: in a trial run {fault}. It is not attached, since \
         connections would fail in silence; run another kernel, and please report this one",
        release.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_reported() {
        let frame = [1, 2, 3];
        assert_eq!(difference((3, &frame), (3, &frame)), None);
        for (found, reported) in [
            (
                (2, &[1_u8, 2, 3][..]),
                "got the verdict XDP_PASS instead of XDP_TX",
            ),
            ((3, &[1, 2][..]), "came out with 2 bytes instead of 3"),
            ((3, &[1, 2, 4][..]), "came out wrong from byte 2 on"),
        ] {
            assert_eq!(difference((3, &frame), found).as_deref(), Some(reported));
        }
    }
}
