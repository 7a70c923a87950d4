//! The configuration file: [`read`] makes a model of its text, [`validate`] holds the rules, [`edit`] brings a
//! change into the text, [`mod@file`] reads and replaces it on disk.

pub mod edit;
pub mod file;
pub mod read;
pub mod validate;
