//! What the project's own tools share: the build of the packet program ([`ebpf`], which `balancer-ctl`'s build
//! script calls too) and network namespaces to run it in ([`lab`], which the tests use too).
//!
//! The commands of `cargo xtask` are in the binary, not here: a build script should not be rebuilt because a
//! command changed.

pub mod ebpf;
#[cfg(feature = "lab")]
pub mod lab;
pub mod workspace;
