//! Edits the configuration file's text for changes of the model. Comments and the order of what stays are kept. Pure.

mod check;
mod inline;
mod list;
mod persistence;

use std::{cmp::Reverse, collections::BTreeMap, net::SocketAddr};

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TableLike, Value};

use self::{check::set_checks, list::set_list, persistence::set_persistence};
use super::{parts::Parts, read, write};
use crate::model::{
    AdminState, Check, Model, RealSettings, ServiceKey, ServiceSettings, VirtualService,
    change::Change, error::ApiError, real::REAL_SETTINGS, service::SERVICE_SETTINGS, setting,
};

/// A file's text, and what was read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The text.
    pub text: String,
    /// Which of its bytes belong to which service.
    pub parts: Parts,
    /// The model that the text describes.
    pub model: Model,
}

impl Content {
    /// The content with `changes` made to its text, which then describes `wanted`. `host` names the node if the text does not.
    ///
    /// # Errors
    /// The changes cannot be made to this text.
    pub fn edited(&self, host: &str, changes: &[Change], wanted: Model) -> Result<Self, ApiError> {
        let (text, parts) = match self.edited_in_parts(host, changes) {
            Some(edited) => edited,
            None => self.edited_as_a_whole(host, changes, &wanted)?,
        };
        Ok(Self {
            text,
            parts,
            model: wanted,
        })
    }

    /// Edits and reads again only the text of the services that change: among a thousand services, this takes a tenth of the time.
    /// `None` where that cannot be done.
    fn edited_in_parts(&self, host: &str, changes: &[Change]) -> Option<(String, Parts)> {
        if self.text.contains('\r') {
            return None;
        }
        let services = &self.model.services;
        let mut by_part: BTreeMap<usize, Vec<&Change>> = BTreeMap::new();
        for change in changes {
            let key = change.service()?;
            let index = services.iter().position(|service| service.key == *key);
            if matches!(change, Change::DelService(_)) {
                return None;
            }
            // A new service is written behind the last.
            let part = index.or_else(|| services.len().checked_sub(1))?;
            by_part.entry(part).or_default().push(change);
        }
        let (mut text, mut parts) = (self.text.clone(), self.parts.clone());
        // The last first, so that the bytes of those before it stay where they are.
        for (index, changes) in by_part.into_iter().rev() {
            let bytes = parts.get(index)?;
            let mut document: DocumentMut = text.get(bytes.clone())?.parse().ok()?;
            let mut services = vec![services[index].clone()];
            apply_all(&mut document, &mut services, changes).ok()?;
            let part = document.to_string();
            let (model, within) = read::validated(&part, host, |_| Vec::new()).ok()?;
            let is_last = bytes.end == text.len();
            let ends_a_line = part.trim_end_matches([' ', '\t']).ends_with('\n');
            let is_understood = model.services == services && within.len() == services.len();
            if !is_understood || !(is_last || ends_a_line) {
                return None;
            }
            parts.replace(index, &within, part.len());
            text.replace_range(bytes, &part);
        }
        Some((text, parts))
    }

    fn edited_as_a_whole(
        &self,
        host: &str,
        changes: &[Change],
        wanted: &Model,
    ) -> Result<(String, Parts), ApiError> {
        let text = &self.text;
        // If all lines end with CR LF, they do so afterwards.
        let returns =
            text.contains("\r\n") && text.matches('\n').count() == text.matches("\r\n").count();
        let mut document: DocumentMut = text
            .replace("\r\n", "\n")
            .parse()
            .map_err(|error| ApiError::failed(format!("the file is not TOML any more: {error}")))?;
        apply_all(&mut document, &mut self.model.services.clone(), changes)?;
        let mut text = document.to_string();
        if returns {
            text = text.replace('\n', "\r\n");
        }
        // However the file is laid out, it must describe exactly what runs: the next reload reads it.
        match read::validated(&text, host, |_| Vec::new()) {
            Ok((read, parts)) if read == *wanted => Ok((text, parts)),
            _ => Err(ApiError::failed(
                "the configuration file is laid out in a way that this change cannot be written to: \
                 edit the file, then `balancer-ctl reload`",
            )),
        }
    }
}

/// Makes changes to a document and to `services`, which are those in it.
fn apply_all<'a>(
    document: &mut DocumentMut,
    services: &mut Vec<VirtualService>,
    changes: impl IntoIterator<Item = &'a Change>,
) -> Result<(), ApiError> {
    for change in changes {
        apply(document, services, change);
        change.apply(services)?;
    }
    Ok(())
}

