//! Reads values of each type: stores the position of each, and reports those that are not allowed.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use toml_edit::{Item, TableLike, Value};

use super::{Reader, keys::Keys, start};
use crate::{
    config::{text, validate::Place},
    model::{
        address,
        check::{Pattern, PatternError},
        duration,
        names::{self, Named},
        setting::{self, Setting},
    },
};

impl Reader<'_> {
    pub(super) fn table<'a>(
        &mut self,
        root: &'a dyn TableLike,
        name: &str,
        keys: &Keys,
    ) -> Option<&'a dyn TableLike> {
        let item = root.get(name)?;
        let Some(table) = item.as_table_like() else {
            self.problem(
                start(item),
                format!("{name} must be a table: write `[{name}]` on a line of its own"),
            );
            return None;
        };
        self.keys(table, keys, name);
        Some(table)
    }

    /// Reads the blocks of an array of tables.
    pub(super) fn blocks<'a>(
        &mut self,
        table: &'a dyn TableLike,
        name: &str,
        header: &str,
    ) -> Vec<&'a toml_edit::Table> {
        let Some(item) = table.get(name) else {
            return Vec::new();
        };
        let Some(array) = item.as_array_of_tables() else {
            self.problem(
                start(item),
                format!("write each {name} as a block of its own that begins with `{header}`"),
            );
            return Vec::new();
        };
        array.iter().collect()
    }

    /// Reads a value that is a table, or a list of tables; returns each with its byte offset. `wrong` says what it must be.
    pub(super) fn tables<'a>(
        &mut self,
        item: &'a Item,
        wrong: &str,
    ) -> Vec<(usize, &'a dyn TableLike)> {
        let mut tables: Vec<(usize, &dyn TableLike)> = Vec::new();
        match item {
            Item::ArrayOfTables(blocks) => {
                for block in blocks {
                    tables.push((block.span().map_or(0, |span| span.start), block));
                }
            }
            Item::Value(Value::Array(values)) => {
                for value in values {
                    let at = value.span().map_or(0, |span| span.start);
                    match value.as_inline_table() {
                        Some(table) => tables.push((at, table)),
                        None => self.problem(at, wrong),
                    }
                }
            }
            _ => match item.as_table_like() {
                Some(table) => tables.push((start(item), table)),
                None => self.problem(start(item), wrong),
            },
        }
        tables
    }

    pub(super) fn string<'a>(
        &mut self,
        table: &'a dyn TableLike,
        key: &str,
        place: Place,
    ) -> Option<&'a str> {
        let item = table.get(key)?;
        self.places.insert(place, start(item));
        let text = item.as_str();
        if text.is_none() {
            self.problem(start(item), format!("{key} must be a string in quotes"));
        }
        text
    }

    /// Reads a string with `parse`, whose error continues a sentence that begins with the key and the value.
    pub(super) fn parse_string<T>(
        &mut self,
        table: &dyn TableLike,
        key: &str,
        place: Place,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.string(table, key, place)?;
        parse(value)
            .map_err(|sentence| self.problem_at(place, format!("{key} `{value}` {sentence}")))
            .ok()
    }

    /// Reads a whole number. A value that is no `u32` is reported here as out of `range`; the validator checks all others.
    pub(super) fn number(
        &mut self,
        table: &dyn TableLike,
        key: &str,
        place: Place,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let item = table.get(key)?;
        self.places.insert(place, start(item));
        let Some(number) = item.as_integer() else {
            self.problem(start(item), format!("{key} must be a whole number"));
            return None;
        };
        let value = u32::try_from(number).ok();
        if value.is_none() {
            let (least, most) = range.into_inner();
            self.problem(
                start(item),
                format!("{key} {number} is out of range: {least}..={most}"),
            );
        }
        value
    }

    /// Reads a whole number. A value that is no `u8` is reported here as out of `range`; the validator checks all others.
    pub(super) fn byte(
        &mut self,
        table: &dyn TableLike,
        key: &str,
        place: Place,
        range: RangeInclusive<u8>,
    ) -> Option<u8> {
        let (least, most) = range.into_inner();
        let number = self.number(table, key, place, u32::from(least)..=u32::from(most))?;
        let value = u8::try_from(number).ok();
        if value.is_none() {
            self.problem_at(
                place,
                format!("{key} {number} is out of range: {least}..={most}"),
            );
        }
        value
    }

    pub(super) fn port(&mut self, table: &dyn TableLike, key: &str, place: Place) -> Option<u16> {
        let number = self.number(table, key, place, 1..=u32::from(u16::MAX))?;
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.problem_at(
                place,
                format!("{key} {number} is out of range: 1..={}", u16::MAX),
            );
        }
        port
    }

    pub(super) fn boolean(
        &mut self,
        table: &dyn TableLike,
        key: &str,
        place: Place,
    ) -> Option<bool> {
        let item = table.get(key)?;
        self.places.insert(place, start(item));
        let value = item.as_bool();
        if value.is_none() {
            self.problem(start(item), format!("{key} must be true or false"));
        }
        value
    }

    pub(super) fn duration(
        &mut self,
        table: &dyn TableLike,
        key: &str,
        place: Place,
    ) -> Option<Duration> {
        self.parse_string(table, key, place, duration::parse)
    }

    /// Reads a list of strings, each with its byte offset.
    pub(super) fn strings(
        &mut self,
        table: &dyn TableLike,
        key: &str,
        place: Place,
        example: &str,
    ) -> Option<Vec<(String, usize)>> {
        let item = table.get(key)?;
        self.places.insert(place, start(item));
        let strings = item.as_array().and_then(|array| {
            array
                .iter()
                .map(|value| {
                    let at = value.span().map_or(0, |span| span.start);
                    Some((value.as_str()?.to_owned(), at))
                })
                .collect()
        });
        if strings.is_none() {
            self.problem(
                start(item),
                format!("{key} must be a list of strings, as in {example}"),
            );
        }
        strings
    }

    /// Reads the user that a program runs as, by its name.
    pub(super) fn user(&mut self, table: &dyn TableLike, place: Place) -> Option<String> {
        self.string(table, "user", place).map(str::to_owned)
    }

    /// Reads a program and its arguments.
    pub(super) fn program(
        &mut self,
        table: &dyn TableLike,
        place: Place,
        within: &str,
        at: usize,
    ) -> Option<Vec<String>> {
        const EXAMPLE: &str = "[\"/usr/local/bin/alert\", \"--verbose\"]";
        if table.get("run").is_none() {
            self.problem(
                at,
                format!("{within} has no program: add one, as in `run = {EXAMPLE}`"),
            );
            return None;
        }
        let words = self.strings(table, "run", place, EXAMPLE)?;
        let words: Vec<_> = words.into_iter().map(|(word, _)| word).collect();
        match text::program(&words) {
            Ok(()) => Some(words),
            Err(sentence) => {
                self.problem_at(place, sentence);
                None
            }
        }
    }

    pub(super) fn file_path(
        &mut self,
        table: &dyn TableLike,
        key: &str,
        place: Place,
    ) -> Option<PathBuf> {
        self.parse_string(table, key, place, |path| {
            if path.starts_with('/') && !path.contains('\0') {
                Ok(PathBuf::from(path))
            } else {
                Err("is no absolute path: write it from `/` on".to_owned())
            }
        })
    }

    /// Reads a regular expression; an error is reported at the character where it is.
    pub(super) fn pattern(
        &mut self,
        table: &dyn TableLike,
        key: &str,
        place: Place,
    ) -> Option<Pattern> {
        let expression = self.string(table, key, place)?;
        let error = match Pattern::new(expression) {
            Ok(pattern) => return Some(pattern),
            Err(error) => error,
        };
        let span = table.get(key).and_then(Item::span);
        let at = match (&error, span) {
            (PatternError::Syntax { position, .. }, Some(span)) => self
                .text
                .get(span.clone())
                .and_then(|token| text::offset_in_token(token, *position))
                .map_or(span.start, |offset| span.start + offset),
            (_, span) => span.map_or(0, |span| span.start),
        };
        self.problem(
            at,
            format!("{key} `{expression}` is no regular expression: {error}"),
        );
        None
    }

    /// Reads a value by its name.
    pub(super) fn one_of<T: Named>(
        &mut self,
        table: &dyn TableLike,
        key: &str,
        place: Place,
    ) -> Option<T> {
        let name = self.string(table, key, place)?;
        names::read(key, name)
            .map_err(|sentence| self.problem_at(place, sentence))
            .ok()
    }

    /// Reads those of `settings` that a table has; an error is reported at the value.
    pub(super) fn settings<S: Default>(
        &mut self,
        table: &dyn TableLike,
        settings: &[Setting<S>],
        place: impl Fn(&'static str) -> Place,
    ) -> S {
        let mut read = S::default();
        for setting in settings {
            let Some(item) = table.get(setting.key) else {
                continue;
            };
            self.places.insert(place(setting.key), start(item));
            if let Some(array) = item.as_array()
                && (setting.read)(&mut S::default(), &setting::Value::List(Vec::new())).is_ok()
                && !self.entries(setting, array, place(setting.key))
            {
                continue;
            }
            if let Err(sentence) = (setting.read)(&mut read, &setting_value(item)) {
                self.problem(start(item), sentence);
            }
        }
        read
    }

    /// Stores the positions of a list's entries, and reports each that is not allowed; returns whether all are.
    fn entries<S: Default>(
        &mut self,
        setting: &Setting<S>,
        array: &toml_edit::Array,
        place: Place,
    ) -> bool {
        let mut is_good = true;
        for (number, entry) in array.iter().enumerate() {
            let at = entry.span().map_or(0, |span| span.start);
            self.places.insert(place.entry(number), at);
            let alone = match entry.as_str() {
                Some(text) => setting::Value::List(vec![text.into()]),
                None => setting::Value::Other,
            };
            if let Err(sentence) = (setting.read)(&mut S::default(), &alone) {
                self.problem(at, sentence);
                is_good = false;
            }
        }
        is_good
    }

    pub(super) fn parsed<T>(
        &mut self,
        place: Place,
        result: Option<Result<T, address::AddressError>>,
    ) -> Option<T> {
        match result? {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem_at(place, error.to_string());
                None
            }
        }
    }

    pub(super) fn problem_at(&mut self, place: Place, sentence: String) {
        let at = self.places.get(&place).copied().unwrap_or(0);
        self.problem(at, sentence);
    }

    pub(super) fn problem(&mut self, at: usize, sentence: impl Into<String>) {
        self.problems.push((at, sentence.into()));
    }
}

fn setting_value(item: &Item) -> setting::Value<'_> {
    match item.as_value() {
        Some(Value::String(text)) => setting::Value::Text(text.value().into()),
        Some(Value::Integer(number)) => setting::Value::Number(*number.value()),
        Some(Value::Boolean(flag)) => setting::Value::Flag(*flag.value()),
        Some(Value::Array(array)) => {
            let texts = array.iter().map(|entry| entry.as_str().map(Into::into));
            let texts = texts.collect::<Option<_>>();
            texts.map_or(setting::Value::Other, setting::Value::List)
        }
        Some(Value::Float(_) | Value::Datetime(_) | Value::InlineTable(_)) | None => {
            setting::Value::Other
        }
    }
}
