//! The monitor: commands typed at the console, answered by the running kernel.
//!
//! While nothing is typed the domain sleeps, until the event channel of the console or of xenstore is
//! raised: by the latter Xen's tools can end the domain (see `control`). Commands stand in a linker
//! table, to which any module adds (see `commands`).

#[cfg(target_os = "none")]
pub(crate) mod commands;
#[cfg(target_os = "none")]
mod events;
pub mod line;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod store;
#[cfg(target_os = "none")]
mod tasks;

#[cfg(target_os = "none")]
pub(crate) use run::Monitor;

#[cfg(target_os = "none")]
mod run {
    use core::fmt;

    use heapless::Vec;
    use hypercall::abi::xen::VIRQ_CONSOLE;
    use hypercall::event::{Port, bind_virq};

    use super::commands;
    use super::line::{Key, Line};
    use crate::console::{self, print};
    use crate::control::{self, End};
    use crate::start_info::ConsoleInfo;
    use crate::tested::Summary;
    use crate::xen::HV;
    use crate::{balloon, event, println, time, xenstore};

    /// Sleep no longer than this, in nanoseconds: an event that the other side forgets to send is
    /// made up for.
    const NAP: u64 = 500_000_000;

    /// The console, for what a line shows.
    struct Screen;

    impl fmt::Write for Screen {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            print(format_args!("{text}"));
            Ok(())
        }
    }

    /// The monitor's session.
    pub(crate) struct Monitor {
        /// Whether this is dom0.
        pub(crate) privileged: bool,
        /// What self-tests came to so far.
        pub(crate) tested: Option<Summary>,
        /// The port that is raised when something was typed, where the console has no ring.
        typed: Option<Port>,
    }

    impl Monitor {
        /// A session that goes on from what was tested already.
        pub(crate) fn new(privileged: bool, tested: Option<Summary>) -> Monitor {
            Monitor {
                privileged,
                tested,
                typed: None,
            }
        }

        /// Reads and carries out commands until one ends the kernel, or Xen's tools do.
        // Commands need the stack: see `selftest`.
        #[inline(never)]
        pub(crate) fn run(&mut self, console: ConsoleInfo) -> End {
            if console == ConsoleInfo::Hypervisor {
                // Refused, the monitor looks from time to time.
                self.typed = bind_virq(&HV, VIRQ_CONSOLE, 0).ok();
            }
            let (mut line, mut screen) = (Line::new(), Screen);
            println!("monitor: type help for the commands");
            // Nothing that is shown on this screen fails.
            let _ = line.show(&mut screen);
            loop {
                // Before looking, so that what comes after the look ends the sleep.
                self.arm();
                let mut keys = [0; 64];
                let count = console::read(&mut keys).min(keys.len());
                for &key in &keys[..count] {
                    match line.key(key, &mut screen) {
                        Ok(Key::Typed) | Err(_) => {}
                        Ok(Key::End) => {
                            println!("end of input");
                            return End::Poweroff;
                        }
                        Ok(Key::Enter) => {
                            let end = commands::carry_out(self, line.text());
                            // A command may have taken so long that it was asked for meanwhile.
                            if let Some(end) = end.or_else(control::end) {
                                return end;
                            }
                            line.next();
                            let _ = line.show(&mut screen);
                        }
                    }
                }
                let asked = control::look(|_| {});
                if let Some(asked) = &asked {
                    print(format_args!("\n"));
                    asked.carry_out();
                    if let Some(end) = control::end() {
                        return end;
                    }
                    let _ = line.show(&mut screen);
                }
                if count == 0 && asked.is_none() && !balloon::is_at_work() {
                    self.sleep();
                }
            }
        }

        /// The ports that end its sleep.
        fn ports(&self) -> Vec<Port, 3> {
            // There is room for each.
            (self.typed.into_iter())
                .chain(console::port())
                .chain(xenstore::port())
                .collect()
        }

        /// Has what comes from here on end the next sleep.
        pub(super) fn arm(&self) {
            for port in self.ports() {
                event::take(port);
            }
        }

        /// Sleeps until a port is raised, or for a while.
        pub(super) fn sleep(&self) {
            event::idle();
            let deadline = time::monotonic().map_or(0, |now| now + NAP);
            match &self.ports()[..] {
                [] => drop(hypercall::sched::r#yield(&HV)),
                ports => event::wait(ports, deadline),
            }
        }
    }
}
