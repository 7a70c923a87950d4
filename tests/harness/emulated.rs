//! Tests on an emulated processor, which takes some twenty times as long.

use crate::privileged::skip;

/// How often a test that repeats itself `full` times does so here: on an emulated processor, as `cargo xtask test --kernel` has it, an eighth.
#[must_use]
pub fn rounds<N: From<u8> + std::ops::Div<Output = N>>(full: N) -> N {
    if is_emulated() {
        full / N::from(8)
    } else {
        full
    }
}

/// Whether the running test is skipped since it shows the same on every kernel; says so.
#[must_use]
pub fn skipped() -> bool {
    let is_emulated = is_emulated();
    if is_emulated {
        skip("it shows the same on every kernel, and takes minutes on an emulated processor");
    }
    is_emulated
}

fn is_emulated() -> bool {
    std::env::var_os("BALANCER_EMULATED").is_some()
}
