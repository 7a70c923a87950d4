//! Changes inline tables of the file's text.

use toml_edit::{InlineTable, TableLike, Value};

/// Changes a table with `change`; the white space in front of the closing brace stays there.
pub(super) fn edit_inline(table: &mut InlineTable, change: impl FnOnce(&mut dyn TableLike)) {
    let suffix = |value: &Value| {
        let suffix = value.decor().suffix().and_then(|raw| raw.as_str());
        suffix.unwrap_or_default().to_owned()
    };
    let closing = table.iter().last().map(|(_, last)| suffix(last));
    change(table);
    let Some(closing) = closing else { return };
    for (_, value) in table.iter_mut() {
        if suffix(value) == closing {
            value.decor_mut().set_suffix("");
        }
    }
    if let Some((_, last)) = table.iter_mut().last() {
        last.decor_mut().set_suffix(closing);
    }
}
