//! The tables of settings: which keys there are, and how each value is read and written. The configuration file's reader and
//! writer and the events about changes use them.

use std::{borrow::Cow, collections::HashSet, fmt, time::Duration};

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
    /// A list of strings.
    List(Vec<Cow<'a, str>>),
    /// None: the key is left out.
    Unset,
    /// Another list, a table, or another value that no setting takes.
    Other,
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::List(texts) => f.write_str(&texts.join(", ")),
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

/// The text of a value.
///
/// # Errors
/// It is of another type: a sentence that begins with the key.
pub fn text<'a>(key: &str, value: &'a Value<'_>) -> Result<&'a str, String> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Number(_) | Value::Flag(_) | Value::List(_) | Value::Unset | Value::Other => {
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
            Value::Text(_) | Value::Number(_) | Value::List(_) | Value::Unset | Value::Other => {
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

/// The settings in which two values differ, as in "quorum 1 -> 2"; `none` stands for a setting that is not set. Of lists it names what
/// was added and removed.
pub fn changes<S>(settings: &[Setting<S>], before: &S, after: &S) -> Vec<String> {
    let value = |setting: &Setting<S>, of: &S| (setting.written)(of).unwrap_or(Value::Unset);
    let values = settings.iter().map(|setting| {
        let key = setting.key;
        (key, value(setting, before), value(setting, after))
    });
    values
        .filter(|(_, before, after)| before != after)
        .map(|(key, before, after)| match (&before, &after) {
            (Value::List(before), Value::List(after)) => list_changes(key, before, after),
            (Value::List(before), Value::Unset) => list_changes(key, before, &[]),
            (Value::Unset, Value::List(after)) => list_changes(key, &[], after),
            _ => format!("{key} {before} -> {after}"),
        })
        .collect()
}

/// How a list has changed: "deny +198.51.100.0/24 -192.0.2.7", and how many more where that are many.
fn list_changes(key: &str, before: &[Cow<'_, str>], after: &[Cow<'_, str>]) -> String {
    let difference = |of: &[Cow<'_, str>], to: &[Cow<'_, str>], sign: &str| -> Vec<String> {
        let known: HashSet<_> = to.iter().collect();
        let new = of.iter().filter(|text| !known.contains(text));
        let mut new: Vec<_> = new.map(|text| format!("{sign}{text}")).collect();
        if new.len() > MOST_NAMED {
            let more = new.len() - MOST_NAMED;
            new.truncate(MOST_NAMED);
            new.push(format!("({sign}{more} more)"));
        }
        new
    };
    let added = difference(after, before, "+");
    let removed = difference(before, after, "-");
    let words: Vec<_> = added.into_iter().chain(removed).collect();
    if words.is_empty() {
        return format!("{key} in another order");
    }
    format!("{key} {}", words.join(" "))
}

/// Entries of a list that are named where it changes.
const MOST_NAMED: usize = 4;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_list_says_what_came_and_went() {
        let list = |range: std::ops::Range<u32>| -> Vec<Cow<'static, str>> {
            range.map(|number| number.to_string().into()).collect()
        };
        for (before, after, said) in [
            (list(0..0), list(1..3), "deny +1 +2"),
            (list(1..4), list(2..5), "deny +4 -1"),
            (list(1..3), list(0..0), "deny -1 -2"),
            (
                list(0..9),
                list(9..14),
                "deny +9 +10 +11 +12 (+1 more) -0 -1 -2 -3 (-5 more)",
            ),
        ] {
            assert_eq!(list_changes("deny", &before, &after), said);
        }
        let mut turned = list(1..4);
        turned.reverse();
        assert_eq!(
            list_changes("deny", &list(1..4), &turned),
            "deny in another order"
        );
    }
}
