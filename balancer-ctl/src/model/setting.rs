//! The tables of settings: which keys there are, and how each value is read and written. The configuration file's reader and
//! writer and the events about changes use them.

use std::{borrow::Cow, fmt, time::Duration};

use super::{OnDown, duration, names};

/// A value as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A string.
    Text(Cow<'a, str>),
    /// A whole number.
    Number(i64),
    /// True or false.
    Flag(bool),
    /// None: the key is left out.
    Unset,
    /// A list, a table, or another value that no setting takes.
    Other,
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::Unset => f.write_str("none"),
            Self::Other => Ok(()),
        }
    }
}

/// A setting of `S`, which is [`super::ServiceSettings`] or [`super::RealSettings`].
pub struct Setting<S> {
    /// Its key in the file; the API has `_` for `-`.
    pub key: &'static str,
    /// Reads a value of the file; the error is a sentence about it.
    pub read: fn(&mut S, &Value<'_>) -> Result<(), String>,
    /// The value to write to the file; `None` = not set.
    pub written: fn(&S) -> Option<Value<'static>>,
    /// Copies the value from another `S`, also if it is not set there.
    pub copy: fn(&mut S, &S),
}

/// A setting, by its key and the field of `S` that holds it. A number also has a range: a value that is no `u32` is refused
/// when it is read, one that is out of the range by the validator.
macro_rules! setting {
    ($key:literal, $field:ident) => {
        $crate::model::setting::Setting {
            key: $key,
            read: |settings, value| {
                let value = $crate::model::setting::SettingValue::read($key, value)?;
                settings.$field = Some(value);
                Ok(())
            },
            written: |settings| {
                let value = settings.$field.as_ref();
                value.map($crate::model::setting::SettingValue::written)
            },
            copy: |settings, other| settings.$field.clone_from(&other.$field),
        }
    };
    ($key:literal, $field:ident, $range:expr) => {
        $crate::model::setting::Setting {
            key: $key,
            read: |settings, value| {
                settings.$field = Some($crate::model::setting::number($key, value, &$range)?);
                Ok(())
            },
            written: |settings| {
                let number = settings.$field?;
                Some($crate::model::setting::Value::Number(i64::from(number)))
            },
            copy: |settings, other| settings.$field = other.$field,
        }
    };
}
pub(crate) use setting;

/// A type of values that a setting can have, other than numbers.
pub trait SettingValue: Sized {
    /// Reads it; the error is a sentence that begins with the key.
    ///
    /// # Errors
    /// It is of another type, or not allowed.
    fn read(key: &str, value: &Value<'_>) -> Result<Self, String>;

    /// The value to write to the file.
    fn written(&self) -> Value<'static>;
}

fn text<'a>(key: &str, value: &'a Value<'_>) -> Result<&'a str, String> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Number(_) | Value::Flag(_) | Value::Unset | Value::Other => {
            Err(format!("{key} must be a string in quotes"))
        }
    }
}

/// Reads a whole number.
///
/// # Errors
/// It is of another type, or so far out of range that it is no `u32`.
pub fn number(
    key: &str,
    value: &Value<'_>,
    range: &std::ops::RangeInclusive<u32>,
) -> Result<u32, String> {
    let Value::Number(number) = value else {
        return Err(format!("{key} must be a whole number"));
    };
    u32::try_from(*number).map_err(|_| {
        let (least, most) = (range.start(), range.end());
        format!("{key} {number} is out of range: {least}..={most}")
    })
}

impl<T: names::Named> SettingValue for T {
    fn read(key: &str, value: &Value<'_>) -> Result<Self, String> {
        names::read(key, text(key, value)?)
    }

    fn written(&self) -> Value<'static> {
        Value::Text(self.name().into())
    }
}

impl SettingValue for String {
    fn read(key: &str, value: &Value<'_>) -> Result<Self, String> {
        text(key, value).map(str::to_owned)
    }

    fn written(&self) -> Value<'static> {
        Value::Text(self.clone().into())
    }
}

impl SettingValue for bool {
    fn read(key: &str, value: &Value<'_>) -> Result<Self, String> {
        match value {
            Value::Flag(flag) => Ok(*flag),
            Value::Text(_) | Value::Number(_) | Value::Unset | Value::Other => {
                Err(format!("{key} must be true or false"))
            }
        }
    }

    fn written(&self) -> Value<'static> {
        Value::Flag(*self)
    }
}

impl SettingValue for Duration {
    fn read(key: &str, value: &Value<'_>) -> Result<Self, String> {
        let text = text(key, value)?;
        duration::parse(text).map_err(|sentence| format!("{key} `{text}` {sentence}"))
    }

    fn written(&self) -> Value<'static> {
        Value::Text(duration::exact(*self).into())
    }
}

impl SettingValue for OnDown {
    fn read(key: &str, value: &Value<'_>) -> Result<Self, String> {
        let text = text(key, value)?;
        text.parse()
            .map_err(|sentence| format!("{key} `{text}` {sentence}"))
    }

    fn written(&self) -> Value<'static> {
        Value::Text(self.to_string().into())
    }
}

/// The settings in which two values differ, as in "quorum 1 -> 2"; `none` stands for a setting that is not set.
pub fn changes<S>(settings: &[Setting<S>], before: &S, after: &S) -> Vec<String> {
    let shown =
        |value: Option<Value<'_>>| value.map_or_else(|| "none".to_owned(), |v| v.to_string());
    let values = settings.iter().map(|setting| {
        let value = |of: &S| shown((setting.written)(of));
        (setting.key, value(before), value(after))
    });
    values
        .filter(|(_, before, after)| before != after)
        .map(|(key, before, after)| format!("{key} {before} -> {after}"))
        .collect()
}

/// Copies from `other` each setting that `own` does not set and that differs from `default` there.
pub fn fill<S>(settings: &[Setting<S>], own: &mut S, other: &S, default: &S) {
    for setting in settings {
        let written = |of: &S| (setting.written)(of);
        if written(own).is_none() && written(other) != written(default) {
            (setting.copy)(own, other);
        }
    }
}

/// Unsets in `own` each setting that has the same value in `other`.
pub fn leave_out<S: Default>(settings: &[Setting<S>], own: &mut S, other: &S) {
    let unset = S::default();
    for setting in settings {
        if (setting.written)(own) == (setting.written)(other) {
            (setting.copy)(own, &unset);
        }
    }
}
