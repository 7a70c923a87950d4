//! A web server with one page, for the lab's real servers, so that no other web server has to be installed.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

/// Longest request that is read, in bytes.
const MAX_REQUEST: u64 = 16 * 1024;

/// Serves one page.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Address to listen on
    #[arg(long)]
    listen: SocketAddr,
    /// What the page says
    page: String,
}

/// Serves until it is killed.
pub fn run(options: &Options) -> Result<ExitCode> {
    let listener = TcpListener::bind(options.listen)
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    for stream in listener.incoming() {
        let page = options.page.clone();
        // A client may close the connection at any time.
        thread::spawn(move || stream.and_then(|stream| answer(&stream, &page)));
    }
    Ok(ExitCode::SUCCESS)
}

fn answer(mut stream: &TcpStream, page: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = BufReader::new(stream.take(MAX_REQUEST));
    loop {
        let mut line = String::new();
        if request.read_line(&mut line)? == 0 {
            // A client that only checks whether the port is open sends nothing.
            return Ok(());
        }
        if line == "\r\n" {
            break;
        }
    }
    let length = page.len() + 1;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{page}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || answer(&listener.accept().unwrap().0, "This is x."));
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        server.join().unwrap().unwrap();
        text
    }

    #[test]
    fn a_request_is_answered_with_the_page() {
        assert_eq!(
            ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 11\r\nConnection: close\r\n\r\nThis is x.\n"
        );
    }

    #[test]
    fn half_a_request_is_not_answered() {
        assert_eq!(ask(b"GET / HTTP/1.1\r\nHost"), "");
        assert_eq!(ask(b""), "");
    }
}
