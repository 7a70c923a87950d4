//! The program on all interfaces: in their drivers, or in the generic hook of each. What cannot be finished is undone.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use anyhow::Context;

use super::{
    attach::{self, Attached, Hook, Refusal},
    choice::{self, Choice, Facts, choose},
    pins::{self, PinnedLink, Pins},
    survey::{self, Stage},
    syscall,
};
use crate::{
    model::Mode,
    netlink::{Netlink, features::Asker, link::Link},
};

/// Where the program is to run.
#[derive(Debug)]
pub struct Place<'a> {
    /// Asks the kernel.
    pub netlink: &'a mut Netlink,
    /// The program.
    pub program: BorrowedFd<'a>,
    /// Where its links are pinned.
    pub pins: &'a Pins,
    /// What the configuration asks for.
    pub mode: Mode,
    /// The configured interfaces; each can carry the program.
    pub links: &'a [Link],
    /// All interfaces of the namespace.
    pub all: &'a [Link],
}

/// Why the program runs generically though the mode does not ask for it.
#[derive(Clone, Debug, Default)]
pub struct Fallback {
    /// The sentence for `status`.
    pub reason: Option<String>,
    /// Interfaces that were found unfit for native mode by trying.
    tried: Vec<Tried>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tried {
    index: u32,
    mtu: u32,
    /// Nothing but another MTU changes the answer.
    is_final: bool,
}

impl Fallback {
    /// Whether native mode is worth a try on these interfaces, whose drivers do not speak against it beforehand. A try
    /// interrupts the packets of a data plane that runs generically.
    fn may_be_over(&self, links: &[Link]) -> bool {
        !links.iter().any(|link| {
            let mut tried = self.tried.iter();
            tried.any(|one| one.is_final && (one.index, one.mtu) == (link.index, link.mtu))
        })
    }
}

/// Whether native mode is tried where the program runs generically in mode auto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeTry {
    /// It goes on generically.
    No,
    /// The operator has loaded the configuration.
    Yes,
}

/// What came of it.
#[derive(Debug)]
pub struct Placed {
    /// The interfaces that carry the program.
    pub attached: Vec<Attached>,
    /// Why they do so generically.
    pub fallback: Fallback,
    /// Why others do not.
    pub problems: Vec<String>,
}

/// Whether an attempt at native mode is due: the program runs generically in mode auto, and nothing speaks for that any more.
///
/// # Errors
/// The kernel refused a question.
pub fn native_is_due(
    netlink: &mut Netlink,
    mode: Mode,
    links: &[Link],
    all: &[Link],
    fallback: &Fallback,
) -> anyhow::Result<bool> {
    if mode != Mode::Auto || fallback.reason.is_none() || !fallback.may_be_over(links) {
        return Ok(false);
    }
    let facts = survey::facts(netlink, links, all, Stage::Before)?;
    Ok(choose(mode, &facts) == Ok(Choice::Native))
}

/// Puts the program on all interfaces, taking up links that are pinned, and takes it off all others.
///
/// # Errors
/// One of them could not be attached; all are as they were.
pub fn attach(
    place: &mut Place<'_>,
    pinned: Vec<PinnedLink>,
    before: &Fallback,
    native: NativeTry,
) -> anyhow::Result<Placed> {
    let facts = place.facts(Stage::Before)?;
    let mut fallback = before.clone();
    let mut choice = choose(place.mode, &facts)?;
    let mut pinned = by_interface(pinned)?;
    if choice == Choice::Native && place.mode == Mode::Auto {
        let is_generic = place.runs(&pinned, Hook::Generic);
        let stays = native == NativeTry::No || !before.may_be_over(place.links);
        if is_generic && stays {
            let reason = before.reason.clone();
            choice = Choice::Generic {
                reason: reason.or_else(|| Some(choice::TAKEN_UP.into())),
            };
        }
    }
    if choice == Choice::Native {
        match natively(place, facts, &mut pinned)? {
            Ok(attached) => {
                remove_all(pinned)?;
                return Ok(Placed {
                    attached,
                    fallback: Fallback::default(),
                    problems: Vec::new(),
                });
            }
            Err((facts, tried)) => {
                fallback.tried = tried;
                choice = choose(place.mode, &facts)?;
                // What was undone has other descriptors now.
                pinned = by_interface(place.pins.links()?)?;
            }
        }
    }
    if let Choice::Generic { reason } = choice {
        fallback.reason = reason;
    }
    let steps = attach_all(place, place.links, Hook::Generic, &mut pinned)?;
    // Last, so that after a failure the interfaces that were attached before still are.
    remove_all(pinned)?;
    Ok(Placed {
        attached: steps.into_iter().map(|(attached, _)| attached).collect(),
        fallback,
        problems: Vec::new(),
    })
}

