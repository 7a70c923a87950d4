//! The operator's tool: see `balancer_ctl::cli`.

use balancer_ctl::{cli, control::load::load};

fn main() -> std::process::ExitCode {
    cli::main(load)
}
