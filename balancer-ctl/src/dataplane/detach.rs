//! `balancerd --detach`: takes a data plane down.

use anyhow::bail;

use super::{DataplaneError, pins::Pins};
use crate::{
    host::Host,
    netlink::{Netlink, neighbour_manager::NeighbourManager},
};

/// Takes the data plane of an instance down: removes links and maps, and restores the host's settings. Returns whether
/// there was anything to remove.
///
/// # Errors
/// It runs in another network namespace, a pin could not be removed, or a setting of the host not restored.
pub fn detach(instance: Option<&str>) -> Result<bool, DataplaneError> {
    let down = || -> anyhow::Result<bool> {
        let pins = Pins::of(instance)?;
        let host = Host::new(instance)?;
        if pins.is_empty()? && !host.is_changed() {
            return Ok(false);
        }
        if let Some(namespace) = host.other_namespace() {
            bail!(
                "this data plane runs in another network namespace, whose settings are to be put back: run this with \
                 `nsenter --net={}` before it",
                namespace.display()
            );
        }
        take_down(&pins, instance)?;
        Ok(true)
    };
    down().map_err(DataplaneError::from)
}

/// As [`detach`], without its checks.
pub fn take_down(pins: &Pins, instance: Option<&str>) -> anyhow::Result<()> {
    pins.remove_all()?;
    NeighbourManager::open(instance)?.release_all(&mut Netlink::open()?)?;
    Host::new(instance)?.restore()
}
