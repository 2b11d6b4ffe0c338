//! The end of the domain: SCHEDOP_shutdown, with everything printed first.

use hypercall::sched::Shutdown;

use crate::console;
use crate::xen::HV;

/// Powers the domain off.
pub fn off() -> ! {
    shutdown(Shutdown::Poweroff)
}

/// Asks the toolstack to start the domain again.
pub fn reboot() -> ! {
    shutdown(Shutdown::Reboot)
}

/// Tells Xen that the kernel failed.
pub fn crash() -> ! {
    shutdown(Shutdown::Crash)
}

fn shutdown(reason: Shutdown) -> ! {
    console::drain();
    // A refusal is answered by asking again: there is nothing else a dead kernel can do.
    loop {
        let _ = hypercall::sched::shutdown(&HV, reason);
    }
}
