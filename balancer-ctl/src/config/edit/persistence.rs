//! Writes a service's persistence into the file's text, whether it is an inline table or a block there.

use toml_edit::{Item, Table, TableLike, Value};

use super::{inline::edit_inline, set};
use crate::{
    config::write,
    model::{PersistenceSettings, persistence::PERSISTENCE_SETTINGS, setting},
};

const KEY: &str = "persistence";

/// Changes the persistence in `service` by `settings`; returns the block that it removed.
pub(super) fn set_persistence(
    service: &mut Table,
    settings: &PersistenceSettings,
) -> Option<Table> {
    if settings.is_off() {
        return service.remove(KEY)?.into_table().ok();
    }
    match service.get_mut(KEY) {
        Some(Item::Table(table)) => rewrite(table, settings),
        Some(Item::Value(Value::InlineTable(table))) => {
            edit_inline(table, |table| rewrite(table, settings));
        }
        Some(_) | None => set(service, KEY, write::persistence(settings).into()),
    }
    None
}

fn rewrite(table: &mut dyn TableLike, settings: &PersistenceSettings) {
    for setting in &PERSISTENCE_SETTINGS {
        match (setting.written)(settings) {
            Some(setting::Value::Unset) => {
                table.remove(setting.key);
            }
            Some(value) => {
                if let Some(value) = write::value(value) {
                    set(table, setting.key, value);
                }
            }
            None => {}
        }
    }
}
