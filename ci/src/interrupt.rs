//! Ctrl-C and termination requests, as a flag that every wait looks at: a run that is asked to
//! stop ends by the same way as any other and cleans up after itself.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// The signal that came last, or none.
static SIGNAL: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// Starts watching; a second request ends the process at once.
pub(crate) fn watch() {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let flag = Arc::clone(&REQUESTED);
        let status = status_of(signal);
        let _ = signal_hook::flag::register_conditional_shutdown(
            signal,
            status.into(),
            Arc::clone(&flag),
        );
        let number = usize::from(status - STATUS_BASE);
        let _ = signal_hook::flag::register_usize(signal, Arc::clone(&SIGNAL), number);
        let _ = signal_hook::flag::register(signal, flag);
    }
}

/// Whether to stop.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// The exit status of a command that was asked to stop: what a shell reports for one that the signal
/// ended. Without a signal it was a person at the keyboard.
pub(crate) fn status() -> u8 {
    match SIGNAL.load(Ordering::Relaxed) {
        0 => status_of(SIGINT),
        number => STATUS_BASE + u8::try_from(number).unwrap_or_default(),
    }
}

/// What a shell adds to the number of a signal.
const STATUS_BASE: u8 = 128;

fn status_of(signal: i32) -> u8 {
    STATUS_BASE + u8::try_from(signal).unwrap_or_default()
}
