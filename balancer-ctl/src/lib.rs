//! The daemon and the operator's tool.
//!
//! `cli → api → daemon → {config, dataplane}`; nothing points back. Pure, and known to all: [`model`] and what
//! is computed from it ([`address`], [`change`], [`difference`], [`overview`], [`view`]).

pub mod address;
pub mod api;
pub mod availability;
pub mod change;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod difference;
pub mod error;
pub mod event;
pub mod health;
pub mod heap;
pub mod host;
pub mod local;
pub mod model;
pub mod netlink;
pub mod notify;
pub mod object;
pub mod open_files;
pub mod overview;
pub mod paths;
pub mod plan;
pub mod program;
pub mod regular_file;
pub mod ring;
pub mod sentence;
pub mod serve;
pub mod systemd;
pub mod view;
