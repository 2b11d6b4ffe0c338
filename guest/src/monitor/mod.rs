//! The monitor: commands typed at the console, answered by the running kernel.
//!
//! While nothing is typed the domain sleeps, until the console's event channel is raised. Commands
//! stand in a linker table, to which any module adds (see `commands`).

#[cfg(target_os = "none")]
pub(crate) mod commands;
pub mod line;

#[cfg(target_os = "none")]
pub(crate) use run::{Leave, Monitor};

#[cfg(target_os = "none")]
mod run {
    use hypercall::abi::xen::VIRQ_CONSOLE;
    use hypercall::event::{Port, bind_virq};

    use super::commands;
    use super::line::{Key, Line};
    use crate::console::{self, print};
    use crate::start_info::ConsoleInfo;
    use crate::tested::Summary;
    use crate::xen::HV;
    use crate::{event, time};

    /// Sleep no longer than this, in nanoseconds: an event that the other side forgets to send is
    /// made up for.
    const NAP: u64 = 500_000_000;

    /// How the monitor is left.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Leave {
        /// To power off.
        Poweroff,
        /// To reboot.
        Reboot,
    }

    /// The monitor's session.
    pub(crate) struct Monitor {
        /// Whether this is dom0.
        pub(crate) privileged: bool,
        /// What self-tests came to so far.
        pub(crate) tested: Option<Summary>,
    }

    impl Monitor {
        /// A session that goes on from what was tested already.
        pub(crate) fn new(privileged: bool, tested: Option<Summary>) -> Monitor {
            Monitor { privileged, tested }
        }

        /// Reads and carries out commands until one leaves.
        // Commands need the stack: see `selftest`.
        #[inline(never)]
        pub(crate) fn run(&mut self, console: ConsoleInfo) -> Leave {
            let port = port(console);
            let mut line = Line::new();
            print(format_args!("monitor: type help for the commands\n> "));
            loop {
                if let Some(port) = port {
                    // Before looking, so that what comes after the look ends the sleep.
                    event::take(port);
                }
                let mut keys = [0; 64];
                let count = console::read(&mut keys).min(keys.len());
                for &key in &keys[..count] {
                    match line.key(key) {
                        Key::Nothing => {}
                        Key::Echo(text) => print(format_args!("{text}")),
                        Key::Typed(c) => print(format_args!("{c}")),
                        Key::Enter(text) => {
                            print(format_args!("\n"));
                            if let Some(leave) = commands::carry_out(self, text) {
                                return leave;
                            }
                            print(format_args!("> "));
                            line.clear();
                        }
                    }
                }
                if count == 0 {
                    sleep(port);
                }
            }
        }
    }

    /// The port that is raised when something was typed.
    fn port(console: ConsoleInfo) -> Option<Port> {
        match console {
            ConsoleInfo::Ring { port, .. } => Some(Port(port)),
            // Refused, the monitor looks from time to time.
            ConsoleInfo::Hypervisor => bind_virq(&HV, VIRQ_CONSOLE, 0).ok(),
        }
    }

    fn sleep(port: Option<Port>) {
        event::idle();
        let deadline = time::monotonic().map_or(0, |now| now + NAP);
        // Refused, it is a busier wait.
        let _ = match port {
            Some(port) => hypercall::sched::poll(&HV, &[port.0], deadline),
            None => hypercall::sched::r#yield(&HV),
        };
    }
}
