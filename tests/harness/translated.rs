//! The program as the kernel runs it, after the verifier has dropped what can never run.

use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{Map, MapInfo};
use aya_obj::generated::{bpf_attr, bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, bpf_insn, bpf_prog_info};

use crate::dataplane::Dataplane;

/// Opcode of the instruction that loads a 64-bit constant, such as a map's address.
const LOAD_CONSTANT: u8 = 0x18;
/// The constant is a map, which the kernel names by its id when it shows the program.
const PSEUDO_MAP: u8 = 1;

impl Dataplane {
    /// How many instructions of the packet program load the address of this map.
    ///
    /// # Panics
    /// There is no such map, or the kernel does not show the program.
    #[must_use]
    pub fn instructions_with_map(&self, name: &str) -> usize {
        let id = self.map_id(name);
        self.translated()
            .iter()
            .filter(|insn| insn.code == LOAD_CONSTANT && insn.src_reg() == PSEUDO_MAP)
            .filter(|insn| insn.imm as u32 == id)
            .count()
    }

    fn map_id(&self, name: &str) -> u32 {
        let (_, map) = self
            .maps()
            .find(|(n, _)| *n == name)
            .unwrap_or_else(|| panic!("no map {name}"));
        let (Map::RingBuf(data) | Map::Array(data) | Map::HashMap(data)) = map else {
            panic!("{name} is of a kind that nobody asks for");
        };
        let wanted = data.fd().as_fd().as_raw_fd();
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{wanted}")).expect("fdinfo");
        let id = text
            .lines()
            .find_map(|line| line.strip_prefix("map_id:"))
            .expect("map_id");
        let id = id.trim().parse().expect("a number");
        assert!(MapInfo::from_id(id).is_ok());
        id
    }

    /// The packet program's instructions.
    fn translated(&self) -> Vec<bpf_insn> {
        let program = self.program();
        let size = program
            .info()
            .expect("info")
            .size_translated()
            .expect("its size") as usize;
        // SAFETY: an instruction is eight plain bytes; all zeroes is one.
        let mut instructions: Vec<bpf_insn> =
            vec![unsafe { std::mem::zeroed() }; size / size_of::<bpf_insn>()];
        // SAFETY: both are plain structs of integers.
        let (mut info, mut attr): (bpf_prog_info, bpf_attr) = unsafe { std::mem::zeroed() };
        info.xlated_prog_len = size as u32;
        info.xlated_prog_insns = instructions.as_mut_ptr() as u64;
        let fd = program.fd().expect("a loaded program").as_fd().as_raw_fd();
        attr.info.bpf_fd = fd as u32;
        attr.info.info_len = size_of::<bpf_prog_info>() as u32;
        attr.info.info = &raw mut info as u64;
        // SAFETY: `attr` names two buffers of the stated sizes, which outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_OBJ_GET_INFO_BY_FD,
                &raw mut attr,
                size_of::<bpf_attr>(),
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        assert_eq!(info.xlated_prog_len as usize, size);
        instructions
    }
}
