//! Debian's stock kernels in virtual machines, for tests and measurements: `cargo xtask test --kernel` and
//! `cargo xtask bench ipvs`.
//!
//! ```text
//!  release ─▶ archive ─▶ package: kernel and modules ─┐
//!             archive ─▶ QEMU, busybox ───────────────┼─▶ machine ─▶ lines that the guest writes
//!             programs of ours ─▶ guest: initramfs ───┘
//! ```
//!
//! All that is downloaded stays below `target/kernels`; nothing of it is installed, and none of it needs root.

pub mod guest;
pub mod machine;
pub mod release;

mod archive;
mod initramfs;
mod modules;
mod package;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

pub use self::package::Kernel;
use self::{machine::Emulator, package::Kernels, release::Release};
use crate::{
    cargo::target,
    setup::{self, Consent, Purpose},
};

/// The files of which a virtual machine is made.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The kernel.
    pub kernel: Kernel,
    /// QEMU.
    pub emulator: Emulator,
    /// The folder with unpacked programs of Debian that are not installed: busybox, and others that the caller wanted.
    pub unpacked: PathBuf,
    /// The folder for files of a run.
    pub folder: PathBuf,
}

/// What a guest is made of, for [`lock`]: while it is downloaded, unpacked and packed.
pub const PARTS: &str = "parts";

/// Waits until no other run has `name`, and keeps others from it until the file is dropped.
///
/// # Errors
/// The folder cannot be written.
pub fn lock(name: &str) -> Result<File> {
    let folder = target().join("kernels");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("lock-{name}"));
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    if file.try_lock().is_err() {
        println!("another run has {}: waiting for its end", path.display());
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// Makes sure that a kernel, QEMU and busybox are here, and `more`: packages with a program each, with the program's
/// path in the package.
///
/// # Errors
/// Something cannot be downloaded; the error says why, and what to do. Or the user answered no.
pub fn provide(release: Release, more: &[(&str, &str)], consent: Consent) -> Result<Parts> {
    let folder = target().join("kernels");
    let unpacked = folder.join("tools");
    let kernels = Kernels::new(folder.clone());
    let recent = kernels.recent(release);
    let packages = missing_packages(&unpacked, more);
    if recent.is_none() || !packages.is_empty() {
        if let Some(reason) = archive::missing() {
            bail!("{reason}");
        }
        let mut plan = Vec::new();
        if recent.is_none() {
            plan.push(format!(
                "Linux {release} as Debian builds it, if there is a newer one than here: 30 MB"
            ));
        }
        if !packages.is_empty() {
            plan.push(format!(
                "{} with the libraries that are not installed: up to 20 MB",
                packages.join(", ")
            ));
        }
        println!(
            "To be downloaded from Debian and unpacked below {} (nothing of it is installed):",
            folder.display()
        );
        for line in plan {
            println!("  {line}");
        }
        setup::ask(consent)?;
    }
    setup::ensure(&[Purpose::Guest], consent)?;
    if !packages.is_empty() {
        archive::unpack_with_needs(&packages, &folder.join("download"), &unpacked)?;
    }
    let kernel = match recent {
        Some(kernel) => kernel,
        None => kernels.fetch(release)?,
    };
    let emulator = Emulator::find(&unpacked)
        .with_context(|| format!("there is no QEMU below {}", unpacked.display()))?;
    Ok(Parts {
        kernel,
        emulator,
        unpacked,
        folder,
    })
}

/// Debian's packages that contain programs that are neither installed nor unpacked.
fn missing_packages<'a>(unpacked: &Path, more: &[(&'a str, &str)]) -> Vec<&'a str> {
    let mut packages = Vec::new();
    if Emulator::find(unpacked).is_none() {
        packages.push("qemu-system-x86");
    }
    let programs = [("busybox-static", guest::BUSYBOX)];
    for (package, program) in programs.iter().chain(more) {
        if !unpacked.join(program).is_file() {
            packages.push(package);
        }
    }
    packages
}
