//! Where maps and links are pinned, so that they outlive the daemon, and whether the pinned maps can be reused.
//!
//! ```text
//! /sys/fs/bpf/balancer/[INSTANCE/]v<ABI_VERSION>/CONNTRACK_V4 …    maps by name
//! /sys/fs/bpf/balancer/[INSTANCE/]v<ABI_VERSION>/link-<ifindex>    XDP links (names of interfaces may hold dots,
//!                                                                  which bpffs refuses)
//! /sys/fs/bpf/balancer/[INSTANCE/]v<ABI_VERSION>+new/…             maps that are filled before they replace the others
//! ```

use std::{
    fs, io, iter,
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use aya_obj::Object;
use balancer_common::ABI_VERSION;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::syscall::{self, LinkInfo, MapShape};
use crate::os::{
    lock_file,
    paths::{self, Instance},
};

/// Maps that are pinned: all of the packet program's, except its log and its constants.
pub const MAPS: [&str; 42] = [
    "SETTINGS",
    "PROGRAMS",
    "INTERFACES",
    "DEVICES",
    "SERVICES_V4",
    "SERVICES_V6",
    "ADDRESSES",
    "HOST_ADDRESSES",
    "HOST_FILTER",
    "REALS",
    "REAL_PORTS_V4",
    "REAL_PORTS_V6",
    "FAILOVER_REALS_V4",
    "FAILOVER_REALS_V6",
    "REAL_LOADS",
    "ENDING",
    "RINGS",
    "STICKINESS",
    "MEMBERS",
    "PERSISTENCE",
    "PERSISTENCE_UDP",
    "PENDING",
    "SNAT_ADDRESSES",
    "SNAT_COUNTERS",
    "FILTER_RULES",
    "FILTER_COUNTS",
    "RATE_LIMITS",
    "RATE_BUCKETS",
    "TURNS",
    "CONNTRACK_V4",
    "CONNTRACK_V6",
    "FRAGMENTS_V4",
    "FRAGMENTS_V6",
    "UNPROVEN_FRAGMENTS_V4",
    "UNPROVEN_FRAGMENTS_V6",
    "LOCKS",
    "NEXT_HOPS",
    "ROUTE_VERSIONS",
    "REAL_STATS",
    "SERVICE_STATS",
    "DISCARDS",
    "SERVICE_DISCARDS",
];

const BPFFS: &str = "/sys/fs/bpf";

/// An instance's directories on bpffs.
#[derive(Clone, Debug)]
pub struct Pins {
    /// Holds one directory per map layout (ABI version).
    root: PathBuf,
    /// The directory of this program's layout.
    directory: PathBuf,
}

/// A pinned link.
#[derive(Debug)]
pub struct PinnedLink {
    /// Path of the pin.
    pub path: PathBuf,
    /// The link's descriptor.
    pub link: OwnedFd,
    /// The kernel's information about the link.
    pub info: LinkInfo,
}

impl Pins {
    /// The directories of an instance. Creates nothing.
    ///
    /// # Errors
    /// The instance's name cannot be used as a directory's name.
    pub fn of(instance: Option<&str>) -> anyhow::Result<Self> {
        let mut root = PathBuf::from(BPFFS).join("balancer");
        if let Some(name) = instance {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || !name.chars().all(plain) || is_layout(name) {
                bail!(
                    "the instance name {name:?} cannot be used: letters, digits, '-' and '_' are allowed, and not v with a number"
                );
            }
            root.push(name);
        }
        let directory = root.join(format!("v{ABI_VERSION}"));
        Ok(Self { root, directory })
    }

    /// The directory of this layout.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the link of an interface is pinned.
    pub fn link_path(&self, ifindex: u32) -> PathBuf {
        self.directory.join(format!("link-{ifindex}"))
    }

    /// Mounts bpffs where nothing is mounted, and creates the directories. Returns a warning when the mount will not
    /// outlive the daemon.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn prepare(&self) -> anyhow::Result<Option<String>> {
        mount_bpffs()?;
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(&self.directory)
            .with_context(|| format!("cannot create {}", self.directory.display()))?;
        Ok(private_mount_warning().unwrap_or_default())
    }

    /// All links of this instance, including those of other layouts.
    pub fn links(&self) -> anyhow::Result<Vec<PinnedLink>> {
        let mut links = Vec::new();
        for directory in self.layouts()? {
            for (name, path) in list_directory(&directory)? {
                if !name.starts_with("link-") {
                    continue;
                }
                let link = syscall::open_pin(&path)
                    .with_context(|| format!("cannot open the pinned link {}", path.display()))?;
                let info = syscall::link_info(link.as_fd())
                    .with_context(|| format!("cannot ask about the link {}", path.display()))?;
                links.push(PinnedLink { path, link, info });
            }
        }
        Ok(links)
    }

    /// Compares the pinned maps with what `object` and `sizes` need: one sentence per difference; `Ok(None)` when no
    /// map is pinned. `sizes` are entries by map name.
    pub fn compare(
        &self,
        object: &Object,
        sizes: &[(&str, u32)],
    ) -> anyhow::Result<Option<Vec<String>>> {
        let mut differences = Vec::new();
        let mut missing = Vec::new();
        for name in MAPS {
            let wanted = wanted_shape(object, name, sizes)?;
            let fd = match syscall::open_pin(&self.directory.join(name)) {
                Ok(fd) => fd,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    missing.push(name);
                    continue;
                }
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot open the pinned map {name}"));
                }
            };
            let found = syscall::map_shape(fd.as_fd())
                .with_context(|| format!("cannot ask about the map {name}"))?;
            differences.extend(shape_difference(name, wanted, found));
        }
        if missing.len() == MAPS.len() {
            return Ok(None);
        }
        differences.extend(missing.iter().map(|name| format!("{name} is missing")));
        Ok(Some(differences))
    }

    /// Whether nothing of this instance is pinned.
    pub fn is_empty(&self) -> anyhow::Result<bool> {
        for directory in self.layouts()? {
            if !list_directory(&directory)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The staging directory: new maps are pinned there until they are filled and replace the old ones.
    pub fn staging(&self) -> PathBuf {
        // No instance can have this name.
        self.root.join(format!("v{ABI_VERSION}+new"))
    }

    /// Creates the staging directory, empty.
    pub fn stage(&self) -> anyhow::Result<PathBuf> {
        self.remove_staged()?;
        let staging = self.staging();
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&staging)
            .with_context(|| format!("cannot create {}", staging.display()))?;
        Ok(staging)
    }

    /// Removes the staging directory and the maps in it.
    pub fn remove_staged(&self) -> anyhow::Result<()> {
        let staging = self.staging();
        for (_, path) in list_directory(&staging)? {
            unpin(&path)?;
        }
        match fs::remove_dir(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", staging.display()))
            }
            _ => Ok(()),
        }
    }

    /// Replaces the maps of this layout by the staged ones, and unpins everything of other layouts except links.
    pub fn adopt_staged(&self) -> anyhow::Result<()> {
        for directory in self.layouts()? {
            for (name, path) in list_directory(&directory)? {
                if !name.starts_with("link-") {
                    unpin(&path)?;
                }
            }
        }
        for (name, path) in list_directory(&self.staging())? {
            let place = self.directory.join(name);
            fs::rename(&path, &place).with_context(|| {
                format!("cannot move {} to {}", path.display(), place.display())
            })?;
        }
        self.remove_staged()
    }

    /// Names of other layouts with pins, which another version of this program has left.
    pub fn other_layouts(&self) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for directory in self.layouts()? {
            if directory != self.directory && !list_directory(&directory)?.is_empty() {
                let name = directory.file_name().unwrap_or_default();
                names.push(name.to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    /// Removes the directories of other layouts; their links must be gone.
    pub fn remove_other_layouts(&self) -> anyhow::Result<()> {
        for directory in self.layouts()? {
            if directory == self.directory {
                continue;
            }
            for (_, path) in list_directory(&directory)? {
                unpin(&path)?;
            }
            fs::remove_dir(&directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        Ok(())
    }

    /// Unpins everything, links first; that ends the data plane of this instance.
    pub fn remove_all(&self) -> anyhow::Result<()> {
        self.remove_staged()?;
        for link in self.links()? {
            unpin(&link.path)?;
        }
        for directory in self.layouts()? {
            for (_, path) in list_directory(&directory)? {
                unpin(&path)?;
            }
            fs::remove_dir(&directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        // A root stays while it holds the directories of other instances.
        let _ = fs::remove_dir(&self.root);
        let _ = fs::remove_dir(Path::new(BPFFS).join("balancer"));
        Ok(())
    }

    fn layouts(&self) -> anyhow::Result<Vec<PathBuf>> {
        let layouts = list_directory(&self.root)?
            .into_iter()
            .filter(|(name, _)| is_layout(name));
        Ok(layouts.map(|(_, path)| path).collect())
    }
}

/// The instance whose program with this id runs on an interface, if its pins are in this mount of bpffs.
pub fn instance_on(ifindex: u32, program_id: u32) -> Option<Instance> {
    let named = list_directory(&Path::new(BPFFS).join("balancer")).ok()?;
    let named = named.into_iter().filter_map(|(name, _)| name.parse().ok());
    let runs_there = |instance: &Instance| {
        let links = Pins::of(instance.name()).and_then(|pins| pins.links());
        let is_it =
            |link: &PinnedLink| (link.info.ifindex, link.info.program_id) == (ifindex, program_id);
        links.is_ok_and(|links| links.iter().any(is_it))
    };
    iter::once(Instance::default())
        .chain(named)
        .find(runs_there)
}

/// Whether a directory's name is that of a layout (`v1`).
fn is_layout(name: &str) -> bool {
    name.strip_prefix('v')
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Names and paths of a directory's entries; empty when it does not exist.
fn list_directory(directory: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let read = || -> io::Result<Vec<(String, PathBuf)>> {
        fs::read_dir(directory)?
            .map(|entry| {
                entry.map(|entry| {
                    (
                        entry.file_name().to_string_lossy().into_owned(),
                        entry.path(),
                    )
                })
            })
            .collect()
    };
    match read() {
        Ok(entries) => Ok(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", directory.display())),
    }
}

/// Removes a pin.
pub fn unpin(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A map as the object file defines it, with its size from `sizes`.
fn wanted_shape(object: &Object, name: &str, sizes: &[(&str, u32)]) -> anyhow::Result<MapShape> {
    let map = object.maps.get(name).with_context(|| {
        format!("the embedded packet program has no map {name}: it does not fit to this program, build both together")
    })?;
    let size = sizes
        .iter()
        .find(|(sized, _)| *sized == name)
        .map(|(_, size)| *size);
    Ok(MapShape {
        map_type: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: size.unwrap_or(map.max_entries()),
        flags: map.map_flags(),
    })
}

/// A sentence that says how a map differs; `None` if it does not.
fn shape_difference(name: &str, wanted: MapShape, found: MapShape) -> Option<String> {
    /// The kernel adds this flag to device maps by itself.
    const BPF_F_RDONLY_PROG: u32 = 1 << 7;
    let found = MapShape {
        flags: found.flags & !BPF_F_RDONLY_PROG,
        ..found
    };
    let wanted = MapShape {
        flags: wanted.flags & !BPF_F_RDONLY_PROG,
        ..wanted
    };
    if found == wanted {
        return None;
    }
    if (MapShape {
        max_entries: wanted.max_entries,
        ..found
    }) == wanted
    {
        return Some(format!(
            "{name} has {} entries, not {}",
            found.max_entries, wanted.max_entries
        ));
    }
    Some(format!(
        "{name} has type {}, keys of {} and values of {} bytes, flags {:#x}, not type {}, {} and {} bytes, {:#x}",
        found.map_type,
        found.key_size,
        found.value_size,
        found.flags,
        wanted.map_type,
        wanted.key_size,
        wanted.value_size,
        wanted.flags
    ))
}

/// Mounts bpffs on its usual place if nothing is mounted there.
fn mount_bpffs() -> anyhow::Result<()> {
    let is_mounted = || -> anyhow::Result<bool> {
        let kind = statfs(BPFFS).with_context(|| {
            format!("{BPFFS} is not there: this kernel was built without bpf(2)")
        })?;
        Ok(kind.filesystem_type() == BPF_FS_MAGIC)
    };
    if is_mounted()? {
        return Ok(());
    }
    // The lock keeps two daemons that start at once from mounting twice. Only root can open its file, and so hold it.
    let path = paths::mount_lock();
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    let file = lock_file::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    if is_mounted()? {
        return Ok(());
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        Some("mode=0700"),
    )
    .with_context(|| format!("cannot mount bpffs on {BPFFS}"))
}

/// A warning when process 1 does not see the bpffs mount. Each mount of bpffs has a device number of its own.
fn private_mount_warning() -> io::Result<Option<String>> {
    let device = fs::metadata(BPFFS)?.dev();
    let device = format!(
        "{}:{}",
        nix::sys::stat::major(device),
        nix::sys::stat::minor(device)
    );
    let visible = fs::read_to_string("/proc/1/mountinfo")?;
    if visible
        .lines()
        .any(|line| line.split(' ').nth(2) == Some(&device))
    {
        return Ok(None);
    }
    Ok(Some(format!(
        "{BPFFS} is a mount of this process's own mount namespace (as under `ip netns exec`): when the daemon ends, its pins \
         and with them the data plane may end too; start it with `nsenter --net=/run/netns/NAME`"
    )))
}

#[cfg(test)]
mod tests;
