//! The one line that ends a run, for whoever watches the console.
//!
//! `verdict: pass`, `verdict: fail reason="..."` or `verdict: crash reason="..."` at the start of a line,
//! once: by it `cargo xtask boot --kernel` knows how a run ended, and a pass counts only if the domain
//! powers off as well.
//!
//! ```
//! use xen_pv_rt::verdict::Outcome;
//!
//! let mut said = String::new();
//! Err::<(), _>("no memory").say_why_failed(|reason| said = reason.to_string());
//! assert_eq!(said, "no memory");
//! ```

#[cfg(target_os = "none")]
use core::fmt::Display;

/// What a kernel's `main` can return: nothing, or a result whose error says why the run failed.
pub trait Outcome {
    /// The reason why the run failed, if it did, given to `say`.
    fn say_why_failed(&self, say: impl FnOnce(&dyn core::fmt::Display));
}

impl Outcome for () {
    fn say_why_failed(&self, _: impl FnOnce(&dyn core::fmt::Display)) {}
}

impl<E: core::fmt::Display> Outcome for Result<(), E> {
    fn say_why_failed(&self, say: impl FnOnce(&dyn core::fmt::Display)) {
        if let Err(error) = self {
            say(error);
        }
    }
}

/// Gives the verdict on a run that came to its end, and ends the domain.
#[cfg(target_os = "none")]
pub(crate) fn end(outcome: &impl Outcome) -> ! {
    outcome.say_why_failed(|reason| fail(reason));
    pass()
}

/// Gives the verdict that all is well, and powers the domain off.
#[cfg(target_os = "none")]
pub fn pass() -> ! {
    crate::console::print_last(format_args!("verdict: pass\n"));
    crate::power::off()
}

/// Gives the verdict that the kernel did not do what it was asked to, and powers the domain off.
#[cfg(target_os = "none")]
pub fn fail(reason: impl Display) -> ! {
    crate::console::print_last(format_args!("verdict: fail reason=\"{reason}\"\n"));
    crate::power::off()
}

/// Gives the verdict that the kernel cannot go on, and has Xen know that the domain crashed.
#[cfg(target_os = "none")]
pub fn crash(reason: impl Display) -> ! {
    crate::console::print_last(format_args!("verdict: crash reason=\"{reason}\"\n"));
    crate::power::crash()
}
