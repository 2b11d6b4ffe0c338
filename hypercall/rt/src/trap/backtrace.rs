//! The chain of callers, by frame pointers.
//!
//! Every function of the image keeps a frame pointer; the entry code ends the chain with 0. Each
//! step is read with a probe, so that a damaged chain ends the backtrace and not the kernel.

use core::fmt;

use crate::probe;

/// Longest backtrace; deeper callers are counted out.
const DEPTH: usize = 24;

/// Finds the name of the function that an address lies in, and how far in it.
pub type Names = fn(u64) -> Option<(&'static str, u64)>;

/// The callers of some place in the code.
pub struct Backtrace {
    rip: u64,
    rbp: u64,
    names: Names,
}

impl Backtrace {
    /// Starts at the interrupted instruction.
    #[must_use]
    pub fn from(rip: u64, rbp: u64) -> Self {
        let names: Names = |_| None;
        Backtrace { rip, rbp, names }
    }

    /// Starts at the caller.
    #[inline(always)]
    #[must_use]
    pub fn here() -> Self {
        let (rip, rbp): (u64, u64);
        // SAFETY: reads two registers.
        unsafe {
            core::arch::asm!("lea {}, [rip]", "mov {}, rbp", out(reg) rip, out(reg) rbp,
                options(nomem, nostack, preserves_flags));
        }
        Backtrace::from(rip, rbp)
    }

    /// With the names of functions. Without, whoever reads the console finds them by the image, as
    /// `cargo xtask boot` does.
    #[must_use]
    pub fn with(self, names: Names) -> Self {
        Backtrace { names, ..self }
    }
}

impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut rip, mut rbp) = (self.rip, self.rbp);
        for depth in 0..DEPTH {
            write!(f, "  #{depth:<2} {rip:016x}")?;
            // A return address points behind its call, which may be another function's start.
            match (self.names)(rip.saturating_sub(u64::from(depth > 0))) {
                Some((name, offset)) => writeln!(f, " {name}+{offset:#x}")?,
                None => writeln!(f)?,
            }
            if rbp == 0 || !rbp.is_multiple_of(8) {
                return Ok(());
            }
            let (Ok(next), Ok(caller)) = (probe::read(rbp), probe::read(rbp.wrapping_add(8)))
            else {
                return writeln!(f, "  (frame pointer {rbp:#x} cannot be read)");
            };
            // Stacks grow down: a caller's frame lies above.
            if caller == 0 || (next != 0 && next <= rbp) {
                return Ok(());
            }
            (rip, rbp) = (caller, next);
        }
        writeln!(f, "  (deeper callers not shown)")
    }
}
