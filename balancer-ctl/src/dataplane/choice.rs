//! All interfaces native, or all generic: the decision. Pure.
//!
//! A frame that a native interface redirects leaves by the driver's `ndo_xdp_xmit`. Where there is none, as on everything
//! that runs the program in the generic hook alone, the kernel drops the frame. So one such interface decides for all.

use super::InterfaceError;
use crate::model::Mode;

/// What is known of one interface before or after the program was brought to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Why it does not run the program natively: a clause that names it.
    pub not_native: Option<String>,
    /// Why it takes no frames that others redirect to it: a clause that names it.
    pub takes_none: Option<String>,
    /// Whether frames that leave where they came in are redirected, too.
    pub redirects_back: bool,
}

/// How the program runs on all interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// In the drivers.
    Native,
    /// In the generic hook; `reason` is a sentence, none where the mode asks for it.
    Generic { reason: Option<String> },
}

/// Decides how the program runs on these interfaces.
///
/// # Errors
/// The mode is native, and one of them cannot: a sentence that names it and what works.
pub fn choose(mode: Mode, interfaces: &[Facts]) -> Result<Choice, InterfaceError> {
    if mode == Mode::Generic {
        return Ok(Choice::Generic { reason: None });
    }
    let Some((name, obstacle)) = obstacle(interfaces) else {
        return Ok(Choice::Native);
    };
    if mode == Mode::Native {
        return Err(InterfaceError {
            name: name.to_owned(),
            sentence: refused(obstacle),
        });
    }
    Ok(Choice::Generic {
        reason: Some(generic(obstacle)),
    })
}

/// Tells whether one interface of those that come and go fits the mode native, beside others where there are `several`.
///
/// # Errors
/// It does not: a sentence that names it and what works.
pub fn fits_native(interface: &Facts, several: bool) -> Result<(), String> {
    let redirects = several || interface.redirects_back;
    let takes_none = interface.takes_none.as_deref().filter(|_| redirects);
    match interface.not_native.as_deref().or(takes_none) {
        Some(obstacle) => Err(refused(obstacle)),
        None => Ok(()),
    }
}

/// The refusal in mode native.
pub fn refused(obstacle: &str) -> String {
    format!("{obstacle}; mode = \"auto\" or \"generic\" works there too")
}

/// Why these interfaces cannot all be native, and which of them it is.
fn obstacle(interfaces: &[Facts]) -> Option<(&str, &str)> {
    let not_native = interfaces
        .iter()
        .find_map(|one| Some((one.name.as_str(), one.not_native.as_deref()?)));
    // Alone, an interface only sends back (XDP_TX), which every driver with XDP does.
    let redirects = |one: &&Facts| interfaces.len() > 1 || one.redirects_back;
    let mut takers = interfaces.iter().filter(redirects);
    not_native
        .or_else(|| takers.find_map(|one| Some((one.name.as_str(), one.takes_none.as_deref()?))))
}

/// The warning in `status` and the log.
fn generic(obstacle: &str) -> String {
    let why = "which costs more CPU time per packet";
    format!("{obstacle}; so all interfaces run the packet program in generic mode, {why}")
}

/// The warning where generic mode was taken up from an earlier daemon and nothing speaks against native mode any more.
pub const TAKEN_UP: &str = "the packet program was taken up in generic mode, which costs more CPU time per packet: \
                            `balancer-ctl reload` tries native mode";

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, not_native: bool, takes_none: bool, redirects_back: bool) -> Facts {
        Facts {
            name: name.into(),
            not_native: not_native.then(|| format!("{name} is a bridge")),
            takes_none: takes_none.then(|| format!("{name} takes none")),
            redirects_back,
        }
    }

    fn fine(name: &str) -> Facts {
        facts(name, false, false, false)
    }

    fn because(obstacle: &str) -> Result<Choice, InterfaceError> {
        Ok(Choice::Generic {
            reason: Some(format!(
                "{obstacle}; so all interfaces run the packet program in generic mode, which costs more CPU time per packet"
            )),
        })
    }

    #[test]
    fn one_interface_decides_for_all() {
        let bridge = || facts("br0", true, true, false);
        let no_xmit = || facts("eth1", false, true, false);
        let auto = |interfaces: &[Facts]| choose(Mode::Auto, interfaces);
        assert_eq!(auto(&[]), Ok(Choice::Native));
        assert_eq!(auto(&[fine("eth0"), fine("eth1")]), Ok(Choice::Native));
        assert_eq!(auto(&[fine("eth0"), bridge()]), because("br0 is a bridge"));
        assert_eq!(auto(&[bridge(), fine("eth0")]), because("br0 is a bridge"));
        assert_eq!(auto(&[bridge()]), because("br0 is a bridge"));
        assert_eq!(auto(&[fine("eth0"), no_xmit()]), because("eth1 takes none"));
        // What cannot run it natively is told before what only takes no frames.
        assert_eq!(auto(&[no_xmit(), bridge()]), because("br0 is a bridge"));
    }

    #[test]
    fn an_interface_alone_needs_no_redirects_unless_it_sends_back_by_them() {
        let alone =
            |redirects_back| choose(Mode::Auto, &[facts("eth0", false, true, redirects_back)]);
        assert_eq!(alone(false), Ok(Choice::Native));
        assert_eq!(alone(true), because("eth0 takes none"));
    }

    #[test]
    fn native_mode_is_refused_and_generic_mode_asks_nobody() {
        let bridge = facts("br0", true, true, false);
        assert_eq!(
            choose(Mode::Native, &[fine("eth0"), bridge.clone()]),
            Err(InterfaceError {
                name: "br0".into(),
                sentence: "br0 is a bridge; mode = \"auto\" or \"generic\" works there too".into()
            })
        );
        assert_eq!(choose(Mode::Native, &[fine("eth0")]), Ok(Choice::Native));
        let no_xmit = facts("eth1", false, true, false);
        assert_eq!(fits_native(&no_xmit, false), Ok(()));
        assert_eq!(
            fits_native(&no_xmit, true),
            Err("eth1 takes none; mode = \"auto\" or \"generic\" works there too".into())
        );
        for interfaces in [vec![fine("eth0"), bridge], vec![fine("eth0")]] {
            assert_eq!(
                choose(Mode::Generic, &interfaces),
                Ok(Choice::Generic { reason: None })
            );
        }
    }
}