fn apply(document: &mut DocumentMut, saved: &[VirtualService], change: &Change) {
    let service = |key: &ServiceKey| saved.iter().position(|service| service.key == *key);
    let real = |key: &ServiceKey, address: &SocketAddr| {
        let index = service(key)?;
        Some((
            index,
            saved[index]
                .reals
                .iter()
                .position(|real| real.address == *address)?,
        ))
    };
    match change {
        Change::AddService(key, settings) => add_service(document, key, settings),
        Change::EditService(key, settings) => {
            if let Some(index) = service(key)
                && let Some(table) = service_mut(document, index)
            {
                let gone = set_service(table, settings, &saved[index].checks);
                for block in gone {
                    put_back(document, &block);
                }
            }
        }
        Change::DelService(key) => {
            if let Some(index) = service(key) {
                remove(document, None, index);
            }
        }
        Change::AddReal(key, address, settings) => {
            if let Some(table) = service(key).and_then(|index| service_mut(document, index)) {
                add_real(table, address, *settings);
            }
        }
        Change::EditReal(key, address, settings) => {
            if let Some((index, number)) = real(key, address)
                && let Some(table) = service_mut(document, index)
                && let Some(table) = blocks(table, "real").and_then(|reals| reals.get_mut(number))
            {
                set_real(table, *settings);
            }
        }
        Change::DelReal(key, address) => {
            if let Some((index, number)) = real(key, address) {
                remove(document, Some(index), number);
            }
        }
        Change::Clear => {
            for index in (0..saved.len()).rev() {
                remove(document, None, index);
            }
        }
    }
}

fn blocks<'a>(table: &'a mut Table, name: &str) -> Option<&'a mut ArrayOfTables> {
    table.get_mut(name)?.as_array_of_tables_mut()
}

fn service_mut(document: &mut DocumentMut, index: usize) -> Option<&mut Table> {
    blocks(document.as_table_mut(), "service")?.get_mut(index)
}

fn add_service(document: &mut DocumentMut, key: &ServiceKey, settings: &ServiceSettings) {
    let mut block = write::service(key, settings);
    // Behind the whole of the last service, also behind blocks that earlier changes of this batch have added to it.
    let services = blocks(document.as_table_mut(), "service");
    block.set_position(
        services.and_then(|services| services.iter().filter_map(last_position).max()),
    );
    push(document.as_table_mut(), "service", block);
}

fn add_real(service: &mut Table, address: &SocketAddr, settings: RealSettings) {
    let mut table = write::real(address, settings);
    // A new block is indented as its neighbours are.
    let sibling = blocks(service, "real").and_then(|reals| reals.iter().last());
    let (header, indent) = sibling.map_or_else(
        || (String::new(), String::new()),
        |sibling| {
            (
                indent_of(sibling.decor().prefix()),
                first_key_indent(sibling),
            )
        },
    );
    table.decor_mut().set_prefix(format!("\n{header}"));
    indented(&mut table, &indent);
    push(service, "real", table);
}

fn indented(table: &mut Table, indent: &str) {
    for (mut key, _) in table.iter_mut() {
        key.leaf_decor_mut().set_prefix(indent);
    }
}

fn push(parent: &mut Table, name: &str, table: Table) {
    let item = parent
        .entry(name)
        .or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    if let Some(array) = item.as_array_of_tables_mut() {
        array.push(table);
    }
}

/// Writes settings into a service's table; returns the blocks that it removed, the last first.
fn set_service(table: &mut Table, settings: &ServiceSettings, saved: &[Check]) -> Vec<Table> {
    for setting in &SERVICE_SETTINGS {
        match (setting.written)(settings) {
            Some(setting::Value::Unset) => {
                table.remove(setting.key);
            }
            Some(setting::Value::List(texts)) => set_list(table, setting.key, &texts),
            written => {
                if let Some(value) = written.and_then(write::value) {
                    set(table, setting.key, value);
                }
            }
        }
    }
    let leaves_hashing = settings
        .scheduler
        .is_some_and(|scheduler| !scheduler.hashes_client());
    if leaves_hashing && settings.hash.is_none() {
        table.remove("hash");
    }
    let mut gone = match &settings.checks {
        Some(wanted) => set_checks(table, saved, wanted),
        None => Vec::new(),
    };
    if let Some(persistence) = &settings.persistence {
        gone.extend(set_persistence(table, persistence));
        // The last first.
        gone.sort_by_key(|block| Reverse(block.position()));
    }
    gone
}

fn set_real(table: &mut Table, settings: RealSettings) {
    for setting in &REAL_SETTINGS {
        // `ready` is the default, so the key is removed, unless a comment belongs to it.
        if setting.key == "state"
            && settings.state == Some(AdminState::Ready)
            && !has_comment(table, setting.key)
        {
            table.remove(setting.key);
        } else if let Some(value) = (setting.written)(&settings).and_then(write::value) {
            set(table, setting.key, value);
        }
    }
}

