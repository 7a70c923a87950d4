//! Runs a program as another account than root.
//!
//! The daemon starts its own binary once more, which then becomes the account and executes the program. The child of `vfork` must
//! not do so itself: it shares the daemon's memory, whose thread waits for it, and the account's other processes could stop it
//! with a signal. That takes 1.7 ms more: an exec check of `/bin/true` takes 3.0 ms in place of 1.3 (medians of 40, release build).

use std::{
    convert::Infallible,
    env,
    ffi::{CStr, CString, OsStr, OsString},
    fs::{self, File},
    io::{self, Write as _},
    os::{fd::FromRawFd as _, unix::ffi::OsStringExt as _},
    process,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::{SigHandler, Signal, signal},
    unistd::{Gid, Uid, close, execv, getresgid, getresuid, setgroups, setresgid, setresuid},
};
use tokio::{io::AsyncReadExt as _, net::unix::pipe};

use super::account::Account;

/// The daemon's binary, also after it was replaced by another.
pub const OWN_BINARY: &str = "/proc/self/exe";
/// The first word of the command line with which the daemon starts itself.
pub const NAME: &str = "balancer-run-as";
/// The file descriptor to which an error number is written, native byte order.
const ERROR_FILE: i32 = 3;
/// Exit status when the program could not be executed, as of shells.
const NOT_EXECUTED: i32 = 127;

/// The arguments behind [`NAME`] with which a program is run as this account: user id, group id, all group ids, then the program
/// and its arguments.
pub fn arguments(account: &Account, path: &str, arguments: &[String]) -> Vec<String> {
    let groups: Vec<_> = account.groups.iter().map(ToString::to_string).collect();
    let head = [
        account.user.to_string(),
        account.group.to_string(),
        groups.join(","),
        path.to_owned(),
    ];
    [&head, arguments].concat()
}

/// Waits until the program is executed or the process has ended. Returns the error with which it could not be executed, if so.
pub async fn read_error(mut file: pipe::Receiver) -> Option<Errno> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).await.ok()?;
    let number = i32::from_ne_bytes(*bytes.first_chunk()?);
    Some(Errno::from_raw(number))
}

/// If the daemon has started this process to run a program as another account: runs it and never returns. To be called before there
/// is a second thread.
pub fn run_if_asked() {
    let mut words = env::args_os();
    if words.next().as_deref() != Some(OsStr::new(NAME)) {
        return;
    }
    let words: Vec<_> = words.collect();
    // SAFETY: if the descriptor is closed, the first call on it fails; nothing else in this process uses it.
    let mut file = unsafe { File::from_raw_fd(ERROR_FILE) };
    let ready = fcntl(&file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    let Err(errno) = ready.and_then(|_| execute(words));
    let _ = file.write_all(&(errno as i32).to_ne_bytes());
    process::exit(NOT_EXECUTED);
}

/// Closes all files but the first three and the one for errors, which closes itself. The daemon has closed them by a call that some
/// containers forbid.
fn close_inherited() -> Result<(), Errno> {
    let failed = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        open.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    for file in open.into_iter().filter(|file| *file > ERROR_FILE) {
        // Fails for the folder's own file, which is closed by now.
        let _ = close(file);
    }
    Ok(())
}

/// Becomes the account and executes the program. Returns only if that fails.
fn execute(words: Vec<OsString>) -> Result<Infallible, Errno> {
    let texts: Result<Vec<_>, _> = words
        .into_iter()
        .map(|word| CString::new(word.into_vec()))
        .collect();
    let texts = texts.map_err(|_| Errno::EINVAL)?;
    let [user, group, groups, program @ ..] = texts.as_slice() else {
        return Err(Errno::EINVAL);
    };
    let path = program.first().ok_or(Errno::EINVAL)?;
    let number = |text: &str| text.parse::<u32>().map_err(|_| Errno::EINVAL);
    let text = |text| CStr::to_str(text).map_err(|_| Errno::EINVAL);
    let user = Uid::from_raw(number(text(user)?)?);
    let group = Gid::from_raw(number(text(group)?)?);
    let groups: Vec<_> = text(groups)?
        .split(',')
        .map(|id| number(id).map(Gid::from_raw))
        .collect::<Result<_, _>>()?;
    // The standard library ignores SIGPIPE, and the program would inherit that.
    // SAFETY: no handler is set.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    close_inherited()?;
    setgroups(&groups)?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    let users = getresuid()?;
    let groups = getresgid()?;
    if [users.real, users.effective, users.saved] != [user; 3]
        || [groups.real, groups.effective, groups.saved] != [group; 3]
    {
        return Err(Errno::EPERM);
    }
    execv(path, program)
}
