//! The packet program, embedded when this crate was built.

/// The object file, aligned for the loader. Empty when the crate was built with `BALANCER_EBPF=skip`; code that loads
/// it must refuse that with a clear message.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/balancer"));

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aya_obj::{Object, generated::bpf_insn};

    use super::OBJECT;

    /// Which registers, and which 8-byte slots of the stack (slot 0 ends at the frame pointer), may hold a pointer into
    /// the function's own stack. A bit each.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct StackPointers {
        registers: u16,
        slots: u64,
    }

    const FRAME_POINTER: u8 = 10;

    impl StackPointers {
        fn holds(self, register: u8) -> bool {
            register == FRAME_POINTER || self.registers & (1 << register) != 0
        }

        fn set(&mut self, register: u8, holds: bool) {
            self.registers = self.registers & !(1 << register) | (u16::from(holds) << register);
        }

        fn slot(offset: i16) -> u64 {
            let slot = (-i32::from(offset) - 1) / 8;
            u32::try_from(slot).map_or(0, |slot| 1_u64.checked_shl(slot).unwrap_or(0))
        }

        /// The state after one instruction (RFC 9669 section 4).
        fn after(mut self, instruction: &bpf_insn) -> Self {
            const LOAD_64: u8 = 0x79;
            const STORE_64: u8 = 0x7b;
            let (to, from) = (instruction.dst_reg(), instruction.src_reg());
            match (instruction.code, instruction.code & 7) {
                // dst = src
                (0xbf, _) => self.set(to, self.holds(from)),
                // dst += src
                (0x0f, _) => self.set(to, self.holds(to) || self.holds(from)),
                // 64-bit arithmetic with an immediate, except `dst = imm`, keeps a pointer a pointer.
                (code, 7) if code != 0xb7 => {}
                (LOAD_64, _) if from == FRAME_POINTER => {
                    self.set(to, self.slots & Self::slot(instruction.off) != 0);
                }
                (STORE_64, _) if to == FRAME_POINTER => {
                    let slot = Self::slot(instruction.off);
                    self.slots &= !slot;
                    if self.holds(from) {
                        self.slots |= slot;
                    }
                }
                // A call sets r0 and clobbers the argument registers.
                (0x85, _) => self.registers &= !0x3f,
                // Jumps and stores write no register.
                (_, 2 | 3 | 5 | 6) => {}
                _ => self.set(to, false),
            }
            self
        }
    }

    /// The calls of subprograms (by the instruction's index) that are given a pointer into the caller's stack.
    fn calls_with_stack_pointers(instructions: &[bpf_insn]) -> Vec<usize> {
        const CALL: u8 = 0x85;
        const SUBPROGRAM: u8 = 1;
        const EXIT: u8 = 0x95;
        let mut found = BTreeMap::new();
        let mut before: BTreeMap<usize, StackPointers> = BTreeMap::new();
        let mut waiting = vec![(0, StackPointers::default())];
        while let Some((index, state)) = waiting.pop() {
            let Some(instruction) = instructions.get(index) else {
                continue;
            };
            let known = before.get(&index).copied();
            let joined = StackPointers {
                registers: state.registers | known.unwrap_or_default().registers,
                slots: state.slots | known.unwrap_or_default().slots,
            };
            if known == Some(joined) {
                continue;
            }
            before.insert(index, joined);
            if instruction.code == CALL && instruction.src_reg() == SUBPROGRAM {
                found.insert(index, (1..=5).any(|argument| joined.holds(argument)));
            }
            let after = joined.after(instruction);
            let target = index as i64 + 1 + i64::from(instruction.off);
            match (instruction.code, instruction.code & 7) {
                (EXIT, _) => {}
                // A jump without a condition; the call's class is the same.
                (0x05, _) => waiting.push((target as usize, after)),
                (code, 5 | 6) if code != CALL => {
                    waiting.push((target as usize, after));
                    waiting.push((index + 1, after));
                }
                // A 64-bit immediate takes two instruction slots.
                (0x18, _) => waiting.push((index + 2, after)),
                _ => waiting.push((index + 1, after)),
            }
        }
        let given = found.into_iter().filter(|(_, given)| *given);
        given.map(|(index, _)| index).collect()
    }

    fn instruction(code: u8, to: u8, from: u8, off: i16, imm: i32) -> bpf_insn {
        bpf_insn {
            code,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(to, from),
            off,
            imm,
        }
    }

    #[test]
    fn pointers_into_the_stack_are_followed_to_calls() {
        let call = instruction(0x85, 0, 1, 0, 7);
        let to_stack = [
            instruction(0xbf, 2, 10, 0, 0),  // r2 = r10
            instruction(0x07, 2, 0, 0, -40), // r2 += -40
        ];
        let [copy, add] = to_stack;
        assert_eq!(calls_with_stack_pointers(&[copy, add, call]), [2]);
        // A register that is overwritten or clobbered by a helper call is no pointer any more.
        let overwritten = instruction(0xb7, 2, 0, 0, 1);
        assert!(calls_with_stack_pointers(&[copy, add, overwritten, call]).is_empty());
        let helper = instruction(0x85, 0, 0, 0, 1);
        assert!(calls_with_stack_pointers(&[copy, add, helper, call]).is_empty());
        // Through a spill to the stack, and on one of two paths only.
        let spill = instruction(0x7b, 10, 2, -8, 0);
        let fill = instruction(0x79, 1, 10, -8, 0);
        assert_eq!(calls_with_stack_pointers(&[copy, spill, fill, call]), [3]);
        let skip = instruction(0x15, 0, 0, 2, 0); // if r0 == 0, go two further
        assert_eq!(calls_with_stack_pointers(&[skip, copy, add, call]), [3]);
        assert!(calls_with_stack_pointers(&[call]).is_empty());
    }

    /// Verifiers before Linux 6.8 do not track which constants on a caller's stack a subprogram decides on, take two
    /// states for one, and remove branches that are alive: on 6.1 no TCP connection worked. So no subprogram is
    /// given a pointer into its caller's stack at all.
    #[test]
    fn no_subprogram_is_given_a_pointer_into_its_callers_stack() {
        if OBJECT.is_empty() {
            return;
        }
        let object = Object::parse(OBJECT).unwrap();
        let functions = object.functions.values();
        assert!(functions.len() > 20, "{} functions", functions.len());
        for function in functions {
            let calls = calls_with_stack_pointers(&function.instructions);
            assert!(
                calls.is_empty(),
                "{} calls subprograms with pointers into its stack, at instructions {calls:?}",
                function.name
            );
        }
    }
}
