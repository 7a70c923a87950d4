//! Connections of a set of flows, made by the frames that clients and real servers send.

use anyhow::{Context as _, Result};

use super::{
    runner::{Delivery, Front, Walk},
    target::{Expected, Target},
};

/// Runs the three frames of a `handshake` through the program under test for each of `flows` flows, one flow after the
/// other: the program itself writes what it will look up.
///
/// # Errors
/// The kernel refused the run, or the program did not translate each frame.
pub fn through(
    target: &Target,
    own: &[u8],
    ifindex: u32,
    handshake: &[Vec<u8>],
    flows: u32,
) -> Result<()> {
    let mut maker = Front::load(own, handshake, Walk::in_order(flows), 0)?;
    maker.aim(target.program()?)?;
    let before = target.counters()?;
    maker.measure(ifindex, 3 * flows, Delivery::Verdict)?;
    let flows = u64::from(flows);
    let counted = target.counters()?.since(&before);
    counted
        .expect(Expected::Packets([2 * flows, flows]))
        .context("making the connections")
}
