//! TOML values ↔ JSON. Pure.

use toml_edit::{Array, InlineTable, Value};

/// A value of the file as JSON.
#[must_use]
pub fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::String(text) => text.value().as_str().into(),
        Value::Integer(number) => (*number.value()).into(),
        Value::Float(number) => (*number.value()).into(),
        Value::Boolean(value) => (*value.value()).into(),
        // JSON has no type for it, and no key takes one.
        Value::Datetime(time) => time.value().to_string().into(),
        Value::Array(array) => array.iter().map(to_json).collect(),
        Value::InlineTable(table) => table
            .iter()
            .map(|(key, value)| (key.to_owned(), to_json(value)))
            .collect(),
    }
}

/// JSON as a value of the file.
///
/// # Errors
/// It contains `null`, or a number that TOML cannot hold.
pub fn from_json(json: &serde_json::Value) -> Result<Value, String> {
    Ok(match json {
        serde_json::Value::Null => {
            return Err("null is no value: leave the key out".to_owned());
        }
        serde_json::Value::Bool(value) => (*value).into(),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => return Err(format!("{number} is too large a number")),
        },
        serde_json::Value::String(text) => text.into(),
        serde_json::Value::Array(values) => {
            Value::Array(values.iter().map(from_json).collect::<Result<Array, _>>()?)
        }
        serde_json::Value::Object(entries) => {
            let entries = entries
                .iter()
                .map(|(key, entry)| Ok((key, from_json(entry)?)));
            Value::InlineTable(entries.collect::<Result<InlineTable, String>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_that_no_file_can_hold_is_refused() {
        assert_eq!(
            from_json(&serde_json::json!({"port": null})).unwrap_err(),
            "null is no value: leave the key out"
        );
    }
}