/// Whether a comment stands above or behind a key.
fn has_comment(table: &Table, key: &str) -> bool {
    let Some((key, item)) = table.get_key_value(key) else {
        return false;
    };
    let value = item.as_value().and_then(|value| value.decor().suffix());
    [key.leaf_decor().prefix(), value]
        .into_iter()
        .flatten()
        .any(|raw| raw.as_str().is_some_and(|text| text.contains('#')))
}

/// Sets a key; the comment behind an old value stays, a new key is indented as the others.
fn set(table: &mut dyn TableLike, key: &str, mut value: Value) {
    if let Some(old) = table.get_mut(key).and_then(Item::as_value_mut) {
        *value.decor_mut() = old.decor().clone();
        *old = value;
        return;
    }
    table.remove(key);
    let indent = first_key_indent(table);
    table.insert(key, Item::Value(value));
    if let Some(mut key) = table.key_mut(key) {
        key.leaf_decor_mut().set_prefix(indent);
    }
}

/// The white space in front of a table's first key.
fn first_key_indent(table: &dyn TableLike) -> String {
    let key = table.iter().next().and_then(|(key, _)| table.key(key));
    indent_of(key.and_then(|key| key.leaf_decor().prefix()))
}

/// The white space behind the last line break of `decor`, the text in front of a key or header.
fn indent_of(decor: Option<&toml_edit::RawString>) -> String {
    let text = decor.and_then(|raw| raw.as_str()).unwrap_or_default();
    let line = text.rsplit('\n').next().unwrap_or_default();
    line.chars()
        .take_while(|c| *c == ' ' || *c == '\t')
        .collect()
}

/// Removes a service, or a service's real server. Comments that a blank line separates from its header belong to
/// the file and move to the next header.
fn remove(document: &mut DocumentMut, service: Option<usize>, index: usize) {
    let parent = match service {
        None => Some(document.as_table_mut()),
        Some(service) => service_mut(document, service),
    };
    let name = if service.is_none() { "service" } else { "real" };
    let Some(parent) = parent else { return };
    let Some(array) = blocks(parent, name) else {
        return;
    };
    let removed = array.remove(index);
    if array.is_empty() {
        parent.remove(name);
    }
    put_back(document, &removed);
}

/// Moves the comments above a removed block, down to the last blank line above its header, to the next header, or to the end.
fn put_back(document: &mut DocumentMut, removed: &Table) {
    let prefix = removed
        .decor()
        .prefix()
        .and_then(|raw| raw.as_str())
        .unwrap_or_default();
    let kept = prefix.rfind("\n\n").map_or("", |end| &prefix[..=end]);
    if !kept.contains('#') {
        return;
    }
    let last = last_position(removed).unwrap_or(0);
    let Some(next) = next_position(document.as_table(), last) else {
        let trailing = document.trailing().as_str().unwrap_or_default();
        document.set_trailing(format!("{kept}{trailing}"));
        return;
    };
    if let Some(table) = table_at(document.as_table_mut(), next) {
        let own = table
            .decor()
            .prefix()
            .and_then(|raw| raw.as_str())
            .unwrap_or_default();
        let joined = format!("{kept}{own}");
        table.decor_mut().set_prefix(joined);
    }
}

/// The tables directly within a table.
fn children(table: &Table) -> impl Iterator<Item = &Table> {
    table.iter().flat_map(|(_, item)| {
        item.as_table().into_iter().chain(
            item.as_array_of_tables()
                .into_iter()
                .flat_map(ArrayOfTables::iter),
        )
    })
}

/// Position in the document of the last header of a table and the tables in it; `None` if they are all new, as new tables have no
/// position.
fn last_position(table: &Table) -> Option<isize> {
    children(table)
        .filter_map(last_position)
        .chain(table.position())
        .max()
}

/// Position of the first header behind `after`.
fn next_position(table: &Table, after: isize) -> Option<isize> {
    let own = table
        .position()
        .filter(|position| *position > after && !table.is_implicit() && !table.is_dotted());
    children(table)
        .filter_map(|child| next_position(child, after))
        .chain(own)
        .min()
}

fn table_at(table: &mut Table, position: isize) -> Option<&mut Table> {
    if table.position() == Some(position) && !table.is_implicit() && !table.is_dotted() {
        return Some(table);
    }
    table.iter_mut().find_map(|(_, item)| match item {
        Item::Table(table) => table_at(table, position),
        Item::ArrayOfTables(array) => array.iter_mut().find_map(|table| table_at(table, position)),
        Item::Value(_) | Item::None => None,
    })
}

#[cfg(test)]
mod tests;
