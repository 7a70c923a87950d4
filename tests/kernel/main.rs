//! The data plane against the real kernel: what is pinned, attached, taken up, expired. Needs root.

mod addresses;
mod attaching;
mod expiry;
mod local;
mod neighbours;
mod proof;
mod reach;
mod scene;
mod table;
mod taking_up;
mod traffic;
mod watch;
