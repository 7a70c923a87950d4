//! A program's output. Its beginning is kept; the rest is read and discarded, so that the program does not block.

use std::{
    fs::File,
    io::{self, PipeWriter, Read as _},
    os::fd::OwnedFd,
};

use tokio::{io::AsyncReadExt as _, net::unix::pipe};

const READ_BYTES: usize = 4096;

/// The beginning of an output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The bytes that are kept.
    pub bytes: Vec<u8>,
    /// Whether there was more than that.
    pub is_cut: bool,
}

impl Output {
    fn append(&mut self, more: &[u8], keep: usize) {
        let room = keep.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&more[..more.len().min(room)]);
        self.is_cut |= more.len() > room;
    }
}

/// The daemon's end of a pipe to which a program writes.
pub struct CapturedOutput {
    pipe: pipe::Receiver,
    keep: usize,
    output: Output,
}

impl CapturedOutput {
    /// Makes a pipe; the second value is the end for the program.
    pub fn new(keep: usize) -> io::Result<(Self, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        let captured = Self {
            pipe: pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?,
            keep,
            output: Output::default(),
        };
        Ok((captured, writer))
    }

    /// Reads until the pipe is closed, which a process that the program left behind may never do.
    pub async fn read(&mut self) {
        let mut buffer = [0; READ_BYTES];
        while let Ok(length @ 1..) = self.pipe.read(&mut buffer).await {
            self.output.append(&buffer[..length], self.keep);
        }
    }

    /// Reads what is still in the pipe after the program has ended (tokio may not have reported it as readable yet), and
    /// returns what is kept.
    pub fn end(mut self) -> Output {
        if let Ok(pipe) = self.pipe.into_nonblocking_fd() {
            let mut pipe = File::from(pipe);
            let mut buffer = [0; READ_BYTES];
            while !self.output.is_cut
                && let Ok(length @ 1..) = pipe.read(&mut buffer)
            {
                self.output.append(&buffer[..length], self.keep);
            }
        }
        self.output
    }
}
