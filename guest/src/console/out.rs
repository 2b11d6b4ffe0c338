//! The one console of the running kernel.
//!
//! A lock guards it, since code on several vCPUs prints, and handlers of events do. Text is written
//! while it is formatted: what is printed must not print in its turn, which is a panic. A panic or a
//! trap report must print whatever the state of that lock is: [`steal`] breaks it, which is right
//! only because the report ends the domain and nobody else prints after it.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use heapless::String;
use hypercall::event::Port;
use log::{LevelFilter, Log, Metadata, Record};
use xen_pv_rt::console::ring::{self, CorruptIndex};
use xen_pv_rt::console::stream::{Patience, Stream, Wire};

use super::filter::Filter;
use crate::lock::{Lock, lock_unless_held};
use crate::rank;
use crate::start_info::ConsoleInfo;
use crate::time::{self, tsc};
use crate::xen::HV;

enum Out {
    /// Before the console is known.
    Closed,
    /// CONSOLEIO_write.
    Hypervisor,
    /// The shared ring and its event channel.
    Ring {
        page: &'static ring::Page,
        port: u32,
    },
    /// A device of the machine's own.
    Device(&'static dyn Device),
}

/// A device that a console is made of.
pub(crate) trait Device: Sync {
    /// Hands over as many bytes as the device has room for, and says how many.
    fn put(&self, bytes: &[u8]) -> usize;

