//! Decides whether the packet program runs natively or generically, on all interfaces alike. Pure.
//!
//! A frame that a native program redirects leaves by the target driver's `ndo_xdp_xmit`. Where a driver lacks it, as
//! all that run the program generically do, the kernel drops the frame. So one such interface makes all generic.

use super::InterfaceError;
use crate::model::Mode;

/// How far one interface supports XDP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XdpSupport {
    /// Its name.
    pub name: String,
    /// Why it does not run the program natively: a clause that names the interface.
    pub native_obstacle: Option<String>,
    /// Why it takes no frames that other interfaces redirect to it: a clause that names the interface.
    pub redirect_obstacle: Option<String>,
    /// Whether frames that leave by the interface they came in by are redirected, too (veth).
    pub redirects_back: bool,
}

/// The hook in which the program runs on all interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModeChoice {
    /// In the drivers.
    Native,
    /// In the generic hook; `reason` is a sentence, `None` where the configured mode is generic.
    Generic { reason: Option<String> },
}

/// Chooses the hook for these interfaces.
///
/// # Errors
/// The configured mode is native and one of them does not support it: a sentence that names it and what works.
pub fn choose(mode: Mode, interfaces: &[XdpSupport]) -> Result<ModeChoice, InterfaceError> {
    if mode == Mode::Generic {
        return Ok(ModeChoice::Generic { reason: None });
    }
    let Some((name, obstacle)) = obstacle(interfaces) else {
        return Ok(ModeChoice::Native);
    };
    if mode == Mode::Native {
        return Err(InterfaceError {
            name: name.to_owned(),
            sentence: native_refusal(obstacle),
        });
    }
    Ok(ModeChoice::Generic {
        reason: Some(generic_reason(obstacle)),
    })
}

/// Checks that an interface that appears later supports mode native; `several` says whether there are others beside it.
///
/// # Errors
/// It does not support it: a sentence that names it and what works.
pub fn check_native(interface: &XdpSupport, several: bool) -> Result<(), String> {
    let redirects = several || interface.redirects_back;
    let redirect_obstacle = interface.redirect_obstacle.as_deref().filter(|_| redirects);
    match interface.native_obstacle.as_deref().or(redirect_obstacle) {
        Some(obstacle) => Err(native_refusal(obstacle)),
        None => Ok(()),
    }
}

/// The refusal in mode native.
pub fn native_refusal(obstacle: &str) -> String {
    format!("{obstacle}; mode = \"auto\" or \"generic\" works there too")
}

/// The name of the first interface that prevents native mode, and why.
fn obstacle(interfaces: &[XdpSupport]) -> Option<(&str, &str)> {
    let native_obstacle = interfaces
        .iter()
        .find_map(|one| Some((one.name.as_str(), one.native_obstacle.as_deref()?)));
    // A single interface only sends back (XDP_TX), which every driver with XDP can do.
    let redirects = |one: &&XdpSupport| interfaces.len() > 1 || one.redirects_back;
    let mut takers = interfaces.iter().filter(redirects);
    native_obstacle.or_else(|| {
        takers.find_map(|one| Some((one.name.as_str(), one.redirect_obstacle.as_deref()?)))
    })
}

/// The warning in `status` and the log.
fn generic_reason(obstacle: &str) -> String {
    let why = "which costs more CPU time per packet";
    format!("{obstacle}; so all interfaces run the packet program in generic mode, {why}")
}

/// The warning when an earlier daemon left the program in generic mode and native mode would work by now.
pub const GENERIC_TAKEN_OVER: &str = "the packet program still runs in generic mode, as an earlier daemon left it, which costs more CPU \
    time per packet: `balancer-ctl reload` tries native mode";

#[cfg(test)]
mod tests {
    use super::*;

    fn support(
        name: &str,
        native_obstacle: bool,
        redirect_obstacle: bool,
        redirects_back: bool,
    ) -> XdpSupport {
        XdpSupport {
            name: name.into(),
            native_obstacle: native_obstacle.then(|| format!("{name} is a bridge")),
            redirect_obstacle: redirect_obstacle.then(|| format!("{name} takes none")),
            redirects_back,
        }
    }

    fn fine(name: &str) -> XdpSupport {
        support(name, false, false, false)
    }

    fn because(obstacle: &str) -> Result<ModeChoice, InterfaceError> {
        Ok(ModeChoice::Generic {
            reason: Some(format!(
                "{obstacle}; so all interfaces run the packet program in generic mode, which costs more CPU time per packet"
            )),
        })
    }

    #[test]
    fn one_interface_decides_for_all() {
        let bridge = || support("br0", true, true, false);
        let no_xmit = || support("eth1", false, true, false);
        let auto = |interfaces: &[XdpSupport]| choose(Mode::Auto, interfaces);
        assert_eq!(auto(&[]), Ok(ModeChoice::Native));
        assert_eq!(auto(&[fine("eth0"), fine("eth1")]), Ok(ModeChoice::Native));
        assert_eq!(auto(&[fine("eth0"), bridge()]), because("br0 is a bridge"));
        assert_eq!(auto(&[bridge(), fine("eth0")]), because("br0 is a bridge"));
        assert_eq!(auto(&[bridge()]), because("br0 is a bridge"));
        assert_eq!(auto(&[fine("eth0"), no_xmit()]), because("eth1 takes none"));
        // An interface that cannot run it natively is named before one that only takes no redirected frames.
        assert_eq!(auto(&[no_xmit(), bridge()]), because("br0 is a bridge"));
    }

    #[test]
    fn an_interface_alone_needs_no_redirects_unless_it_sends_back_by_them() {
        let alone =
            |redirects_back| choose(Mode::Auto, &[support("eth0", false, true, redirects_back)]);
        assert_eq!(alone(false), Ok(ModeChoice::Native));
        assert_eq!(alone(true), because("eth0 takes none"));
    }

    #[test]
    fn native_mode_is_refused_and_generic_mode_always_works() {
        let bridge = support("br0", true, true, false);
        assert_eq!(
            choose(Mode::Native, &[fine("eth0"), bridge.clone()]),
            Err(InterfaceError {
                name: "br0".into(),
                sentence: "br0 is a bridge; mode = \"auto\" or \"generic\" works there too".into()
            })
        );
        assert_eq!(
            choose(Mode::Native, &[fine("eth0")]),
            Ok(ModeChoice::Native)
        );
        let no_xmit = support("eth1", false, true, false);
        assert_eq!(check_native(&no_xmit, false), Ok(()));
        assert_eq!(
            check_native(&no_xmit, true),
            Err("eth1 takes none; mode = \"auto\" or \"generic\" works there too".into())
        );
        for interfaces in [vec![fine("eth0"), bridge], vec![fine("eth0")]] {
            assert_eq!(
                choose(Mode::Generic, &interfaces),
                Ok(ModeChoice::Generic { reason: None })
            );
        }
    }
}
