//! What the Debian package brings: its files in a bare Debian 12, its scripts, and what its unit file leaves the daemon to work with.

mod debian;
mod scripts;
mod unit;
