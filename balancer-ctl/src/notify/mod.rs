//! Telling programs of events.
