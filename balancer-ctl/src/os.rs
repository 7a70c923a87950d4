//! The operating system around one process: clock, files and directories, memory, systemd, programs that are run.

pub mod clock;
pub mod file;
pub mod heap;
pub mod open_files;
pub mod paths;
pub mod program;
pub mod state_file;
pub mod systemd;
