//! Results that subprograms return: one number each. LLVM returns a `Result` as a word with an undefined half, into which
//! it may put a leftover pointer, and the verifier refuses to see pointers shifted.

use balancer_common::verdict::Discard;

/// A yes or no, or a discard, as one number.
#[derive(Clone, Copy)]
pub struct Encoded(u64);

impl Encoded {
    /// Added to a discard's number.
    const REASONS: u64 = 2;

    /// A yes or no, or why there is none.
    #[inline(always)]
    pub fn step(result: Result<bool, Discard>) -> Self {
        match result {
            Ok(yes) => Self(u64::from(yes)),
            Err(reason) => Self(Self::REASONS + reason as u64),
        }
    }

    /// The yes or no.
    #[inline(always)]
    pub fn goes_on(self) -> Result<bool, Discard> {
        if self.0 < Self::REASONS {
            return Ok(self.0 != 0);
        }
        // SAFETY: `step` is the only way to make such a number, and made it of a `Discard`.
        Err(unsafe { core::mem::transmute::<u32, Discard>((self.0 - Self::REASONS) as u32) })
    }
}
