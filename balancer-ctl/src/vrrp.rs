//! The virtual router redundancy protocol, version 3 (RFC 9568): several balancers share VIPs, and one of them, the
//! Active one, has them.

pub mod announce;
pub mod announcement;
mod checksum;
pub mod packet;
pub mod socket;
