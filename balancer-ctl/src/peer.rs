//! The channel between the nodes of a cluster, over which they tell each other their states and pass services on.

pub mod key;
pub mod membership;
pub mod message;
pub mod session;
pub mod wire;
