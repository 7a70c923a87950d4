//! Runs programs when events happen (`[[notify]]`).
//!
//! ```text
//!  daemon ──event─▶ queue ──▶ policy (pure: who, when) ──▶ queue per entry ──▶ invocation (pure) ──▶ program
//! ```
//!
//! All of it runs on a thread of its own: neither the daemon nor a probe ever waits for a program.

pub mod invocation;
pub mod policy;
pub mod task;

pub use self::task::Notifier;
