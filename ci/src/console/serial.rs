//! Serial ports of a running QEMU. Each is one end of a socket pair whose other end QEMU
//! inherits: nothing in the file system to clean up, no connection to wait for, and the end of
//! QEMU is the end of the stream.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::exit::{Failure, Result};
use crate::interrupt;

/// A real serial line is slow, and Xen's input buffer relies on that.
const PACE: Duration = Duration::from_millis(2);

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
    writers: Vec<UnixStream>,
    sender: Sender<Input>,
    inputs: Receiver<Input>,
}

impl Ports {
    /// Makes `count` ports and the ends that QEMU is to inherit.
    pub(crate) fn open(count: usize) -> Result<(Self, Vec<OwnedFd>)> {
        let failed = || Failure::file("create", "a socket pair");
        let (sender, inputs) = channel();
        let mut writers = Vec::new();
        let mut theirs = Vec::new();
        for port in 0..count {
            let (ours, other) = UnixStream::pair().map_err(failed())?;
            let reader = ours.try_clone().map_err(failed())?;
            let sender = sender.clone();
            std::thread::spawn(move || read(port, reader, &sender));
            writers.push(ours);
            theirs.push(OwnedFd::from(other));
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

fn read(port: usize, mut reader: UnixStream, sender: &Sender<Input>) {
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
        let mut second = UnixStream::from(theirs.remove(1));
        second.write_all(b"hi").unwrap();
        let Some(Input::Bytes(1, bytes)) = ports.next(None).unwrap() else {
            panic!("no bytes")
        };
        assert_eq!(bytes, b"hi");
        ports.write(1, b"yo");
        let mut answer = [0; 2];
        second.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"yo");
        drop(second);
        assert!(matches!(ports.next(None).unwrap(), Some(Input::Closed)));
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let (ports, _theirs) = Ports::open(1).unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        assert!(ports.next(Some(deadline)).unwrap().is_none());
    }
}
