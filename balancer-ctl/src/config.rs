//! The configuration file: [`read`] makes a model of its text, [`validate`] checks the model's rules, [`edit`] applies a change to
//! the text, [`mod@file`] reads and replaces the file on disk. `text` parses strings, [`files`] checks the other files that the
//! configuration names.

pub mod edit;
pub mod file;
pub mod files;
pub mod read;
pub(crate) mod text;
pub mod validate;
