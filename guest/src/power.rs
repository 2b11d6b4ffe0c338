//! The end of the domain: SCHEDOP_shutdown, with everything printed first.

use core::sync::atomic::{AtomicU32, Ordering};

use hypercall::sched::Shutdown;
use hypercall::vcpu;

use crate::xen::HV;
use crate::{console, cpu};

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

/// Goes on with the first vCPU that calls this, alone: what another holds is never let go from here on.
/// Whoever comes second waits to be [stopped](stop_others).
pub(crate) fn only_one() {
    static FIRST: AtomicU32 = AtomicU32::new(u32::MAX);
    let here = cpu::here().number();
    let first = FIRST.compare_exchange(u32::MAX, here, Ordering::AcqRel, Ordering::Acquire);
    while first.is_err_and(|first| first != here) {
        core::hint::spin_loop();
    }
}

/// Stops every other vCPU, wherever it is; it does not run again.
pub(crate) fn stop_others() {
    let (here, running) = (cpu::here().number(), cpu::running());
    for number in (0..running).filter(|number| *number != here) {
        // Nothing can be done about a refusal but to go on.
        let stopped = vcpu::down(&HV, number).and_then(|()| {
            // It is told to stop, and may still run for a moment.
            while vcpu::is_running(&HV, number)? {
                core::hint::spin_loop();
            }
            Ok(())
        });
        if stopped.is_err() {
            console::print_panicking("a vCPU cannot be stopped\n");
        }
    }
}

fn shutdown(reason: Shutdown) -> ! {
    console::drain();
    // A refusal is answered by asking again: there is nothing else a dead kernel can do.
    loop {
        let _ = hypercall::sched::shutdown(&HV, reason);
    }
}