/// What is known of interfaces that cannot all run natively after all, and what was tried on the way.
type Unfit = (Vec<Facts>, Vec<Tried>);

/// Puts the program into the drivers of all interfaces. `Ok(Err(..))`: one refused or takes no redirected frames; all are as they
/// were.
fn natively(
    place: &mut Place<'_>,
    mut facts: Vec<Facts>,
    pinned: &mut BTreeMap<u32, PinnedLink>,
) -> anyhow::Result<Result<Vec<Attached>, Unfit>> {
    let steps = match attach_all(place, place.links, Hook::Native, pinned) {
        Ok(steps) => steps,
        Err(error) => {
            let refusal = error.downcast::<Refusal>()?;
            for one in &mut facts {
                if one.name == refusal.link.name {
                    one.not_native = Some(refusal.to_string());
                }
            }
            let tried = vec![tried(&refusal.link, refusal.error.raw_os_error())?];
            return Ok(Err((facts, tried)));
        }
    };
    let running = place.facts(Stage::Running);
    let fits = running
        .as_ref()
        .is_ok_and(|running| choose(place.mode, running) == Ok(Choice::Native));
    if fits {
        return Ok(Ok(steps
            .into_iter()
            .map(|(attached, _)| attached)
            .collect()));
    }
    undo_all(steps, place.pins);
    let running = running?;
    let unfit = place.links.iter().zip(&running);
    let unfit = unfit.filter(|(_, one)| one.not_native.is_some() || one.takes_none.is_some());
    let tried = unfit.map(|(link, _)| tried(link, None));
    Ok(Err((running.clone(), tried.collect::<Result<_, _>>()?)))
}

/// Brings the program to the interfaces that can carry it, each on its own, while packets flow. Those that carry it already
/// stay in the hook that they are in, unless one that comes needs another.
///
/// # Errors
/// The program could not be taken off another interface.
pub fn follow(
    place: &mut Place<'_>,
    pinned: Vec<PinnedLink>,
    before: &Fallback,
) -> anyhow::Result<Placed> {
    let facts = place.facts(Stage::Before)?;
    let mut pinned = by_interface(pinned)?;
    let mut placed = Placed {
        attached: Vec::new(),
        fallback: before.clone(),
        problems: Vec::new(),
    };
    let (known, fresh): (Vec<_>, Vec<_>) = place
        .links
        .iter()
        .cloned()
        .partition(|link| link.xdp.is_some() && pinned.contains_key(&link.index));
    let mut choice = match (place.mode, choose(place.mode, &facts)) {
        // Each is told on its own below.
        (Mode::Native, _) => Choice::Native,
        (_, Ok(choice)) => choice,
        (_, Err(error)) => return Err(error.into()),
    };
    if choice == Choice::Native && place.mode == Mode::Auto && place.runs(&pinned, Hook::Generic) {
        let reason = before.reason.clone();
        choice = Choice::Generic {
            reason: reason.or_else(|| Some(choice::TAKEN_UP.into())),
        };
    }
    if choice == Choice::Native {
        match follow_natively(place, &facts, &mut pinned, &mut placed)? {
            None => {
                remove_all(pinned)?;
                return Ok(placed);
            }
            Some(reason) => {
                choice = reason;
                pinned = by_interface(place.pins.links()?)?;
            }
        }
    }
    let Choice::Generic { reason } = choice else {
        anyhow::bail!("the program runs natively or generically");
    };
    // Those that come first: if none of them stays, nothing has to change for the others.
    let mut new = Vec::new();
    for link in &fresh {
        match attach_one(
            place.program,
            link,
            Hook::Generic,
            place.pins,
            pinned.remove(&link.index),
        ) {
            Ok(step) => new.push(step),
            Err(error) => placed.problems.push(format!("{error:#}")),
        }
    }
    let known_facts: Vec<_> = facts
        .iter()
        .filter(|one| known.iter().any(|link| link.name == one.name))
        .cloned()
        .collect();
    let is_native = !known.is_empty() && place.runs(&pinned, Hook::Native);
    let nothing_came = new.is_empty() && choose(place.mode, &known_facts) == Ok(Choice::Native);
    let hook = if is_native && nothing_came {
        Hook::Native
    } else {
        Hook::Generic
    };
    match attach_all(place, &known, hook, &mut pinned) {
        Ok(steps) => {
            placed.fallback.reason = reason.filter(|_| hook == Hook::Generic);
            let steps = steps.into_iter().chain(new);
            placed.attached = steps.map(|(attached, _)| attached).collect();
        }
        Err(error) => {
            // What ran goes on alone.
            placed.problems.push(format!("{error:#}"));
            undo_all(new, place.pins);
            let mut left = by_interface(place.pins.links()?)?;
            let hook = if is_native {
                Hook::Native
            } else {
                Hook::Generic
            };
            let steps = attach_all(place, &known, hook, &mut left)?;
            placed.attached = steps.into_iter().map(|(attached, _)| attached).collect();
            pinned.clear();
        }
    }
    placed.in_order_of(place.links);
    remove_all(pinned)?;
    Ok(placed)
}

