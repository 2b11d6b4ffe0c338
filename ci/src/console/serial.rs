//! Serial ports of a running QEMU. Each is a pair of pipes whose other ends QEMU inherits: no
//! connection to wait for, and the end of QEMU is the end of the stream.
//!
//! They are no socket pairs, because QEMU writes byte by byte and a Unix socket's room is counted
//! in messages: 278 of them are enough to fill it. A reader that is kept off the processor for so
//! little makes the port unready, Xen's own buffer of 16 KiB fills, and then Xen drops what it and
//! its dom0 print until half of that is sent. A pipe's room is bytes.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::exit::{Failure, Result};
use crate::interrupt;

/// A real serial line is slow, and Xen's input buffer relies on that.
const PACE: Duration = Duration::from_millis(2);

/// How much may wait to be read, in bytes: what an unprivileged process may ask for.
const ROOM: usize = 1 << 20;

/// Something that came in.
#[derive(Debug)]
pub(crate) enum Input {
    /// Bytes from a port.
    Bytes(usize, Vec<u8>),
    /// A port was closed: QEMU is gone.
    Closed,
    /// Keys from the terminal.
    Keys(Vec<u8>),
    /// The person at the terminal wants to leave.
    Leave,
}

/// All ports of one machine, read in the background.
pub(crate) struct Ports {
    writers: Vec<PipeWriter>,
    sender: Sender<Input>,
    inputs: Receiver<Input>,
}

/// QEMU's ends of a port.
pub(crate) struct Theirs {
    /// What comes from us.
    pub(crate) input: OwnedFd,
    /// What goes to us.
    pub(crate) output: OwnedFd,
}

impl Ports {
    /// Makes `count` ports and the ends that QEMU is to inherit.
    pub(crate) fn open(count: usize) -> Result<(Self, Vec<Theirs>)> {
        let failed = || Failure::file("create", "a pipe");
        let (sender, inputs) = channel();
        let mut writers = Vec::new();
        let mut theirs = Vec::new();
        for port in 0..count {
            let (input, writer) = std::io::pipe().map_err(failed())?;
            let (reader, output) = roomy().map_err(failed())?;
            let sender = sender.clone();
            std::thread::spawn(move || read(port, reader, &sender));
            writers.push(writer);
            theirs.push(Theirs {
                input: input.into(),
                output: output.into(),
            });
        }
        Ok((
            Self {
                writers,
                sender,
                inputs,
            },
            theirs,
        ))
    }

    /// Where a keyboard reader delivers.
    pub(crate) fn sender(&self) -> Sender<Input> {
        self.sender.clone()
    }

    /// The next input, or `None` at `deadline`. Ctrl-C ends any wait.
    pub(crate) fn next(&self, deadline: Option<Instant>) -> Result<Option<Input>> {
        loop {
            if interrupt::requested() {
                return Err(Failure::Interrupted);
            }
            let mut wait = Duration::from_millis(100);
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(None);
                }
                wait = wait.min(left);
            }
            match self.inputs.recv_timeout(wait) {
                Ok(input) => return Ok(Some(input)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Some(Input::Closed)),
            }
        }
    }

    /// Writes to a port as fast as it takes it.
    pub(crate) fn write(&mut self, port: usize, bytes: &[u8]) {
        // A port that is gone reports itself as closed.
        let _ = self.writers[port].write_all(bytes);
    }

    /// Writes to a port as a person types.
    pub(crate) fn type_in(&mut self, port: usize, bytes: &[u8]) {
        for byte in bytes {
            self.write(port, &[*byte]);
            std::thread::sleep(PACE);
        }
    }
}

/// A pipe whose reader may lag.
fn roomy() -> std::io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = std::io::pipe()?;
    // Where the user's other pipes leave no room, the usual 64 KiB do.
    let _ = rustix::pipe::fcntl_setpipe_size(&writer, ROOM);
    Ok((reader, writer))
}

fn read(port: usize, mut reader: PipeReader, sender: &Sender<Input>) {
    let mut buffer = [0; 4096];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) | Err(_) => {
                let _ = sender.send(Input::Closed);
                return;
            }
            Ok(count) => {
                if sender
                    .send(Input::Bytes(port, buffer[..count].to_vec()))
                    .is_err()
                {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_with_their_port_and_the_end_is_seen() {
        let (mut ports, mut theirs) = Ports::open(2).unwrap();
        let second = theirs.remove(1);
        let mut output = PipeWriter::from(second.output);
        output.write_all(b"hi").unwrap();
        let Some(Input::Bytes(1, bytes)) = ports.next(None).unwrap() else {
            panic!("no bytes")
        };
        assert_eq!(bytes, b"hi");
        ports.write(1, b"yo");
        let mut answer = [0; 2];
        PipeReader::from(second.input)
            .read_exact(&mut answer)
            .unwrap();
        assert_eq!(&answer, b"yo");
        drop(output);
        assert!(matches!(ports.next(None).unwrap(), Some(Input::Closed)));
    }

    #[test]
    fn a_reader_that_lags_holds_up_nobody() {
        // Not read at all, which is as far as a reader can lag.
        let (_reader, mut output) = roomy().unwrap();
        rustix::io::ioctl_fionbio(&output, true).unwrap();
        for at in 0..65_536 {
            assert_eq!(output.write(b"x").ok(), Some(1), "byte {at}");
        }
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let (ports, _theirs) = Ports::open(1).unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        assert!(ports.next(Some(deadline)).unwrap().is_none());
    }
}
