//! Lists of names in sentences. Pure.

/// Lists names: "`a`, `b` or `c`".
#[must_use]
pub fn listed(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// Lists the first ten names, and how many more there are.
#[must_use]
pub fn listed_few(names: &[String]) -> String {
    const FEW: usize = 10;
    let few: Vec<_> = names.iter().take(FEW).map(String::as_str).collect();
    let more = names.len().saturating_sub(FEW);
    if more == 0 {
        listed(&few)
    } else {
        format!("`{}` (and {more} more)", few.join("`, `"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_as_a_sentence_and_does_not_grow_for_ever() {
        assert_eq!(listed(&["a"]), "`a`");
        assert_eq!(listed(&["a", "b", "c"]), "`a`, `b` or `c`");
        let names: Vec<_> = (1..=12).map(|number| format!("s{number}")).collect();
        assert_eq!(listed_few(&names[..2]), "`s1` or `s2`");
        let few = "`s1`, `s2`, `s3`, `s4`, `s5`, `s6`, `s7`, `s8`, `s9`, `s10` (and 2 more)";
        assert_eq!(listed_few(&names), few);
    }
}
