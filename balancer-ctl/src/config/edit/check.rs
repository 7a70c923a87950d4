//! Writes a service's checks into `[service.check]` of the file's text. Keys that have the wanted value already stay as they are.

use toml_edit::{Array, ArrayOfTables, InlineTable, Item, Table, TableLike, Value};

use super::{first_key_indent, indent_of, indented, inline::edit_inline, set};
use crate::{
    config::write,
    model::{Check, check::keys, toml_json},
};

/// Changes the checks in `service` from `saved` to `wanted`; returns the blocks that it removed, the last first.
pub(super) fn set_checks(service: &mut Table, saved: &[Check], wanted: &[Check]) -> Vec<Table> {
    if wanted.is_empty() {
        return match service.remove("check") {
            Some(Item::Table(table)) => vec![table],
            Some(Item::ArrayOfTables(blocks)) => {
                let mut blocks: Vec<_> = blocks.into_iter().collect();
                blocks.reverse();
                blocks
            }
            Some(Item::Value(_) | Item::None) | None => Vec::new(),
        };
    }
    if wanted.len() > 1 {
        make_list(service);
    }
    match service.get_mut("check") {
        Some(Item::Table(table)) => rewrite(table, saved.first(), &wanted[0]),
        Some(Item::Value(Value::InlineTable(table))) => {
            edit_inline(table, |table| rewrite(table, saved.first(), &wanted[0]));
        }
        Some(Item::ArrayOfTables(blocks)) => return set_blocks(blocks, saved, wanted),
        Some(Item::Value(Value::Array(array))) => set_values(array, saved, wanted),
        Some(_) | None => add(service, wanted),
    }
    Vec::new()
}

/// Makes a single check a list of one, as blocks or as inline tables.
fn make_list(service: &mut Table) {
    let Some(item) = service.get_mut("check") else {
        return;
    };
    match std::mem::take(item) {
        Item::Table(mut table) => {
            table.set_dotted(false);
            let mut blocks = ArrayOfTables::new();
            blocks.push(table);
            *item = Item::ArrayOfTables(blocks);
        }
        Item::Value(Value::InlineTable(mut table)) => {
            let decor = table.decor().clone();
            table.decor_mut().clear();
            let mut array = Array::new();
            array.push(table);
            *array.decor_mut() = decor;
            *item = Item::Value(Value::Array(array));
        }
        other => *item = other,
    }
}

fn set_blocks(blocks: &mut ArrayOfTables, saved: &[Check], wanted: &[Check]) -> Vec<Table> {
    let mut gone = Vec::new();
    while blocks.len() > wanted.len() {
        gone.push(blocks.remove(blocks.len() - 1));
    }
    for (index, check) in wanted.iter().enumerate() {
        if let Some(block) = blocks.get_mut(index) {
            rewrite(block, saved.get(index), check);
            continue;
        }
        let (header, indent) = blocks
            .iter()
            .last()
            .map(|last| (indent_of(last.decor().prefix()), first_key_indent(last)))
            .unwrap_or_default();
        let position = blocks.iter().last().and_then(Table::position);
        let mut block = block(check, &header, &indent);
        block.set_position(position);
        blocks.push(block);
    }
    gone
}

fn set_values(array: &mut Array, saved: &[Check], wanted: &[Check]) {
    while array.len() > wanted.len() {
        array.remove(array.len() - 1);
    }
    for (index, check) in wanted.iter().enumerate() {
        match array.get_mut(index) {
            Some(Value::InlineTable(table)) => {
                edit_inline(table, |table| rewrite(table, saved.get(index), check));
            }
            Some(other) => *other = keys::table(check).into(),
            // It is spaced as the one before it.
            None => {
                let mut value = Value::InlineTable(keys::table(check));
                let before = array.iter().last().and_then(|last| last.decor().prefix());
                let prefix = before.and_then(|raw| raw.as_str()).unwrap_or_default();
                value.decor_mut().set_prefix(match prefix {
                    "" => " ",
                    prefix => prefix,
                });
                array.push_formatted(value);
            }
        }
    }
}

/// Adds checks where there are none, as blocks in front of the service's real servers.
fn add(service: &mut Table, wanted: &[Check]) {
    let sibling = service
        .iter()
        .find_map(|(_, item)| item.as_array_of_tables()?.iter().next());
    let (header, indent) = sibling
        .map(|sibling| {
            (
                indent_of(sibling.decor().prefix()),
                first_key_indent(sibling),
            )
        })
        .unwrap_or_default();
    let position = service.position();
    let block = |check| {
        let mut block = block(check, &header, &indent);
        block.set_position(position);
        block
    };
    let item = match wanted {
        [only] => Item::Table(block(only)),
        several => Item::ArrayOfTables(several.iter().map(block).collect()),
    };
    service.insert("check", item);
}

fn block(check: &Check, header: &str, indent: &str) -> Table {
    let mut block = write::check(check);
    block.decor_mut().set_prefix(format!("\n{header}"));
    indented(&mut block, indent);
    block
}

/// Changes the keys of a table that do not have the wanted value.
fn rewrite(table: &mut dyn TableLike, saved: Option<&Check>, wanted: &Check) {
    let before = saved.map(keys::table).unwrap_or_default();
    let after = keys::table(wanted);
    let is_same = |key: &str| {
        let text = |words: &InlineTable| words.get(key).map(toml_json::to_json);
        text(&before) == text(&after)
    };
    let mut keys: Vec<String> = before.iter().map(|(key, _)| key.to_owned()).collect();
    keys.extend(after.iter().map(|(key, _)| key.to_owned()));
    // The block may have keys with their default value, which may be wrong for the new check.
    keys.extend(table.iter().map(|(key, _)| key.to_owned()));
    keys.dedup();
    for key in keys {
        match after.get(&key) {
            _ if is_same(&key) && after.get(&key).is_some() => {}
            Some(value) => set(table, &key, value.clone()),
            None if is_same(&key) && saved.is_some_and(|saved| keeps(saved, wanted, &key)) => {}
            None => {
                table.remove(&key);
            }
        }
    }
}

/// Whether a key that has its default value is still right. The default timeout follows from the interval.
fn keeps(saved: &Check, wanted: &Check, key: &str) -> bool {
    saved.probe.name() == wanted.probe.name()
        && (key != "timeout" || saved.timing.timeout == wanted.timing.timeout)
}
