//! The calls of bpf(2) that aya lacks: map batches, and XDP links without a silent fallback.
//!
//! aya attaches XDP by a netlink message where the kernel refuses a link; such an attachment cannot be pinned
//! and would end with the daemon, so links are made here and fail plainly.

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info};

/// A zeroed attribute union, since the kernel requires unused bytes to be zero.
pub fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of plain integers; all zero is valid.
    unsafe { std::mem::zeroed() }
}

/// Makes the system call; repeats it after `EINTR`.
///
/// # Safety
/// Every pointer and file descriptor in `attr` that `command` reads must be valid for it.
pub unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    loop {
        // SAFETY: `attr` is a whole attribute union; the caller answers for what it points to.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command as u32,
                std::ptr::from_mut(attr),
                size_of::<bpf_attr>(),
            )
        };
        if result >= 0 {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn raw_fd(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    fd.as_raw_fd().cast_unsigned()
}

/// Makes a system call that returns a descriptor.
///
/// # Safety
/// As for [`bpf`].
unsafe fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: as promised by the caller.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Opens the object that is pinned at `path`.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    // SAFETY: `path` is terminated and outlives the call.
    unsafe { bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr) }
}

/// Pins the object of `fd` at `path`.
pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = raw_fd(fd);
    // SAFETY: `path` is terminated and outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Attaches an XDP program to an interface; `flags` are `XDP_FLAGS_*`.
pub fn create_link(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = raw_fd(program);
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = bpf_attach_type::BPF_XDP as u32;
    attr.link_create.flags = flags;
    // SAFETY: no pointers in this call.
    unsafe { bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// Replaces the program of a link atomically.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_update.link_fd = raw_fd(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw_fd(program);
    // SAFETY: no pointers in this call.
    unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Opens a loaded program by its id.
pub fn open_program(id: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    // SAFETY: no pointers in this call.
    unsafe { bpf_fd(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr) }
}

/// Detaches the program, even if others hold the link.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_detach.link_fd = raw_fd(link);
    // SAFETY: no pointers in this call.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// The kernel's information about an XDP link.
#[derive(Clone, Copy, Debug)]
pub struct LinkInfo {
    /// The program's id.
    pub program_id: u32,
    /// The interface's index; 0 when it is gone or the program was detached.
    pub ifindex: u32,
}

/// Asks the kernel about an XDP link.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: a struct of plain integers; all zero is valid.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = raw_fd(link);
    attr.info.info_len = size_of::<bpf_link_info>() as u32;
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    // SAFETY: `info` is as long as said and outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    // SAFETY: only XDP links are asked about; the kernel has filled this member, or left it zero.
    let ifindex = unsafe { info.__bindgen_anon_1.xdp.ifindex };
    Ok(LinkInfo {
        program_id: info.prog_id,
        ifindex,
    })
}

/// A map's type and sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// `BPF_MAP_TYPE_*`.
    pub map_type: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
}

/// The kernel's id of a map.
pub fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    map_info(map).map(|info| info.id)
}

/// Asks the kernel about a map.
pub fn map_shape(map: BorrowedFd<'_>) -> io::Result<MapShape> {
    let info = map_info(map)?;
    Ok(MapShape {
        map_type: info.type_,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        flags: info.map_flags,
    })
}

fn map_info(map: BorrowedFd<'_>) -> io::Result<aya_obj::generated::bpf_map_info> {
    // SAFETY: a struct of plain integers; all zero is valid.
    let mut info: aya_obj::generated::bpf_map_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = raw_fd(map);
    attr.info.info_len = size_of_val(&info) as u32;
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    // SAFETY: `info` is as long as said and outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// Looks up one key. `Ok(false)`: there is no such key.
///
/// # Safety
/// `key` and `value` must point to as many bytes as the map's keys and values have.
pub unsafe fn lookup(map: BorrowedFd<'_>, key: *const u8, value: *mut u8) -> io::Result<bool> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = raw_fd(map);
    attr.__bindgen_anon_2.key = key as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value as u64;
    // SAFETY: as promised by the caller.
    match unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes one value, for map types without batches.
///
/// # Safety
/// As for [`lookup`].
pub unsafe fn update(map: BorrowedFd<'_>, key: *const u8, value: *const u8) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = raw_fd(map);
    attr.__bindgen_anon_2.key = key as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value as u64;
    // SAFETY: as promised by the caller.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Deletes one key. `Ok(false)`: there was no such key.
///
/// # Safety
/// `key` must point to as many bytes as the map's keys have.
pub unsafe fn delete(map: BorrowedFd<'_>, key: *const u8) -> io::Result<bool> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = raw_fd(map);
    attr.__bindgen_anon_2.key = key as u64;
    // SAFETY: as promised by the caller.
    match unsafe { bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Position of a batch read; `None` is the beginning. The kernel writes 4 bytes of hash maps and arrays, and a whole key of a
/// longest-prefix table.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchCursor(pub(super) Option<[u8; Self::ROOM]>);

impl BatchCursor {
    /// Bytes that the kernel may write.
    pub const ROOM: usize = 32;
}

/// Reads the next batch. Returns how many entries it has, and whether it is the last one.
///
/// # Safety
/// `keys` and `values` must have room for `room` keys and values of the map, and a key must not be longer than [`BatchCursor::ROOM`].
pub unsafe fn lookup_batch(
    map: BorrowedFd<'_>,
    cursor: &mut BatchCursor,
    keys: *mut u8,
    values: *mut u8,
    room: u32,
) -> io::Result<(u32, bool)> {
    let mut attr = zeroed_attr();
    let mut next = [0_u8; BatchCursor::ROOM];
    attr.batch.map_fd = raw_fd(map);
    attr.batch.in_batch = cursor.0.as_ref().map_or(0, |bytes| bytes.as_ptr() as u64);
    attr.batch.out_batch = next.as_mut_ptr() as u64;
    attr.batch.keys = keys as u64;
    attr.batch.values = values as u64;
    attr.batch.count = room;
    // SAFETY: the cursors outlive the call; the caller answers for the rest.
    let result = unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) };
    // SAFETY: the batch member was written above; the kernel updates its count.
    let count = unsafe { attr.batch.count };
    match result {
        Ok(_) => {
            cursor.0 = Some(next);
            Ok((count, false))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((count, true)),
        Err(error) => Err(error),
    }
}

/// Writes `count` keys and values.
///
/// # Safety
/// `keys` and `values` must hold `count` keys and values of the map.
pub unsafe fn update_batch(
    map: BorrowedFd<'_>,
    keys: *const u8,
    values: *const u8,
    count: u32,
) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.batch.map_fd = raw_fd(map);
    attr.batch.keys = keys as u64;
    attr.batch.values = values as u64;
    attr.batch.count = count;
    // SAFETY: as promised by the caller.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr) }.map(drop)
}

/// Waits until every packet program that runs now has ended. They run inside an RCU read section, and this
/// barrier waits for all of those. `Ok(false)`: the kernel does not offer it (it was built without, or runs with `nohz_full`).
pub fn wait_for_running_programs() -> io::Result<bool> {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    // SAFETY: no pointers in this call.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL) => Ok(false),
        _ => Err(error),
    }
}
