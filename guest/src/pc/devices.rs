//! What stands in for Xen on bare metal: a serial port for its console, and ways to end a run.
//!
//! Nothing above knows the difference: see [`back_end`](super::back_end). Events are in
//! [`ports`](super::ports).
//!
//! Power-off tries what QEMU offers, most telling first: its debug-exit device ends it with a
//! status that names the reason; without that device, the ACPI power-management port of its PC
//! machines. Writing to either where it does not exist does nothing.

use core::sync::atomic::{AtomicBool, Ordering};

use hypercall::sched::Shutdown;
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::IER;
use uart_16550::{Config, Uart16550};
use x86_64::instructions::port::Port;

use crate::console::Device;

/// The first serial port of a PC.
const COM1: u16 = 0x3f8;
/// QEMU's `isa-debug-exit`: ends it with status twice the byte plus one.
const DEBUG_EXIT: u16 = 0xf4;
/// What goes there, plus the reason as Xen numbers them; 0x10 keeps clear of QEMU's own statuses.
const DEBUG_EXIT_BASE: u32 = 0x10;
/// PM1a control of QEMU's PC machines, and what puts them into S5.
const ACPI_PM1A: u16 = 0x604;
const ACPI_S5: u16 = 0x2000;
/// The reset control register of PC chip sets, and a full reset.
const RESET: u16 = 0xcf9;
const RESET_FULL: u8 = 0x0e;

/// How often a port that has no room is asked again by a report that ends the run: some seconds.
const TRIES: u32 = 10_000_000;

/// Whether a serial port answers there: a bus where nobody does reads as all ones, which would be
/// room for everything and input without end.
static PRESENT: AtomicBool = AtomicBool::new(false);

/// The serial port as the console.
pub(crate) struct Serial;

/// The port, if there is one. A handle is made for each use: it has no state, and a report must not
/// wait for whoever holds one.
fn serial() -> Option<Uart16550<PioBackend>> {
    if !PRESENT.load(Ordering::Relaxed) {
        return None;
    }
    // SAFETY: the port is where PCs have it, and nothing else in this kernel uses it.
    unsafe { Uart16550::new_port(COM1) }.ok()
}

/// Looks for the serial port and readies it.
pub(crate) fn init() {
    // SAFETY: as in `serial`: its scratch register is written and read back before anything else.
    let port = unsafe { Uart16550::new_port(COM1) };
    let found = port.is_ok_and(|mut port| port.init(Config::default()).is_ok());
    PRESENT.store(found, Ordering::Relaxed);
}

/// Whether there is a serial port.
pub(super) fn has_serial() -> bool {
    PRESENT.load(Ordering::Relaxed)
}

impl Device for Serial {
    /// Where there is no port, nothing is printed: a kernel without a console still runs.
    fn put(&self, bytes: &[u8]) -> usize {
        serial().map_or(bytes.len(), |mut port| port.send_bytes(bytes))
    }

    fn take(&self, buffer: &mut [u8]) -> usize {
        serial().map_or(0, |mut port| port.receive_bytes(buffer))
    }
}

/// Has the port interrupt when something was typed, or not.
pub(super) fn interrupt_on_input(on: bool) {
    if let Some(mut port) = serial() {
        if on {
            port.enable_interrupts(IER::DATA_READY);
        } else {
            port.disable_interrupts(IER::DATA_READY);
        }
    }
}

/// Writes to the serial port, with the line ends of a terminal, what it takes in a bounded time.
pub(super) fn write(text: &[u8]) {
    let mut tries = TRIES;
    let mut put = |mut bytes: &[u8]| {
        while !bytes.is_empty() && tries > 0 {
            match Serial.put(bytes) {
                0 => tries -= 1,
                count => bytes = &bytes[count..],
            }
        }
    };
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(rest) => {
                put(rest);
                put(b"\r\n");
            }
            None => put(line),
        }
    }
}

/// Ends the run, if this machine has any of the ways known here.
pub(super) fn end(reason: Shutdown) {
    // SAFETY: ports of QEMU's machines that end it; on others nothing answers there.
    unsafe {
        Port::<u32>::new(DEBUG_EXIT).write(DEBUG_EXIT_BASE + reason as u32);
        match reason {
            Shutdown::Reboot => Port::<u8>::new(RESET).write(RESET_FULL),
            Shutdown::Poweroff => Port::<u16>::new(ACPI_PM1A).write(ACPI_S5),
            // Nobody would be told of a crash by a machine that is off.
            _ => {}
        }
    }
}