/// Follows interfaces while all are to be native. Returns what is chosen instead where one that comes cannot be.
fn follow_natively(
    place: &mut Place<'_>,
    facts: &[Facts],
    pinned: &mut BTreeMap<u32, PinnedLink>,
    placed: &mut Placed,
) -> anyhow::Result<Option<Choice>> {
    let mut steps = Vec::new();
    let several = place.links.len() > 1;
    for (link, one) in place.links.iter().zip(facts) {
        if let Err(sentence) = choice::fits_native(one, several) {
            // In mode auto these have decided already.
            placed.problems.push(sentence);
            // What runs goes on; what comes does not begin.
            if !pinned.contains_key(&link.index) {
                continue;
            }
        }
        let old = pinned.remove(&link.index);
        match attach_one(place.program, link, Hook::Native, place.pins, old) {
            Ok(step) => steps.push(step),
            Err(error) => match error.downcast::<Refusal>() {
                Ok(refusal) if place.mode == Mode::Auto => {
                    undo_all(steps, place.pins);
                    placed.fallback.tried = vec![tried(link, refusal.error.raw_os_error())?];
                    let facts = Facts {
                        not_native: Some(refusal.to_string()),
                        ..one.clone()
                    };
                    return Ok(Some(choose(place.mode, &[facts])?));
                }
                Ok(refusal) => placed.problems.push(choice::refused(&refusal.to_string())),
                Err(error) => placed.problems.push(format!("{error:#}")),
            },
        }
    }
    if place.mode == Mode::Auto {
        let running = place.facts(Stage::Running)?;
        let choice = choose(place.mode, &running)?;
        if choice != Choice::Native {
            let unfit = place.links.iter().zip(&running);
            let unfit = unfit.filter(|(_, one)| one.takes_none.is_some());
            let tried = unfit.map(|(link, _)| tried(link, None));
            placed.fallback.tried = tried.collect::<Result<_, _>>()?;
            undo_all(steps, place.pins);
            return Ok(Some(choice));
        }
    }
    placed.fallback = Fallback::default();
    placed.attached = steps.into_iter().map(|(attached, _)| attached).collect();
    Ok(None)
}

/// Remembers that native mode was tried; `error` is none where the driver took the program and still takes no frames.
fn tried(link: &Link, error: Option<i32>) -> anyhow::Result<Tried> {
    let is_final = match error {
        None | Some(libc::ERANGE) => true,
        // Where the kernel says beforehand which drivers run programs, this one does, once its settings allow it.
        Some(libc::EOPNOTSUPP) => Asker::open()?.is_none(),
        Some(_) => false,
    };
    Ok(Tried {
        index: link.index,
        mtu: link.mtu,
        is_final,
    })
}

impl Place<'_> {
    fn facts(&mut self, stage: Stage) -> anyhow::Result<Vec<Facts>> {
        survey::facts(self.netlink, self.links, self.all, stage)
    }

    /// Whether one of the interfaces carries the program in this hook.
    fn runs(&self, pinned: &BTreeMap<u32, PinnedLink>, hook: Hook) -> bool {
        self.links.iter().any(|link| {
            let runs = link.xdp.is_some_and(|xdp| Hook::of(xdp) == hook);
            runs && pinned.contains_key(&link.index)
        })
    }
}

impl Placed {
    fn in_order_of(&mut self, links: &[Link]) {
        let place = |attached: &Attached| {
            links
                .iter()
                .position(|link| link.index == attached.link.index)
        };
        self.attached.sort_by_key(place);
    }
}

