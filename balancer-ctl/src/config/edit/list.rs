//! Writes a list of a service into the file's text: entries that stay keep their places and their comments.

use std::{borrow::Cow, collections::HashSet};

use toml_edit::{Array, Item, RawString, TableLike};

use super::set;
use crate::{config::write, model::setting};

/// Makes the list `key` in `table` hold `texts`.
pub(super) fn set_list(table: &mut dyn TableLike, key: &str, texts: &[Cow<'_, str>]) {
    let old = table.get_mut(key).and_then(Item::as_array_mut);
    if old.is_some_and(|array| rewrite(array, texts)) {
        return;
    }
    let list = setting::Value::List(texts.to_vec());
    if let Some(value) = write::value(list) {
        set(table, key, value);
    }
}

/// An entry with the text around it.
struct Entry {
    /// White space and comments above it, from the line break on.
    above: String,
    text: String,
    /// What stands behind its comma, up to the line break: its comment.
    behind: String,
}

/// Removes from a list what is not wanted, and adds what is new at its end. `false`, with the list as it was, where that does not give
/// the order that is wanted.
fn rewrite(array: &mut Array, texts: &[Cow<'_, str>]) -> bool {
    let Some((head, mut entries, tail)) = parts(array) else {
        return false;
    };
    let wanted: HashSet<&str> = texts.iter().map(AsRef::as_ref).collect();
    entries.retain(|entry| wanted.contains(entry.text.as_str()));
    let is_beginning = entries.len() <= texts.len()
        && entries
            .iter()
            .zip(texts)
            .all(|(entry, text)| entry.text == *text);
    let Some(last) = entries.last().filter(|_| is_beginning) else {
        return false;
    };
    let indent = last.above.rsplit_once('\n').map(|(_, indent)| indent);
    let above = indent.map_or_else(|| " ".to_owned(), |indent| format!("\n{indent}"));
    let added = texts.iter().skip(entries.len()).map(|text| Entry {
        above: above.clone(),
        text: text.to_string(),
        behind: String::new(),
    });
    let added: Vec<_> = added.collect();
    entries.extend(added);

    let is_on_lines = entries.iter().any(|entry| entry.above.contains('\n'));
    array.clear();
    let mut before = head;
    for entry in entries {
        let above = if array.is_empty() && before.is_empty() && !entry.above.contains('\n') {
            ""
        } else {
            entry.above.as_str()
        };
        let prefix = format!("{before}{above}");
        let mut value = toml_edit::Value::from(entry.text);
        value.decor_mut().set_prefix(prefix);
        value.decor_mut().set_suffix("");
        array.push_formatted(value);
        before = entry.behind;
    }
    array.set_trailing_comma(is_on_lines);
    array.set_trailing(format!("{before}{tail}"));
    true
}

/// What stands in front of the first line break, and from it on; all of it behind where there is none.
fn at_line_break(text: &str) -> (&str, &str) {
    text.split_at(text.find('\n').unwrap_or(0))
}

/// What stands behind the opening bracket, the entries, and what stands in front of the closing bracket.
fn parts(array: &Array) -> Option<(String, Vec<Entry>, String)> {
    let raw = |raw: Option<&RawString>| {
        raw.and_then(RawString::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut head = String::new();
    let mut entries: Vec<Entry> = Vec::with_capacity(array.len());
    for value in array {
        let prefix = raw(value.decor().prefix());
        let (behind, above) = at_line_break(&prefix);
        match entries.last_mut() {
            Some(last) => last.behind.push_str(behind),
            None => head.push_str(behind),
        }
        entries.push(Entry {
            above: above.to_owned(),
            text: value.as_str()?.to_owned(),
            behind: String::new(),
        });
    }
    // Without a comma, the last one's comment stands in front of where that would be.
    let suffix = array.iter().last().map(|last| raw(last.decor().suffix()));
    let trailing = raw(Some(array.trailing()));
    let trailing = suffix.unwrap_or_default() + &trailing;
    let (behind, tail) = at_line_break(&trailing);
    entries.last_mut()?.behind.push_str(behind);
    Some((head, entries, tail.to_owned()))
}
