//! `status --check` answers within 5 s, whatever is on the other side of the socket.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::scene::{Ran, program, ran};

/// A socket whose clients are served by `serve`, one after the other, as long as the test runs.
fn served(serve: impl Fn(UnixStream) + Send + 'static) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("control.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    thread::spawn(move || listener.incoming().flatten().for_each(serve));
    (folder, path)
}

/// The one line of `status --check`, which must come within 5 s with the exit status of what is unknown.
fn unknown(socket: &Path) -> String {
    let began = Instant::now();
    let Ran {
        status,
        stdout,
        stderr,
    } = ran(program("balancer-ctl")
        .arg("--socket")
        .arg(socket)
        .args(["status", "--check"]));
    let lasted = began.elapsed();
    assert!(lasted < Duration::from_secs(5), "{lasted:?}");
    assert_eq!((status, stderr.as_str()), (3, ""));
    let begin = format!("unknown: no balancerd answers on {}: ", socket.display());
    let reason = stdout
        .strip_prefix(&begin)
        .unwrap_or_else(|| panic!("{stdout}"));
    reason.to_owned()
}

const LATE: &str = "its answer did not come within 4 s\n";
const HEADER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";

/// Reads the request, so that what is sent next is its answer.
fn requested(mut stream: &UnixStream) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request);
}

#[test]
fn a_daemon_that_does_not_read_or_answer_is_unknown() {
    // As one that is stopped: the kernel connects, and nobody accepts.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("control.sock");
    let _listener = UnixListener::bind(&path).expect("bind");
    assert_eq!(unknown(&path), LATE);
    let (_folder, path) = served(|stream| {
        requested(&stream);
        thread::sleep(Duration::from_secs(20));
    });
    assert_eq!(unknown(&path), LATE);
}

#[test]
fn an_answer_that_comes_byte_by_byte_is_unknown() {
    for begin in [&b""[..], HEADER] {
        let (_folder, path) = served(move |mut stream| {
            requested(&stream);
            let _ = stream.write_all(begin);
            let rest = if begin.is_empty() {
                HEADER
            } else {
                b"10\r\n{             "
            };
            for byte in rest {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_secs(1));
            }
        });
        assert_eq!(unknown(&path), LATE);
    }
}

#[test]
fn an_answer_without_end_is_unknown() {
    let (_folder, path) = served(|mut stream| {
        requested(&stream);
        let _ = stream.write_all(HEADER);
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        while stream.write_all(chunk.as_bytes()).is_ok() {}
    });
    assert_eq!(unknown(&path), "its answer is larger than 16 MiB\n");
}

#[test]
fn an_answer_that_ends_early_is_unknown() {
    let (_folder, path) = served(|stream| {
        requested(&stream);
        let _ = stream.shutdown(Shutdown::Both);
    });
    assert_eq!(
        unknown(&path),
        "connection closed before message completed\n"
    );
}