/// Pinned links by their interface's index. Pins without one go.
fn by_interface(pinned: Vec<PinnedLink>) -> anyhow::Result<BTreeMap<u32, PinnedLink>> {
    let mut links = BTreeMap::new();
    for pinned in pinned {
        if pinned.info.ifindex == 0 {
            pins::unpin(&pinned.path)?;
        } else if let Some(same) = links.insert(pinned.info.ifindex, pinned) {
            // An interface has one link; this is a second pin of it, in the directory of another layout.
            pins::unpin(&same.path)?;
        }
    }
    Ok(links)
}

/// What an interface carried before, so that it can be put back.
#[derive(Debug)]
enum Before {
    /// Nothing of ours.
    Nothing,
    /// This program, on the link that is there now.
    Program(OwnedFd),
    /// This program in the other hook, on a link that is gone.
    OtherHook { program: OwnedFd, hook: Hook },
}

type Step = (Attached, Before);

/// Puts the program on these interfaces.
///
/// # Errors
/// One could not be attached; all are as they were.
fn attach_all(
    place: &Place<'_>,
    links: &[Link],
    hook: Hook,
    pinned: &mut BTreeMap<u32, PinnedLink>,
) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    for link in links {
        let old = pinned.remove(&link.index);
        match attach_one(place.program, link, hook, place.pins, old) {
            Ok(step) => steps.push(step),
            Err(error) => {
                undo_all(steps, place.pins);
                return Err(error);
            }
        }
    }
    Ok(steps)
}

/// Puts the program on one interface.
///
/// # Errors
/// It could not be attached; what the interface carried before is back.
fn attach_one(
    program: BorrowedFd<'_>,
    link: &Link,
    hook: Hook,
    pins: &Pins,
    pinned: Option<PinnedLink>,
) -> anyhow::Result<Step> {
    let Some(pinned) = pinned else {
        return Ok((attach::create(program, link, hook, pins)?, Before::Nothing));
    };
    let old = syscall::program(pinned.info.program)
        .with_context(|| format!("cannot open the packet program on {}", link.name))?;
    let runs_in = link.xdp.map(Hook::of);
    if runs_in == Some(hook) {
        let attached = attach::take_up(program, link, hook, pins, pinned)?;
        return Ok((attached, Before::Program(old)));
    }
    // In the other hook: the kernel takes one program at a time.
    let before = match runs_in {
        Some(hook) => Before::OtherHook { program: old, hook },
        None => Before::Nothing,
    };
    syscall::detach_link(pinned.link.as_fd())
        .with_context(|| format!("cannot take the packet program off {}", link.name))?;
    match attach::create(program, link, hook, pins) {
        Ok(attached) => Ok((attached, before)),
        Err(error) => {
            put_back(link, before, pins);
            Err(error)
        }
    }
}

fn undo_all(steps: Vec<Step>, pins: &Pins) {
    for (attached, before) in steps.into_iter().rev() {
        undo(attached, before, pins);
    }
}

/// Takes back what [`bring`] has done.
fn undo(attached: Attached, before: Before, pins: &Pins) {
    let Attached { link, fd, .. } = attached;
    let result = match &before {
        Before::Program(program) => syscall::update_link(fd.as_fd(), program.as_fd()),
        Before::Nothing | Before::OtherHook { .. } => syscall::detach_link(fd.as_fd()),
    };
    if let Err(error) = result {
        tracing::error!(%error, interface = %link.name, "the packet program that ran before cannot be put back");
    }
    if !matches!(before, Before::Program(_))
        && let Err(error) = pins::unpin(&pins.link_path(link.index))
    {
        tracing::error!("{error:#}");
    }
    put_back(&link, before, pins);
}

/// Makes the link anew that another hook has replaced.
fn put_back(link: &Link, before: Before, pins: &Pins) {
    let Before::OtherHook { program, hook } = before else {
        return;
    };
    let back = attach::create(program.as_fd(), link, hook, pins)
        .context("the packet program that ran before cannot be put back");
    if let Err(error) = back {
        tracing::error!(interface = %link.name, "{error:#}");
    }
}

/// Takes the program off these interfaces.
fn remove_all(pinned: BTreeMap<u32, PinnedLink>) -> anyhow::Result<()> {
    for pinned in pinned.into_values() {
        // Explicitly: this daemon may hold the link a second time.
        syscall::detach_link(pinned.link.as_fd())
            .context("cannot take the packet program off an interface")?;
        pins::unpin(&pinned.path)?;
    }
    Ok(())
}
