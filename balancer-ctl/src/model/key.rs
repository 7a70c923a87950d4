//! A key of the configuration file, as the parser knows it and as the manual describes it. Pure.

/// A key of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// How it is written.
    pub name: &'static str,
    /// What it is, and what is allowed. What stands in backquotes is typed so.
    pub what: &'static str,
    /// What holds without it, or that it must be named.
    pub default: &'static str,
}

/// A key.
#[must_use]
pub const fn key(name: &'static str, what: &'static str, default: &'static str) -> Key {
    Key {
        name,
        what,
        default,
    }
}

/// The names of keys.
#[must_use]
pub fn names(keys: &[Key]) -> Vec<&'static str> {
    keys.iter().map(|key| key.name).collect()
}
