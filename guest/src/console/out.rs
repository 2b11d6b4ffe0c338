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

use super::filter::Filter;
use super::ring::{self, CorruptIndex};
use crate::boot::info::ConsoleInfo;
use crate::lock::Lock;
use crate::time;
use crate::xen::XEN;

/// Give the daemon this long without any progress before bytes are dropped, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;
/// Without a clock: this many yields instead, each at least one round trip into Xen.
const PATIENCE_YIELDS: u64 = 50_000;

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
}

struct Console {
    out: Out,
    /// Set when the daemon stopped taking output; later writes do not wait again.
    stuck: bool,
}

static CONSOLE: Lock<Console> = Lock::new(Console {
    out: Out::Closed,
    stuck: false,
});
static FILTER: Lock<Filter> = Lock::new(Filter::off());
static FIRST_BYTE: AtomicU64 = AtomicU64::new(0);

/// Opens the console that `info` names. `ring` is where the ring's page is mapped.
pub(crate) fn init(info: ConsoleInfo, ring: Option<&'static ring::Page>) {
    let out = match (info, ring) {
        (ConsoleInfo::Ring { port, .. }, Some(page)) => Out::Ring { page, port },
        _ => Out::Hypervisor,
    };
    CONSOLE.lock().out = out;
    // A second call finds the logger already set, which is what it asks for.
    let _ = log::set_logger(&Logger);
    set_filter(Filter::default());
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

/// Replaces what the log shows.
pub(crate) fn set_filter(filter: Filter) {
    log::set_max_level(filter.max());
    *FILTER.lock() = filter;
}

/// Prints formatted text.
pub(super) fn print(args: fmt::Arguments<'_>) {
    // The console counts what it could not write and says so itself.
    let _ = CONSOLE.lock().write_fmt(args);
}

/// Writes bytes as they are.
pub(crate) fn write_bytes(bytes: &[u8]) {
    CONSOLE.lock().write(bytes);
}

/// Reads what was typed; returns the number of bytes, 0 when nothing waits.
pub(crate) fn read(buffer: &mut [u8]) -> usize {
    let console = CONSOLE.lock();
    match &console.out {
        Out::Closed => 0,
        Out::Hypervisor => hypercall::console::read(&XEN, buffer).map_or(0, |bytes| bytes.len()),
        Out::Ring { page, port } => {
            let taken = page.take(buffer).unwrap_or_else(|e| {
                report(&e);
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
    let mut console = CONSOLE.lock();
    if let Out::Ring { page, port } = console.out {
        notify(port);
        let mut patience = Patience::new();
        while let Ok(waiting @ 1..) = page.pending_output() {
            if console.stuck || !patience.wait(waiting) {
                break;
            }
        }
        console.stuck = false;
    }
}

/// Makes the console usable for the report that ends the domain, whoever holds its lock.
///
/// # Safety
/// The caller must be the last code that runs: whoever held the lock must never run again.
pub(crate) unsafe fn steal() {
    // SAFETY: the holder never runs again, by this function's contract; the console's state is an
    // enum written once at boot and a flag, valid at every moment.
    unsafe { CONSOLE.raw().take_over() };
}

/// Prints text from code that may not touch the console's lock.
pub(crate) fn print_panicking(text: &str) {
    // Nothing is left to do about a refusal.
    let _ = hypercall::console::write(&XEN, text.as_bytes());
}

impl Console {
    fn write(&mut self, mut bytes: &[u8]) {
        if FIRST_BYTE.load(Ordering::Relaxed) == 0 {
            FIRST_BYTE.store(time::tsc(), Ordering::Relaxed);
        }
        match self.out {
            Out::Closed => {}
            Out::Hypervisor => print_panicking_bytes(bytes),
            Out::Ring { page, port } => {
                let mut patience = Patience::new();
                while !bytes.is_empty() {
                    match page.put(bytes) {
                        Ok(0) if self.stuck => return,
                        Ok(0) => {
                            notify(port);
                            if !patience.wait(ring::OUTPUT) {
                                self.stuck = true;
                                print_panicking("console: the daemon takes no output; dropping\n");
                            }
                        }
                        Ok(n) => {
                            self.stuck = false;
                            bytes = &bytes[n..];
                            patience = Patience::new();
                        }
                        Err(e) => report(&e),
                    }
                }
                notify(port);
            }
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.write(s.as_bytes());
        Ok(())
    }
}

fn print_panicking_bytes(bytes: &[u8]) {
    // Nothing is left to do about a refusal.
    let _ = hypercall::console::write(&XEN, bytes);
}

fn notify(port: u32) {
    // The port was given by Xen; a refusal means that the daemon is gone, which waiting finds out.
    let _ = hypercall::event::send(&XEN, Port(port));
}

/// Says through Xen's own log that the ring cannot be trusted: the ring itself may be unreadable.
fn report(error: &CorruptIndex) {
    let mut line = String::<160>::new();
    // A line that does not fit is cut.
    let _ = writeln!(line, "{error}");
    print_panicking(&line);
}

/// A bounded wait for the other side.
struct Patience {
    since: Option<u64>,
    yields: u64,
    last: usize,
}

impl Patience {
    fn new() -> Self {
        Patience {
            since: None,
            yields: 0,
            last: usize::MAX,
        }
    }

    /// Gives the processor away once. False when patience is over: `waiting` has not shrunk for
    /// [`PATIENCE`].
    fn wait(&mut self, waiting: usize) -> bool {
        if waiting < self.last {
            *self = Patience {
                last: waiting,
                ..Patience::new()
            };
        }
        // A yield that is refused is a shorter wait.
        let _ = hypercall::sched::r#yield(&XEN);
        self.yields += 1;
        match (time::monotonic(), self.since) {
            (Some(now), Some(since)) => now.saturating_sub(since) < PATIENCE,
            (Some(now), None) => {
                self.since = Some(now);
                true
            }
            (None, _) => self.yields < PATIENCE_YIELDS,
        }
    }
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // A report runs wherever the lock may be held; it shows everything.
        FILTER
            .try_lock()
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
