//! The configuration file: [`read`] makes a model of its text, [`mod@write`] a text of a model, [`validate`] checks the model's
//! rules, [`edit`] applies changes to the text, [`mod@file`] reads and replaces the file on disk. `parts` knows which bytes belong
//! to which service, `text` parses strings, [`files`] checks the other files that the configuration names.

pub mod edit;
pub mod file;
pub mod files;
mod parts;
pub mod read;
pub(crate) mod text;
pub mod validate;
pub mod write;
