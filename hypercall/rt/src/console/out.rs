//! The one console of the running kernel, and the `log` back end that writes to it.
//!
//! A lock guards it. A report of a crash must print whatever the state of that lock is: [`steal`] breaks
//! it, which is right only because the report ends the domain and nobody else prints after it.

use core::fmt::{self, Write};

use hypercall::event::{self, Port};
use hypercall::{console, sched};
use log::{LevelFilter, Log, Metadata, Record};
use spin::Mutex;

use super::ring::{CorruptIndex, Page};
use super::stream::{Patience, Stream, Wire};
use crate::entry::XEN;
use crate::start_info::ConsoleInfo;

enum Out {
    /// Before the console is known.
    Closed,
    /// CONSOLEIO_write.
    Hypervisor,
    /// The shared ring and its event channel.
    Ring { page: &'static Page, port: Port },
}

struct Console {
    out: Out,
    stream: Stream,
}

static CONSOLE: Mutex<Console> = Mutex::new(Console {
    out: Out::Closed,
    stream: Stream::new(),
});

/// Opens the console: that of the ring, or Xen's.
pub(crate) fn open(info: ConsoleInfo, page: Option<&'static Page>) {
    CONSOLE.lock().out = match (info, page) {
        (ConsoleInfo::Ring { port, .. }, Some(page)) => Out::Ring {
            page,
            port: Port(port),
        },
        _ => Out::Hypervisor,
    };
    // A kernel may have set a logger of its own.
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Uses the ring at another address from now on.
#[cfg(feature = "pagetable")]
pub(crate) fn move_ring(to: &'static Page) {
    if let Out::Ring { page, .. } = &mut CONSOLE.lock().out {
        *page = to;
    }
}

/// Prints formatted text.
pub(super) fn print(text: fmt::Arguments<'_>) {
    CONSOLE.lock().print(text, Patience::USUAL);
}

/// Prints a line that must be known of a run: the other side is waited for anew, and longer.
pub(crate) fn print_last(text: fmt::Arguments<'_>) {
    let mut console = CONSOLE.lock();
    console.stream.insist();
    console.print(text, Patience::LAST);
}

/// Prints text on Xen's console, from code that may not touch the lock of the kernel's.
pub(crate) fn print_emergency(text: &str) {
    // Nothing is left to do about a refusal.
    let _ = console::write(&XEN, text.as_bytes());
}

/// Reads what was typed and returns the number of bytes, 0 when nothing waits.
pub fn read(buffer: &mut [u8]) -> usize {
    match &CONSOLE.lock().out {
        Out::Closed => 0,
        Out::Hypervisor => console::read(&XEN, buffer).map_or(0, <[u8]>::len),
        Out::Ring { page, port } => {
            let taken = page.take(buffer).unwrap_or_else(|error| {
                report(&error);
                0
            });
            if taken > 0 {
                notify(*port);
            }
            taken
        }
    }
}

/// Waits until everything printed has been taken by the other side, or it shows no sign of life.
pub(crate) fn drain() {
    let Console { out, stream } = &mut *CONSOLE.lock();
    stream.mark(out, Patience::USUAL);
    let Out::Ring { page, .. } = *out else { return };
    stream.drain(out, Patience::USUAL, || page.pending_output().ok());
}

/// Makes the console usable for the report that ends the domain, whoever holds its lock.
///
/// # Safety
/// The caller must be the last code that runs: whoever held the lock must never run again.
pub(crate) unsafe fn steal() {
    // SAFETY: the holder never runs again, by this function's contract; the console's state is an enum
    // written at boot, counters and the rest of a mark: a torn mark is cut, no more.
    unsafe { CONSOLE.force_unlock() };
}

impl Console {
    fn print(&mut self, text: fmt::Arguments<'_>, patience: Patience) {
        // What was not taken is counted by the stream, which says so as soon as it can.
        let _ = Writer(self, patience).write_fmt(text);
        if let Out::Ring { port, .. } = self.out {
            notify(port);
        }
    }
}

/// Writes with patience.
struct Writer<'a>(&'a mut Console, Patience);

impl Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Writer(Console { out, stream }, patience) = self;
        match out {
            Out::Closed => {}
            // Xen takes all of it, and ends lines as its own console needs it.
            Out::Hypervisor => print_emergency(text),
            Out::Ring { .. } => stream.write(out, text.as_bytes(), *patience),
        }
        Ok(())
    }
}

impl Wire for Out {
    fn put(&mut self, bytes: &[u8]) -> usize {
        match self {
            Out::Closed | Out::Hypervisor => bytes.len(),
            // After a report the indices are as if everything had been taken.
            Out::Ring { page, .. } => page.put(bytes).unwrap_or_else(|error| {
                report(&error);
                page.put(bytes).unwrap_or(0)
            }),
        }
    }

    fn pause(&mut self) {
        if let Out::Ring { port, .. } = self {
            notify(*port);
        }
        // A yield that is refused is a shorter wait.
        let _ = sched::r#yield(&XEN);
    }

    fn now(&self) -> Option<u64> {
        None
    }

    fn is_taken(&self) -> bool {
        match self {
            Out::Ring { page, .. } => page.is_connected(),
            _ => true,
        }
    }
}

fn notify(port: Port) {
    // The port was given by Xen; a refusal means that the daemon is gone, which waiting finds out.
    let _ = event::send(&XEN, port);
}

/// Says through Xen's own console that the ring cannot be trusted: it may be unreadable.
fn report(error: &CorruptIndex) {
    let mut line = heapless::String::<160>::new();
    // A line that does not fit is cut.
    let _ = writeln!(line, "{error}");
    print_emergency(&line);
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let (level, target) = (record.level(), record.target());
            print(format_args!("{level:<5} {target}: {}\n", record.args()));
        }
    }

    fn flush(&self) {
        drain();
    }
}
