//! The end of the domain: SCHEDOP_shutdown, with everything printed first.

use hypercall::sched::{self, Shutdown};

use crate::console;
use crate::entry::XEN;

/// Powers the domain off.
pub fn off() -> ! {
    end(Shutdown::Poweroff)
}

/// Asks the toolstack to start the domain again.
pub fn reboot() -> ! {
    end(Shutdown::Reboot)
}

/// Tells Xen that the kernel failed.
pub fn crash() -> ! {
    end(Shutdown::Crash)
}

fn end(reason: Shutdown) -> ! {
    console::drain();
    // A refusal is answered by asking again: there is nothing else a dead kernel can do.
    loop {
        let _ = sched::shutdown(&XEN, reason);
    }
}
