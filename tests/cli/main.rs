//! What operators type and get, to the letter: `balancer-ctl` against a daemon whose data plane is in memory, so
//! that every number is known, and `balancerd` itself as far as it gets without a packet program.

mod commands;
mod configuration;
mod daemon;
mod deadline;
mod events;
mod filters;
mod health;
mod help;
mod pair;
mod persistence;
mod problems;
mod refusals;
mod save;
mod scene;
mod socket;
mod startup;
mod status;
mod terminal;
mod trace;
mod unwritable;
