//! The operator's tool: see `balancer_ctl::cli`.

use balancer_ctl::{cli, control::load::check};

fn main() -> std::process::ExitCode {
    cli::main(check)
}
