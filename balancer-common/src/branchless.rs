//! Decisions without branches, each of which the verifier would follow to the program's end. The compiler knows the usual ways to write
//! them and makes branches of them again, so it is kept from seeing through.

/// The highest bit of a number as a number: 1 or 0.
#[inline(always)]
fn highest_bit(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut number = number;
        // SAFETY: one shift of a register.
        unsafe {
            core::arch::asm!("{0} >>= 63", inout(reg) number, options(pure, nomem, nostack, preserves_flags));
        }
        number
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        number >> 63
    }
}

/// 1 where `one` is below `other`, else 0. They differ by less than 2^63.
#[inline(always)]
#[must_use]
pub fn is_below(one: u64, other: u64) -> u64 {
    highest_bit(one.wrapping_sub(other))
}

/// 1 for zero, else 0. The value is below 2^63.
#[inline(always)]
#[must_use]
pub fn is_zero(value: u64) -> u64 {
    is_below(value, 1)
}

/// All ones for 1, zero for 0.
#[inline(always)]
#[must_use]
pub fn mask(condition: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut condition = condition;
        // SAFETY: one negation of a register.
        unsafe {
            core::arch::asm!("{0} = -{0}", inout(reg) condition, options(pure, nomem, nostack, preserves_flags));
        }
        condition
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        0_u64.wrapping_sub(condition)
    }
}

/// `yes` where `condition` is 1, `no` where it is 0.
#[inline(always)]
#[must_use]
pub fn pick(condition: u64, yes: u64, no: u64) -> u64 {
    no ^ (yes ^ no) & mask(condition)
}

/// The number, or 0 where it is negative.
#[inline(always)]
#[must_use]
pub fn not_negative(number: i64) -> u64 {
    let number = number as u64;
    number & !mask(highest_bit(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_what_branches_would_make_them() {
        for one in [0, 1, 2, 1 << 40, (1 << 63) - 1] {
            for other in [0, 1, 5, 1 << 40, (1 << 63) - 1] {
                assert_eq!(is_below(one, other), u64::from(one < other));
            }
            assert_eq!(is_zero(one), u64::from(one == 0));
            assert_eq!(
                pick(u64::from(one == 0), 7, one),
                if one == 0 { 7 } else { one }
            );
        }
        for number in [i64::MIN, -1, 0, 1, i64::MAX] {
            assert_eq!(not_negative(number), number.max(0).cast_unsigned());
        }
    }
}
