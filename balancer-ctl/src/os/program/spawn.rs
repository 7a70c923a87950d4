//! How a process becomes a program.
//!
//! The standard library could do all of this but for the limits, which only a process can change for itself before it
//! becomes a program; for that the library copies the daemon's page tables (`fork`), which takes some 12 ms of a daemon
//! with 100 MB where this takes 0.2 ms. Here the child runs in our memory until it is a program, while the thread that
//! made it waits (`vfork`), as in the C library's `posix_spawn`.

use std::{
    ffi::CString,
    io, iter,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, BorrowedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
    sync::{
        Once,
        atomic::{AtomicI32, Ordering},
    },
};

use libc::{c_char, c_int, c_uint};
use nix::{
    errno::Errno,
    sched::{CloneFlags, clone},
    sys::signal::{SigSet, SigmaskHow, pthread_sigmask},
    unistd::Pid,
};

use super::group;
use crate::os::open_files::Limit;

/// What the child needs until it is a program is some 1 KiB; a build without optimization uses more.
const STACK: usize = 64 * 1024;
/// The first file that a program does not get.
const FIRST_OF_OURS: c_uint = 3;
/// Linux has signals from 1 to this.
const LAST_SIGNAL: c_int = 64;

/// What a process is to become.
pub struct SpawnSpec<'a> {
    pub path: &'a Path,
    pub arguments: &'a [String],
    pub environment: Vec<(&'a str, &'a str)>,
    /// Standard input, output and error.
    pub files: [BorrowedFd<'a>; 3],
    /// Of open files; `None` = ours.
    pub limit: Option<Limit>,
}

impl SpawnSpec<'_> {
    /// Starts it: in a process group of its own, which has its id, in `/`, with these files and no others, and with
    /// no signal blocked or ignored.
    ///
    /// # Errors
    /// There is no such program, it cannot be run, or there can be no more processes.
    pub fn start(self) -> io::Result<Pid> {
        keep_the_dead();
        let path = CString::new(self.path.as_os_str().as_bytes())?;
        let name = iter::once(Ok(path.clone()));
        let arguments = self
            .arguments
            .iter()
            .map(|text| CString::new(text.as_str()));
        let arguments: Vec<_> = name.chain(arguments).collect::<Result<_, _>>()?;
        let environment: Vec<_> = self
            .environment
            .iter()
            .map(|(name, value)| CString::new(format!("{name}={value}")))
            .collect::<Result<_, _>>()?;
        let (arguments, environment) = (pointers(&arguments), pointers(&environment));
        let child = Child {
            path: path.as_ptr(),
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            files: self.files.map(|file| file.as_raw_fd()),
            limit: self.limit,
        };
        // Between two processes, one of which waits for the other.
        let failure = AtomicI32::new(0);
        let live = || {
            // SAFETY: this is the child, before anything else. `path`, `arguments` and `environment` above outlive it:
            // our thread goes on only when it has ended or become a program.
            let errno = unsafe { child.become_program() };
            failure.store(errno as c_int, Ordering::Relaxed);
            127
        };
        let mut stack = vec![0; STACK];
        let id = {
            let _blocked = Blocked::new()?;
            let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
            // SAFETY: the child shares our memory and nothing else, has a stack that is large enough, and calls the
            // kernel only: it takes no lock that another thread may hold, allocates nothing, and does not panic. With
            // all signals blocked, no handler of ours runs in it.
            unsafe { clone(Box::new(live), &mut stack, flags, Some(libc::SIGCHLD)) }?
        };
        match failure.load(Ordering::Relaxed) {
            0 => Ok(id),
            errno => {
                group::fetch(id, group::WaitMode::Forever)?;
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }
}

/// The texts as the kernel takes them.
fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    let texts = texts.iter().map(|text| text.as_ptr());
    texts.chain(iter::once(ptr::null())).collect()
}

