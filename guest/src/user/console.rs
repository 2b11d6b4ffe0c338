//! The kernel's console as the terminal of programs: what is typed there they read, and what they write
//! is shown.

extern crate alloc;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use guest_files::{
    ConsoleDevice, DeviceNumber, Output, OwnTerminalDevice, System, Terminal, add_device,
    add_pseudo_terminals,
};
use hypercall::abi::xen::VIRQ_CONSOLE;
use hypercall::event::{Port, bind_virq};
use linux_raw_sys::general as linux;

use super::errno::Result;
use super::process::{self, Target};
use super::signal::Info;
use crate::lock::Lock;
use crate::rank;
use crate::xen::HV;
use crate::{console, control, event, task, time, xenstore};
use xen_pv_rt::start_info::ConsoleInfo;

/// `/dev/console` (`Documentation/admin-guide/devices.txt`).
const CONSOLE: DeviceNumber = DeviceNumber::new(5, 1);
/// How long nobody looks for what was typed, in nanoseconds, where nothing tells of it.
const NAP: u64 = 100_000_000;

/// The terminal, while there are programs.
static TERMINAL: Lock<Option<Arc<Terminal>>, rank::Screen> = Lock::new(None);

struct Screen;

/// Whether a program has written there.
static SPOKEN: AtomicBool = AtomicBool::new(false);

impl Output for Screen {
    fn write(&self, bytes: &[u8]) -> usize {
        console::write(bytes);
        if !SPOKEN.swap(true, Ordering::Relaxed) {
            log::debug!(
                target: "user",
                "{} ticks from the entry until a program wrote something", time::since_entry()
            );
        }
        bytes.len()
    }
}

/// Makes it known to programs.
///
/// # Errors
/// Those of making files.
pub(super) fn add(system: &Arc<System>) -> Result<()> {
    let terminal = Terminal::new(system.host().clone(), Arc::new(Screen));
    let own = Arc::new(OwnTerminalDevice::default());
    own.add(&terminal);
    add_pseudo_terminals(system, &own)?;
    let device = Arc::new(ConsoleDevice(terminal.clone()));
    add_device(system, "console", 0o600, CONSOLE, device)?;
    *TERMINAL.lock() = Some(terminal);
    Ok(())
}

/// There are no programs any more.
pub(super) fn remove() {
    let terminal = TERMINAL.lock().take();
    drop(terminal);
}

/// A session's leader has ended: the session has no terminal from then on.
pub(super) fn leave_session(session: u32) {
    let terminal = TERMINAL.lock().clone();
    if let Some(terminal) = terminal {
        terminal.leave_session(session);
    }
}

/// Brings programs what is typed, until all have ended; returns the first one's status. When Xen's tools
/// ask for the domain's end, all programs are ended.
pub(super) fn serve(console: ConsoleInfo) -> u32 {
    // Refused, it is looked for from time to time.
    let typed = match console {
        ConsoleInfo::Hypervisor => bind_virq(&HV, VIRQ_CONSOLE, 0).ok(),
        ConsoleInfo::Ring { .. } => None,
    };
    let mut ports = heapless::Vec::<Port, 3>::new();
    // There is room for each.
    ports.extend(typed);
    ports.extend(console::port());
    ports.extend(xenstore::port());
    let waker = task::waker();
    let mut keys = heapless::Vec::<u8, 64>::new();
    loop {
        if let Some(status) = process::all_ended(&waker) {
            typed.map_or(Ok(()), event::close).unwrap_or_else(|e| {
                log::warn!(target: "user", "the port of the console stays: {e}");
            });
            return status;
        }
        // Before looking, so that what comes after the look ends the sleep.
        for port in &ports {
            event::take(*port);
        }
        if control::attend().is_some() {
            let info = Info::from_process(0, linux::SI_KERNEL as i32);
            for target in [Target::All, Target::Process(process::FIRST)] {
                // Those that are left have been told already.
                let _ = process::send(process::KERNEL, target, linux::SIGKILL, info);
            }
        }
        if keys.is_empty() {
            let mut typed = [0; 64];
            let count = console::read(&mut typed).min(typed.len());
            // As many as there is room for.
            let _ = keys.extend_from_slice(&typed[..count]);
        }
        let terminal = TERMINAL.lock().clone();
        let taken = terminal.map_or(keys.len(), |terminal| terminal.type_in(&keys, Some(&waker)));
        keys.drain(..taken);
        if taken == 0 || keys.is_empty() {
            let now = time::monotonic().unwrap_or(0);
            event::wait(&ports, now + NAP);
        }
    }
}
