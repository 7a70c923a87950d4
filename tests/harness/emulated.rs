//! Tests on an emulated processor, which takes some twenty times as long.

/// How often a test that repeats itself `full` times does so here: on an emulated processor, as `cargo xtask test --kernel` has it, an eighth.
#[must_use]
pub fn rounds<N: From<u8> + std::ops::Div<Output = N>>(full: N) -> N {
    if std::env::var_os("BALANCER_EMULATED").is_some() {
        full / N::from(8)
    } else {
        full
    }
}
