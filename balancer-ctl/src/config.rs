//! The configuration file: [`read`] makes a model of its text, [`mod@write`] a text of a model, [`validate`] holds the rules,
//! [`edit`] brings changes into the text, [`mod@file`] reads and replaces it on disk. `parts` knows which bytes belong to which
//! service, `text` what strings mean; [`files`] looks at the other files that it names.

pub mod edit;
pub mod file;
pub mod files;
mod parts;
pub mod read;
pub(crate) mod text;
pub mod validate;
pub mod write;
