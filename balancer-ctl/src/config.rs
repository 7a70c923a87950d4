//! The configuration file: [`read`] makes a model of its text, [`mod@write`] a text of a model, [`validate`] checks the model's
//! rules, [`edit`] applies changes to the text, [`mod@reference`] describes the keys, [`mod@file`] reads and replaces the file on
//! disk, [`on_disk`] compares it with the one that was loaded. `parts` knows which bytes belong to which service, `text` parses strings, [`files`] checks the other files that the
//! configuration names.

pub mod edit;
pub mod file;
pub mod files;
pub mod on_disk;
mod parts;
pub mod read;
pub mod reference;
pub(crate) mod text;
pub mod validate;
pub mod write;
