//! The packet program's attachments to all configured interfaces, natively or generically on all alike. An attempt that
//! fails half way is rolled back.

mod steps;

use std::{collections::BTreeMap, os::fd::BorrowedFd};

use self::steps::{attach_each, attach_one, by_interface, detach_all, undo_all};
use super::{
    attach::{Attached, DriverRefusal, Hook},
    mode_choice::{self, ModeChoice, XdpSupport, choose},
    pins::{PinnedLink, Pins},
    xdp_support::{self, Stage},
};
use crate::{
    model::Mode,
    netlink::{Netlink, link::Link, xdp_features::XdpFeatureSocket},
};

/// Where and how the program is to run.
#[derive(Debug)]
pub struct AttachRequest<'a> {
    /// For queries to the kernel.
    pub netlink: &'a mut Netlink,
    /// The program.
    pub program: BorrowedFd<'a>,
    /// Where its XDP links are pinned.
    pub pins: &'a Pins,
    /// The configured mode.
    pub mode: Mode,
    /// The configured interfaces; each can carry the program.
    pub links: &'a [Link],
    /// All interfaces of the namespace.
    pub all: &'a [Link],
}

/// Why the program runs generically in mode auto.
#[derive(Clone, Debug, Default)]
pub struct GenericFallback {
    /// The sentence for `status`.
    pub reason: Option<String>,
    /// Interfaces on which native mode was tried and failed.
    failed: Vec<FailedAttempt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FailedAttempt {
    index: u32,
    mtu: u32,
    /// Another attempt fails too, unless the MTU changes.
    is_final: bool,
}

impl GenericFallback {
    /// Whether another attempt at native mode may succeed on these interfaces. An attempt interrupts the traffic of a
    /// data plane that runs generically.
    fn native_may_work(&self, links: &[Link]) -> bool {
        !links.iter().any(|link| {
            let mut attempts = self.failed.iter();
            attempts.any(|one| one.is_final && (one.index, one.mtu) == (link.index, link.mtu))
        })
    }
}

/// Whether native mode is tried again where the program already runs generically in mode auto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryNative {
    /// No: it goes on generically.
    No,
    /// Yes: the operator has reloaded the configuration.
    Yes,
}

/// Which interfaces carry the program.
#[derive(Debug)]
pub struct AttachResult {
    /// Those that carry it.
    pub attached: Vec<Attached>,
    /// Why they run it generically.
    pub fallback: GenericFallback,
    /// Why other configured interfaces do not carry it: one sentence each.
    pub problems: Vec<String>,
}

/// Whether native mode should be tried again: the program runs generically in mode auto, and the obstacle is gone.
///
/// # Errors
/// The kernel refused a query.
pub fn native_is_due(
    netlink: &mut Netlink,
    mode: Mode,
    links: &[Link],
    all: &[Link],
    fallback: &GenericFallback,
) -> anyhow::Result<bool> {
    if mode != Mode::Auto || fallback.reason.is_none() || !fallback.native_may_work(links) {
        return Ok(false);
    }
    let support = xdp_support::query_all(netlink, links, all, Stage::Before)?;
    Ok(choose(mode, &support) == Ok(ModeChoice::Native))
}

/// Attaches the program to all interfaces of `request`, reusing links that are pinned, and detaches it from all others.
///
/// # Errors
/// One of them could not be attached; all are as they were before.
pub fn attach(
    request: &mut AttachRequest<'_>,
    pinned: Vec<PinnedLink>,
    before: &GenericFallback,
    native: RetryNative,
) -> anyhow::Result<AttachResult> {
    let support = request.query_support(Stage::Before)?;
    let mut fallback = before.clone();
    let mut choice = choose(request.mode, &support)?;
    let mut pinned = by_interface(pinned)?;
    if choice == ModeChoice::Native && request.mode == Mode::Auto {
        let is_generic = request.runs_in(&pinned, Hook::Generic);
        let stays = native == RetryNative::No || !before.native_may_work(request.links);
        if is_generic && stays {
            let reason = before.reason.clone();
            choice = ModeChoice::Generic {
                reason: reason.or_else(|| Some(mode_choice::GENERIC_TAKEN_OVER.into())),
            };
        }
    }
    if choice == ModeChoice::Native {
        match try_native(request, support, &mut pinned)? {
            Ok(attached) => {
                detach_all(pinned)?;
                return Ok(AttachResult {
                    attached,
                    fallback: GenericFallback::default(),
                    problems: Vec::new(),
                });
            }
            Err((support, attempts)) => {
                fallback.failed = attempts;
                choice = choose(request.mode, &support)?;
                // The rollback made links anew, with other descriptors.
                pinned = by_interface(request.pins.links()?)?;
            }
        }
    }
    if let ModeChoice::Generic { reason } = choice {
        fallback.reason = reason;
    }
    let steps = attach_each(request, request.links, Hook::Generic, &mut pinned)?;
    // Last, so that after a failure the interfaces that carried the program before still do.
    detach_all(pinned)?;
    Ok(AttachResult {
        attached: steps.into_iter().map(|(attached, _)| attached).collect(),
        fallback,
        problems: Vec::new(),
    })
}

