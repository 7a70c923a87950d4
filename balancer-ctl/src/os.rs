//! The operating system around one process: clock, files and directories, memory, systemd, programs that are run.

pub mod boot_note;
pub mod clock;
pub mod file;
#[cfg(test)]
pub mod fuzz;
pub mod heap;
pub mod lock_file;
pub mod log_rate_limit;
pub mod new_directories;
pub mod open_files;
pub mod paths;
pub mod printable;
pub mod program;
pub mod realtime;
pub mod shell;
pub mod state_file;
pub mod systemd;
