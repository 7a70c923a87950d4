//! What a program prints, as far as it is kept; the rest is read and thrown away, so that the program does not wait for us.

use std::{
    fs::File,
    io::{self, PipeWriter, Read as _},
    os::fd::OwnedFd,
};

use tokio::{io::AsyncReadExt as _, net::unix::pipe};

const AT_ONCE: usize = 4096;

/// The beginning of an output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// As much as is kept.
    pub bytes: Vec<u8>,
    /// Whether there was more.
    pub is_cut: bool,
}

impl Output {
    fn take(&mut self, more: &[u8], keep: usize) {
        let room = keep.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&more[..more.len().min(room)]);
        self.is_cut |= more.len() > room;
    }
}

/// Our end of the pipe that a program prints to.
pub struct CapturedOutput {
    pipe: pipe::Receiver,
    keep: usize,
    output: Output,
}

impl CapturedOutput {
    /// Makes a pipe; the program gets its other end.
    pub fn new(keep: usize) -> io::Result<(Self, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        let heard = Self {
            pipe: pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?,
            keep,
            output: Output::default(),
        };
        Ok((heard, writer))
    }

    /// Reads to the end, which a process that the program left behind may put off for ever.
    pub async fn read(&mut self) {
        let mut buffer = [0; AT_ONCE];
        while let Ok(length @ 1..) = self.pipe.read(&mut buffer).await {
            self.output.take(&buffer[..length], self.keep);
        }
    }

    /// Takes what is there once the program has ended, as far as it is kept: tokio may not have heard of it yet.
    pub fn end(mut self) -> Output {
        if let Ok(pipe) = self.pipe.into_nonblocking_fd() {
            let mut pipe = File::from(pipe);
            let mut buffer = [0; AT_ONCE];
            while !self.output.is_cut
                && let Ok(length @ 1..) = pipe.read(&mut buffer)
            {
                self.output.take(&buffer[..length], self.keep);
            }
        }
        self.output
    }
}
