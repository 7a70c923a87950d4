//! The configuration file: [`read`] makes a model of its text, [`validate`] holds the rules, [`edit`] brings a
//! change into the text, [`mod@file`] reads and replaces it on disk. `text` knows what strings mean, [`files`] looks at the
//! other files that it names.

pub mod edit;
pub mod file;
pub mod files;
mod parts;
pub mod read;
pub(crate) mod text;
pub mod validate;
pub mod write;
