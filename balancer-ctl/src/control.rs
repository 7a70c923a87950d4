//! The daemon itself: the one owner of all state, what it makes of check results, and what it reports.

pub mod availability;
pub mod conditions;
pub mod daemon;
pub mod event_log;
pub mod failures;
pub mod load;
pub mod pair;
pub mod pausing;
pub mod report;
pub mod tracking;
