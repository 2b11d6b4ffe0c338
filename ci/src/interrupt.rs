//! Ctrl-C and termination requests, as a flag that every wait looks at: a run that is asked to
//! stop ends by the same way as any other and cleans up after itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Starts watching; a second request ends the process at once.
pub(crate) fn watch() {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let flag = Arc::clone(&REQUESTED);
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag));
        let _ = signal_hook::flag::register(signal, flag);
    }
}

/// Whether to stop.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
