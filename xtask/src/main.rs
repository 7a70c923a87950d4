//! xtask
mod bench;

use clap::Parser;

#[derive(Parser)]
enum Command {
    /// Measures the project against references in the same run
    Bench(bench::Options),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Bench(options) => bench::run(&options),
    }
}
