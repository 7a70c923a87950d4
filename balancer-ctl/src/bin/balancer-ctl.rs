//! The operator's tool: see `balancer_ctl::cli`.

fn main() -> std::process::ExitCode {
    balancer_ctl::cli::main()
}