/// What the child has, in plain numbers and pointers.
struct Child {
    path: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    files: [RawFd; 3],
    limit: Option<Limit>,
}

impl Child {
    /// Returns only if it cannot.
    ///
    /// # Safety
    /// This is a process of its own, whatever memory it shares; `path` points to a text that ends with a zero byte, and
    /// `arguments` and `environment` to lists of such that end with a null pointer.
    unsafe fn become_program(&self) -> Errno {
        // SAFETY: what the calls read and write is on this stack or, as said above, valid; what they change is this
        // process's own.
        unsafe {
            let mut default: libc::sigaction = MaybeUninit::zeroed().assume_init();
            default.sa_sigaction = libc::SIG_DFL;
            for signal in 1..=LAST_SIGNAL {
                // It fails for those that none can change.
                libc::sigaction(signal, &default, ptr::null_mut());
            }
            if libc::setpgid(0, 0) != 0 || libc::chdir(c"/".as_ptr()) != 0 {
                return Errno::last();
            }
            for (number, file) in (0..).zip(self.files) {
                // Ours are all above 2: the standard library sees to it that 0 to 2 are taken when we start.
                if libc::dup2(file, number) != number {
                    return Errno::last();
                }
            }
            // What we open is closed by the kernel now anyway; this is for what whoever started us left open. Where the
            // call is forbidden (some containers), that stays.
            libc::syscall(libc::SYS_close_range, FIRST_OF_OURS, c_uint::MAX, 0);
            if let Some(Limit { soft, hard }) = self.limit {
                let limit = libc::rlimit {
                    rlim_cur: soft,
                    rlim_max: hard,
                };
                if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0 {
                    return Errno::last();
                }
            }
            let mut none: libc::sigset_t = MaybeUninit::zeroed().assume_init();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
            libc::execve(self.path, self.arguments, self.environment);
            Errno::last()
        }
    }
}

/// All signals, kept from this thread until it is dropped.
struct Blocked(SigSet);

impl Blocked {
    fn new() -> io::Result<Self> {
        let mut before = SigSet::empty();
        pthread_sigmask(
            SigmaskHow::SIG_SETMASK,
            Some(&SigSet::all()),
            Some(&mut before),
        )?;
        Ok(Self(before))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // It fails for a wrong first argument only.
        let _ = self.0.thread_set_mask();
    }
}

/// Whoever started the daemon may have it ignore the end of children, and the kernel then forgets how they ended.
fn keep_the_dead() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the call reads and writes what is on this stack; that a signal which was ignored is not, and does
        // nothing by default either, no other thread can notice.
        unsafe {
            let mut now: libc::sigaction = MaybeUninit::zeroed().assume_init();
            let known = libc::sigaction(libc::SIGCHLD, ptr::null(), &mut now) == 0;
            if known && now.sa_sigaction == libc::SIG_IGN {
                now.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(libc::SIGCHLD, &now, ptr::null_mut());
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, pipe},
        os::fd::AsFd as _,
    };

    use nix::sys::resource::{Resource, getrlimit};

    use super::*;

    #[test]
    fn a_program_gets_the_limit_that_is_put_back() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let (nothing, (mut output, writer)) = (File::open("/dev/null").unwrap(), pipe().unwrap());
        let birth = SpawnSpec {
            path: Path::new("/bin/sh"),
            arguments: &["-c".to_owned(), "ulimit -Sn; ulimit -Hn".to_owned()],
            environment: Vec::new(),
            files: [nothing.as_fd(), writer.as_fd(), writer.as_fd()],
            limit: Some(Limit { soft: 123, hard }),
        };
        let id = birth.start().unwrap();
        drop(writer);
        let mut told = String::new();
        output.read_to_string(&mut told).unwrap();
        assert_eq!(told, format!("123\n{hard}\n"));
        let end = group::fetch(id, group::WaitMode::Forever).unwrap();
        assert!(end.success(), "{end}");
        // Ours is as it was.
        assert_ne!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, 123);
    }
}