/// The XDP support as an attempt at native mode found it, and the interfaces on which it failed.
type NativeFailure = (Vec<XdpSupport>, Vec<FailedAttempt>);

/// Attaches the program natively to all interfaces. `Ok(Err(..))`: a driver refused it or takes no redirected frames;
/// all are as they were before.
fn try_native(
    request: &mut AttachRequest<'_>,
    mut support: Vec<XdpSupport>,
    pinned: &mut BTreeMap<u32, PinnedLink>,
) -> anyhow::Result<Result<Vec<Attached>, NativeFailure>> {
    let steps = match attach_each(request, request.links, Hook::Native, pinned) {
        Ok(steps) => steps,
        Err(error) => {
            let refusal = error.downcast::<DriverRefusal>()?;
            for one in &mut support {
                if one.name == refusal.link.name {
                    one.native_obstacle = Some(refusal.to_string());
                }
            }
            let attempts = vec![failed_attempt(&refusal.link, refusal.error.raw_os_error())?];
            return Ok(Err((support, attempts)));
        }
    };
    let running = request.query_support(Stage::Running);
    let fits = running
        .as_ref()
        .is_ok_and(|running| choose(request.mode, running) == Ok(ModeChoice::Native));
    if fits {
        return Ok(Ok(steps
            .into_iter()
            .map(|(attached, _)| attached)
            .collect()));
    }
    undo_all(steps, request.pins);
    let running = running?;
    let unfit = request.links.iter().zip(&running);
    let unfit =
        unfit.filter(|(_, one)| one.native_obstacle.is_some() || one.redirect_obstacle.is_some());
    let attempts = unfit.map(|(link, _)| failed_attempt(link, None));
    Ok(Err((running.clone(), attempts.collect::<Result<_, _>>()?)))
}

/// Attaches the program to the interfaces that can carry it, each on its own, after interfaces appeared, went or
/// changed. Those that carry it already stay in their hook, unless a new one needs the other.
///
/// # Errors
/// The program could not be detached from another interface.
pub fn follow_links(
    request: &mut AttachRequest<'_>,
    pinned: Vec<PinnedLink>,
    before: &GenericFallback,
) -> anyhow::Result<AttachResult> {
    let support = request.query_support(Stage::Before)?;
    let mut pinned = by_interface(pinned)?;
    let mut result = AttachResult {
        attached: Vec::new(),
        fallback: before.clone(),
        problems: Vec::new(),
    };
    let (known, fresh): (Vec<_>, Vec<_>) = request
        .links
        .iter()
        .cloned()
        .partition(|link| link.xdp.is_some() && pinned.contains_key(&link.index));
    let mut choice = match (request.mode, choose(request.mode, &support)) {
        // `follow_native` reports each interface that does not support it.
        (Mode::Native, _) => ModeChoice::Native,
        (_, Ok(choice)) => choice,
        (_, Err(error)) => return Err(error.into()),
    };
    if choice == ModeChoice::Native
        && request.mode == Mode::Auto
        && request.runs_in(&pinned, Hook::Generic)
    {
        let reason = before.reason.clone();
        choice = ModeChoice::Generic {
            reason: reason.or_else(|| Some(mode_choice::GENERIC_TAKEN_OVER.into())),
        };
    }
    if choice == ModeChoice::Native {
        match follow_native(request, &support, &mut pinned, &mut result)? {
            None => {
                detach_all(pinned)?;
                return Ok(result);
            }
            Some(reason) => {
                choice = reason;
                pinned = by_interface(request.pins.links()?)?;
            }
        }
    }
    let ModeChoice::Generic { reason } = choice else {
        anyhow::bail!("the program runs natively or generically");
    };
    // New interfaces first: if none of them can be attached, nothing has to change for the others.
    let mut new = Vec::new();
    for link in &fresh {
        match attach_one(
            request.program,
            link,
            Hook::Generic,
            request.pins,
            pinned.remove(&link.index),
        ) {
            Ok(step) => new.push(step),
            Err(error) => result.problems.push(format!("{error:#}")),
        }
    }
    let known_support: Vec<_> = support
        .iter()
        .filter(|one| known.iter().any(|link| link.name == one.name))
        .cloned()
        .collect();
    let is_native = !known.is_empty() && request.runs_in(&pinned, Hook::Native);
    let nothing_came =
        new.is_empty() && choose(request.mode, &known_support) == Ok(ModeChoice::Native);
    let hook = if is_native && nothing_came {
        Hook::Native
    } else {
        Hook::Generic
    };
    match attach_each(request, &known, hook, &mut pinned) {
        Ok(steps) => {
            result.fallback.reason = reason.filter(|_| hook == Hook::Generic);
            let steps = steps.into_iter().chain(new);
            result.attached = steps.map(|(attached, _)| attached).collect();
        }
        Err(error) => {
            // The new interfaces are left out; those that ran before go on.
            result.problems.push(format!("{error:#}"));
            undo_all(new, request.pins);
            let mut left = by_interface(request.pins.links()?)?;
            let hook = if is_native {
                Hook::Native
            } else {
                Hook::Generic
            };
            let steps = attach_each(request, &known, hook, &mut left)?;
            result.attached = steps.into_iter().map(|(attached, _)| attached).collect();
            pinned.clear();
        }
    }
    result.sort_like(request.links);
    detach_all(pinned)?;
    Ok(result)
}

