//! Values as the configuration file has them. Pure.

use toml_edit::{Array, InlineTable, Value};

/// A table that is being filled.
#[derive(Debug, Default)]
pub struct TableBuilder(pub InlineTable);

impl TableBuilder {
    /// Adds a key.
    pub fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key, value.into());
    }

    /// Adds a key, if it has a value.
    pub fn put_some(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }
}

/// `value`, unless it is the default.
pub fn non_default<T: PartialEq>(value: T, default: T) -> Option<T> {
    Some(value).filter(|value| *value != default)
}

/// A string on one line. toml_edit would write one with line breaks over several lines, and in a file with other line endings
/// it would then have another value.
#[must_use]
pub fn one_line(text: &str) -> Value {
    if !text.contains(char::is_control) {
        return text.into();
    }
    // JSON's escapes are valid in TOML, which escapes one character more.
    let escaped = serde_json::Value::from(text).to_string();
    let escaped = escaped.replace('\u{7f}', "\\u007f");
    escaped.parse().unwrap_or_else(|_| text.into())
}

/// A list of such strings.
#[must_use]
pub fn lines(texts: &[String]) -> Array {
    texts.iter().map(|text| one_line(text)).collect()
}
