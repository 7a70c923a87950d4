//! Builds the packet program and puts it where `src/dataplane/object.rs` embeds it from. `BALANCER_EBPF_OBJECT=FILE` takes
//! one built elsewhere, `BALANCER_EBPF=skip` none.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::ebpf::embed::build_script()
}