/// [`follow_links`] in native mode. Returns the mode to use instead where a new interface does not support native mode.
fn follow_native(
    request: &mut AttachRequest<'_>,
    support: &[XdpSupport],
    pinned: &mut BTreeMap<u32, PinnedLink>,
    result: &mut AttachResult,
) -> anyhow::Result<Option<ModeChoice>> {
    let mut steps = Vec::new();
    let several = request.links.len() > 1;
    for (link, one) in request.links.iter().zip(support) {
        if let Err(sentence) = mode_choice::check_native(one, several) {
            // Mode native only: in mode auto `choose` has decided already.
            result.problems.push(sentence);
            // An interface that carries the program keeps it; a new one does not get it.
            if !pinned.contains_key(&link.index) {
                continue;
            }
        }
        let old = pinned.remove(&link.index);
        match attach_one(request.program, link, Hook::Native, request.pins, old) {
            Ok(step) => steps.push(step),
            Err(error) => match error.downcast::<DriverRefusal>() {
                Ok(refusal) if request.mode == Mode::Auto => {
                    undo_all(steps, request.pins);
                    result.fallback.failed =
                        vec![failed_attempt(link, refusal.error.raw_os_error())?];
                    let support = XdpSupport {
                        native_obstacle: Some(refusal.to_string()),
                        ..one.clone()
                    };
                    return Ok(Some(choose(request.mode, &[support])?));
                }
                Ok(refusal) => result
                    .problems
                    .push(mode_choice::native_refusal(&refusal.to_string())),
                Err(error) => result.problems.push(format!("{error:#}")),
            },
        }
    }
    if request.mode == Mode::Auto {
        let running = request.query_support(Stage::Running)?;
        let choice = choose(request.mode, &running)?;
        if choice != ModeChoice::Native {
            let unfit = request.links.iter().zip(&running);
            let unfit = unfit.filter(|(_, one)| one.redirect_obstacle.is_some());
            let attempts = unfit.map(|(link, _)| failed_attempt(link, None));
            result.fallback.failed = attempts.collect::<Result<_, _>>()?;
            undo_all(steps, request.pins);
            return Ok(Some(choice));
        }
    }
    result.fallback = GenericFallback::default();
    result.attached = steps.into_iter().map(|(attached, _)| attached).collect();
    Ok(None)
}

/// Notes that native mode failed on an interface; `error` is `None` where the driver took the program and still takes
/// no redirected frames.
fn failed_attempt(link: &Link, error: Option<i32>) -> anyhow::Result<FailedAttempt> {
    let is_final = match error {
        None | Some(libc::ERANGE) => true,
        // A kernel that reports XDP features has said that this driver runs programs, so it will once its settings
        // allow it.
        Some(libc::EOPNOTSUPP) => XdpFeatureSocket::open()?.is_none(),
        Some(_) => false,
    };
    Ok(FailedAttempt {
        index: link.index,
        mtu: link.mtu,
        is_final,
    })
}

impl AttachRequest<'_> {
    fn query_support(&mut self, stage: Stage) -> anyhow::Result<Vec<XdpSupport>> {
        xdp_support::query_all(self.netlink, self.links, self.all, stage)
    }

    /// Whether one of the interfaces carries our program in this hook.
    fn runs_in(&self, pinned: &BTreeMap<u32, PinnedLink>, hook: Hook) -> bool {
        self.links.iter().any(|link| {
            let runs = link.xdp.is_some_and(|xdp| Hook::of(xdp) == hook);
            runs && pinned.contains_key(&link.index)
        })
    }
}

impl AttachResult {
    fn sort_like(&mut self, links: &[Link]) {
        let position = |attached: &Attached| {
            links
                .iter()
                .position(|link| link.index == attached.link.index)
        };
        self.attached.sort_by_key(position);
    }
}