    /// Takes what came in, and says how many bytes.
    fn take(&self, buffer: &mut [u8]) -> usize;
}

struct Console {
    out: Out,
    stream: Stream,
}

static CONSOLE: Lock<Console, rank::Console> = Lock::new(Console {
    out: Out::Closed,
    stream: Stream::new(),
});
static FILTER: Lock<Filter, rank::LogFilter> = Lock::new(Filter::new());
static FIRST_BYTE: AtomicU64 = AtomicU64::new(0);

/// Opens the console that `info` names. `ring` is where the ring's page is mapped.
pub(crate) fn init(info: ConsoleInfo, ring: Option<&'static ring::Page>) {
    let out = match (info, ring) {
        (ConsoleInfo::Ring { port, .. }, Some(page)) => Out::Ring { page, port },
        _ => Out::Hypervisor,
    };
    open(out);
}

/// Opens a console of the machine's own.
pub(crate) fn init_device(device: &'static dyn Device) {
    open(Out::Device(device));
}

fn open(out: Out) {
    CONSOLE.lock().out = out;
    // A second call finds the logger already set, which is what it asks for.
    let _ = log::set_logger(&Logger);
    log::set_max_level(LevelFilter::Info);
}

/// Opens Xen's own console if none is open.
pub(crate) fn init_if_closed() {
    if matches!(CONSOLE.lock().out, Out::Closed) {
        init(ConsoleInfo::Hypervisor, None);
    }
}

/// When the first byte was handed over, in ticks.
pub(crate) fn first_byte() -> u64 {
    FIRST_BYTE.load(Ordering::Relaxed)
}

/// Uses the ring at another address from now on.
pub(crate) fn move_ring(to: &'static ring::Page) {
    if let Out::Ring { page, .. } = &mut CONSOLE.lock().out {
        *page = to;
    }
}

/// The port that is raised when something was typed or taken, where the console is a ring.
pub(crate) fn port() -> Option<Port> {
    match CONSOLE.lock().out {
        Out::Ring { port, .. } => Some(Port(port)),
        Out::Closed | Out::Hypervisor | Out::Device(_) => None,
    }
}

/// Uses another port from now on, where the console is a ring: that of a restored domain.
pub(crate) fn set_port(to: u32) {
    if let Out::Ring { port, .. } = &mut CONSOLE.lock().out {
        *port = to;
    }
}

/// Replaces what the log shows.
pub(crate) fn set_filter(filter: Filter) {
    log::set_max_level(filter.max());
    *FILTER.lock() = filter;
}

/// Prints formatted text.
#[track_caller]
pub(super) fn print(args: fmt::Arguments<'_>) {
    CONSOLE.lock().print(args, Patience::USUAL);
}

/// Prints a line that must be known of a run: the other side is waited for anew, and longer.
pub(crate) fn print_last(args: fmt::Arguments<'_>) {
    let mut console = CONSOLE.lock();
    console.stream.insist();
    console.print(args, Patience::LAST);
}

/// How often code that may not wait for the console looks whether it is free: for longer than another vCPU
/// takes to print a line.
const LOOKS: u32 = 1 << 20;

/// Prints text from code that may have interrupted whoever uses the console; false, and nothing is printed,
/// if it stays in use.
#[track_caller]
pub(crate) fn print_if_free(args: fmt::Arguments<'_>) -> bool {
    for _ in 0..LOOKS {
        if let Some(mut console) = CONSOLE.try_lock() {
            console.print(args, Patience::USUAL);
            return true;
        }
        core::hint::spin_loop();
    }
    false
}

/// Writes bytes as they are, whatever they mean.
pub(crate) fn write(bytes: &[u8]) {
    let Console { out, stream } = &mut *CONSOLE.lock();
    match out {
        Out::Closed => {}
        Out::Hypervisor => {
            // As for `print_panicking`.
            let _ = hypercall::console::write(&HV, bytes);
        }
        Out::Ring { .. } | Out::Device(_) => stream.write(out, bytes, Patience::USUAL),
    }
    if let Out::Ring { port, .. } = *out {
        notify(port);
    }
}

/// Reads what was typed; returns the number of bytes, 0 when nothing waits.
pub(crate) fn read(buffer: &mut [u8]) -> usize {
    let console = CONSOLE.lock();
    match &console.out {
        Out::Closed => 0,
        Out::Hypervisor => hypercall::console::read(&HV, buffer).map_or(0, |bytes| bytes.len()),
        Out::Device(device) => device.take(buffer),
        Out::Ring { page, port } => {
            let taken = page.take(buffer).unwrap_or_else(|e| {
                report(page, &e);
                notify(*port);
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
    if let Out::Ring { page, port } = *out {
        notify(port);
        stream.drain(out, Patience::USUAL, || page.pending_output().ok());
    }
    stream.insist();
}

/// Makes the console usable for the report that ends the domain, whoever holds its lock.
///
/// # Safety
/// The caller must be the last code that runs: whoever held the lock must never run again.
pub(crate) unsafe fn steal() {
    // SAFETY: the holder never runs again, by this function's contract; the console's state is an
    // enum written once at boot, counters and the rest of a mark: a torn mark is cut, no more.
    unsafe { CONSOLE.raw().take_over() };
}

/// Prints text from code that may not touch the console's lock.
pub(crate) fn print_panicking(text: &str) {
    // Nothing is left to do about a refusal.
    let _ = hypercall::console::write(&HV, text.as_bytes());
}

impl Console {
    fn print(&mut self, args: fmt::Arguments<'_>, patience: Patience) {
        // What was not taken is counted by the stream, which says so as soon as it can.
        let _ = Writer(self, patience).write_fmt(args);
        if let Out::Ring { port, .. } = self.out {
            notify(port);
        }
    }
}

/// Writes with patience.
struct Writer<'a>(&'a mut Console, Patience);

impl Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if FIRST_BYTE.load(Ordering::Relaxed) == 0 {
            FIRST_BYTE.store(tsc(), Ordering::Relaxed);
        }
        let Writer(Console { out, stream }, patience) = self;
        match out {
            Out::Closed => {}
            // Xen takes all of it, and ends lines as its own console needs it.
            Out::Hypervisor => print_panicking(text),
            Out::Ring { .. } | Out::Device(_) => stream.write(out, text.as_bytes(), *patience),
        }
        Ok(())
    }
}

impl Wire for Out {
    fn put(&mut self, bytes: &[u8]) -> usize {
        match self {
            Out::Closed | Out::Hypervisor => bytes.len(),
            Out::Device(device) => device.put(bytes),
            // After a report the indices are as if everything had been taken.
            Out::Ring { page, .. } => page.put(bytes).unwrap_or_else(|e| {
                report(page, &e);
                page.put(bytes).unwrap_or(0)
            }),
        }
    }

    fn pause(&mut self) {
        if let Out::Ring { port, .. } = self {
            notify(*port);
        }
        // A yield that is refused is a shorter wait.
        let _ = hypercall::sched::r#yield(&HV);
    }

    fn now(&self) -> Option<u64> {
        time::monotonic()
    }

    fn is_taken(&self) -> bool {
        match self {
            Out::Ring { page, .. } => page.is_connected(),
            Out::Closed | Out::Hypervisor | Out::Device(_) => true,
        }
    }
}

fn notify(port: u32) {
    // The port was given by Xen; a refusal means that the daemon is gone, which waiting finds out.
    let _ = hypercall::event::send(&HV, Port(port));
}

/// Says that the ring cannot be trusted: through Xen's own log, as nobody may read the ring any more, and
/// in the ring, as Xen takes no lines of an ordinary domain.
fn report(page: &ring::Page, error: &CorruptIndex) {
    let mut line = String::<160>::new();
    // A line that does not fit is cut.
    let _ = write!(line, "\r\n{error}\r\n");
    print_panicking(&line);
    // The other direction may be no better, and is as if all had been taken once that was found.
    let _ = page
        .put(line.as_bytes())
        .or_else(|_| page.put(line.as_bytes()));
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // A report runs wherever the lock may be held; it shows everything.
        lock_unless_held(&FILTER)
            .is_none_or(|f| metadata.level() <= f.level_for(module(metadata.target())))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = time::since_start() / 1000;
        let level = match record.level().to_level_filter() {
            LevelFilter::Error => "ERROR",
            LevelFilter::Warn => "warn ",
            LevelFilter::Info => "info ",
            LevelFilter::Debug => "debug",
            _ => "trace",
        };
        let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
        let target = module(record.target());
        print(format_args!(
            "[{seconds:4}.{micros:06}] {level} {target}: {}\n",
            record.args()
        ));
    }

    fn flush(&self) {
        drain();
    }
}

/// A module path without the crate's name.
fn module(target: &str) -> &str {
    target.strip_prefix("guest::").unwrap_or(target)
}
