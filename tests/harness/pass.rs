//! The smallest XDP program: it passes everything.
//!
//! What an XDP program on one end of a veth sends back (`XDP_TX`) leaves the ring of the other end only if that
//! end has a program too (`veth_xdp_flush` in the kernel); polling alone, which is enough for redirected frames,
//! is not enough there. Real cards have no such demand.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{
    bpf_attach_type::BPF_XDP,
    bpf_attr,
    bpf_cmd::{self, BPF_LINK_CREATE, BPF_PROG_LOAD},
    bpf_insn,
    bpf_prog_type::BPF_PROG_TYPE_XDP,
};

/// `XDP_FLAGS_DRV_MODE`.
const NATIVE: u32 = 1 << 2;

/// Attaches the program to an interface of the calling thread's namespace. It goes with the returned link.
///
/// # Errors
/// The kernel refuses, as when another program is there.
pub fn attach(ifindex: u32) -> io::Result<OwnedFd> {
    // r0 = XDP_PASS; exit.
    let mut instructions = [0xb7_u8, 0x95].map(|code| {
        // SAFETY: an instruction is eight plain bytes.
        let mut instruction: bpf_insn = unsafe { std::mem::zeroed() };
        instruction.code = code;
        instruction
    });
    instructions[0].imm = 2;
    // SAFETY: a plain union of integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: all members are integers, written before they are read by the kernel.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = BPF_PROG_TYPE_XDP as u32;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = instructions.len() as u32;
    load.license = c"GPL".as_ptr() as u64;
    let program = bpf(BPF_PROG_LOAD, &mut attr)?;
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = BPF_XDP as u32;
    attr.link_create.flags = NATIVE;
    bpf(BPF_LINK_CREATE, &mut attr)
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is as large as stated, and what it points to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<bpf_attr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
