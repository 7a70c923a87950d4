//! From the embedded object to loaded programs and pinned maps.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::ProgramArray,
    programs::{Program, ProgramError, Xdp},
};
use aya_obj::Object;
use balancer_common::{ABI_VERSION, flow_hash::buckets_for, programs};

use super::{
    kernel_version,
    pins::{self, Pins},
};
use crate::{dataplane::object::OBJECT, model::DataplaneSettings};

/// The loaded programs, and where their maps are.
#[derive(Debug)]
pub struct Loaded {
    /// Owns the programs.
    pub ebpf: Ebpf,
    /// The maps are new and staged; no pinned map was reused.
    pub fresh: bool,
    /// Where the maps are pinned.
    pub directory: PathBuf,
    /// Warnings for the operator.
    pub notes: Vec<String>,
}

/// Checks what loading needs: the object, root, the kernel's version, BTF.
///
/// # Errors
/// A sentence says what is missing.
pub fn check_prerequisites() -> anyhow::Result<()> {
    ensure!(
        !OBJECT.is_empty(),
        "this program was built with BALANCER_EBPF=skip and carries no packet program: build it again without that switch"
    );
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the data plane needs root: start it as root (or with sudo)"
    );
    kernel_version::check()?;
    ensure!(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "this kernel was built without BTF (/sys/kernel/btf/vmlinux is missing): use one with CONFIG_DEBUG_INFO_BTF=y, as \
         distributions ship since Linux 5.8"
    );
    Ok(())
}

/// Entries of the maps whose size depends on the configuration.
pub fn map_sizes(settings: &DataplaneSettings) -> [(&'static str, u32); 5] {
    // Of such a map each CPU keeps up to 128 free places to itself.
    let cpus = aya::util::nr_cpus().unwrap_or(1);
    let reserved = u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(128);
    let clients = settings.max_persistence.saturating_add(reserved);
    [
        ("CONNTRACK_V4", buckets_for(settings.max_connections)),
        ("CONNTRACK_V6", buckets_for(settings.max_connections_ipv6)),
        ("PERSISTENCE", clients),
        ("PERSISTENCE_UDP", clients),
        ("INTERFACES", balancer_common::settings::MAX_INTERFACES),
    ]
}

/// Loads the object; `log_level` is that of its log lines, 0 = none. Pinned maps are reused if they all fit; otherwise new ones are staged, and a note says why.
///
/// # Errors
/// The kernel refused the object, with the verifier's whole log; or the program gives wrong answers.
pub fn load(pins: &Pins, settings: &DataplaneSettings, log_level: u8) -> anyhow::Result<Loaded> {
    let mut notes = Vec::new();
    let object = Object::parse(OBJECT)
        .map_err(|error| anyhow!("the embedded packet program cannot be read: {error}"))?;
    let sizes = map_sizes(settings);
    let fresh = match pins.compare(&object, &sizes)? {
        None => {
            let others = pins.other_layouts()?;
            if !others.is_empty() {
                notes.push(format!(
                    "another version of balancerd left its maps here (layout {}, and this one's is v{ABI_VERSION}): its program went on \
                     forwarding until this version's took the interfaces over, and the connections of that time are reset",
                    others.join(", ")
                ));
            }
            true
        }
        Some(differences) if differences.is_empty() => false,
        Some(differences) => {
            notes.push(format!(
                "the pinned maps are not as this version and configuration want them, so the data plane starts anew and running \
                 connections are lost: {}",
                differences.join("; ")
            ));
            true
        }
    };
    let directory = if fresh {
        pins.stage()?
    } else {
        pins.directory().to_path_buf()
    };
    let paths: Vec<_> = pins::MAPS
        .iter()
        .map(|name| (*name, directory.join(name)))
        .collect();
    let mut loader = EbpfLoader::new();
    for (name, size) in &sizes {
        loader.map_max_entries(name, *size);
    }
    for (name, path) in &paths {
        loader.map_pin_path(name, path);
    }
    // This global is missing when the object was built without log lines.
    loader.override_global(aya_log::LEVEL, &log_level, false);
    let mut ebpf = loader
        .load(OBJECT)
        .context("cannot load the packet program's maps")?;
    load_programs(&mut ebpf)?;
    for name in ["clock", "renew"] {
        load_program(&mut ebpf, name)?;
    }
    Ok(Loaded {
        ebpf,
        fresh,
        directory,
        notes,
    })
}

/// Loads the programs that packets go through, and writes into `PROGRAMS` those that `balancer` calls. A program of an earlier daemon on
/// the same map calls them, too.
///
/// # Errors
/// The kernel refused one of them; the error has the verifier's whole log.
pub fn load_programs(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    load_program(ebpf, "balancer")?;
    for name in programs::CALLED {
        load_program(ebpf, name)?;
    }
    let mut put = |place, name| -> anyhow::Result<()> {
        let called = program(ebpf, name)?.fd()?.try_clone()?;
        let programs = ebpf
            .map_mut("PROGRAMS")
            .context("the object has no such map")?;
        let mut programs = ProgramArray::try_from(programs)?;
        Ok(programs.set(place, &called, 0)?)
    };
    let mut called = (0..).zip(programs::CALLED);
    called
        .try_for_each(|(place, name)| put(place, name))
        .context("cannot write PROGRAMS")
}

/// Loads one program of an object.
fn load_program(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<()> {
    program_mut(ebpf, name)?
        .load()
        .map_err(|error| load_error(name, error))
}

/// A program that only some daemons ever need: it is loaded when it is asked for first.
///
/// # Errors
/// The object has no XDP program of that name, or the kernel refused it.
pub fn provide<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a Xdp> {
    let program = program_mut(ebpf, name)?;
    match program.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(program),
        Err(error) => Err(load_error(name, error)),
    }
}

/// A loaded program.
///
/// # Errors
/// The object has no XDP program of that name.
pub fn program<'a>(ebpf: &'a Ebpf, name: &str) -> anyhow::Result<&'a Xdp> {
    match ebpf.program(name) {
        Some(Program::Xdp(program)) => Ok(program),
        _ => bail!("the embedded object has no XDP program {name}"),
    }
}

fn program_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    match ebpf.program_mut(name) {
        Some(Program::Xdp(program)) => Ok(program),
        _ => bail!("the embedded object has no XDP program {name}"),
    }
}

/// A load error with the verifier's whole log, which a bug report needs.
fn load_error(name: &str, error: ProgramError) -> anyhow::Error {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => anyhow!(
            "the kernel refused the program {name}: {io_error}; please report this with the kernel's version and this log of its \
             verifier:\n{verifier_log}"
        ),
        error => anyhow::Error::new(error).context(format!("cannot load the program {name}")),
    }
}
