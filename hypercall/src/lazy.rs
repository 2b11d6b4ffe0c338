//! Lazy MMU mode: when page-table writes may wait.
//!
//! A pure state machine, one for each context of execution (a task; the boot flow is one as well).
//! It owns nothing and does nothing: each transition says what its caller has to do.
//!
//! - *Sections nest.* Only leaving the outermost flushes: what is queued can be read back, so
//!   leaving an inner one needs no flush (Linux flushes there, `include/linux/pgtable.h`).
//! - *Pausing* suspends laziness at whatever depth, and nests as well. What is queued is flushed,
//!   for whoever pauses is about to rely on it. Sections entered and left while paused count, and
//!   take effect after the last resume.
//! - *Interrupts are never lazy.* A handler finds what the interrupted context queued, and its own
//!   writes are in force when they return: what was queued goes first. It may use functions that enter and leave sections, pause and
//!   resume; there is nothing to do, so that the state of the interrupted context stays as it was.
//! - *A context that is switched out* either flushes or leaves its queue to the next one.
//!
//! Invariant: outside of interrupts, while [`LazyMmu::is_lazy`] is false nothing is queued — once
//! the caller has done what it was told.
//!
//! ```
//! use hypercall::LazyMmu;
//! use hypercall::lazy::Action;
//!
//! let mut lazy = LazyMmu::new();
//! lazy.enable()?;
//! lazy.enable()?;
//! assert_eq!(lazy.disable()?, Action::None);
//! lazy.enter_irq()?;
//! assert!(!lazy.is_lazy());
//! lazy.leave_irq()?;
//! assert_eq!(lazy.disable()?, Action::Flush);
//! assert!(lazy.disable().is_err());
//! # Ok::<(), hypercall::LazyError>(())
//! ```

use core::fmt;

/// What a transition leaves to its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a flush that was called for must happen"]
pub enum Action {
    /// Nothing.
    None,
    /// Send everything queued, now.
    Flush,
}

/// What becomes of the queue when its context is switched out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwitchOut {
    /// It is flushed.
    Flush,
    /// It stays with the vCPU, and the context that comes in answers for it
    /// ([`LazyMmu::switch_in`]): the change of page tables can ride in the same batch.
    Carry,
}

/// A transition that does not match those before it. The state is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LazyError {
    /// A section was left that was not entered.
    NotEnabled,
    /// A pause was ended that was not begun.
    NotPaused,
    /// An interrupt was left that was not entered.
    NotInInterrupt,
    /// Sections, pauses or interrupts nest deeper than can be counted.
    TooDeep,
    /// Contexts are not switched inside interrupts.
    InInterrupt,
}

impl fmt::Display for LazyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotEnabled => "lazy section left but not entered",
            Self::NotPaused => "lazy mode resumed but not paused",
            Self::NotInInterrupt => "interrupt left but not entered",
            Self::TooDeep => "lazy sections, pauses or interrupts nest too deep",
            Self::InInterrupt => "context switched inside an interrupt",
        })
    }
}

impl core::error::Error for LazyError {}

/// One context's lazy mode; see the [module](self).
///
/// Sections in bits 0-7, interrupts in 8-15, pauses in 16-23: what is asked most often is one comparison.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LazyMmu(u32);

/// One section, one interrupt, one pause.
const SECTION: u32 = 1;
const INTERRUPT: u32 = 1 << 8;
const PAUSE: u32 = 1 << 16;
/// The most of each that can be counted.
const MOST: u32 = 0xff;

impl fmt::Debug for LazyMmu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyMmu")
            .field("enable_count", &self.enable_count())
            .field("pause_count", &self.pause_count())
            .field("irq_depth", &self.irq_depth())
            .finish()
    }
}

impl LazyMmu {
    /// Not lazy.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Whether writes may wait.
    #[inline(always)]
    pub const fn is_lazy(&self) -> bool {
        // Sections, and nothing above them.
        self.0.wrapping_sub(SECTION) < MOST
    }

    /// Sections entered.
    pub const fn enable_count(&self) -> u8 {
        self.0 as u8
    }

    /// Pauses in force.
    pub const fn pause_count(&self) -> u8 {
        (self.0 / PAUSE) as u8
    }

    /// Interrupts entered.
    #[inline]
    pub const fn irq_depth(&self) -> u8 {
        (self.0 / INTERRUPT) as u8
    }

    /// Enters a section.
    #[inline(always)]
    pub const fn enable(&mut self) -> Result<(), LazyError> {
        // No pause, no interrupt, and room for one more.
        if self.0 < MOST * SECTION {
            self.0 += SECTION;
            return Ok(());
        }
        self.enable_otherwise()
    }

    /// As [`enable`](Self::enable), in any state.
    const fn enable_otherwise(&mut self) -> Result<(), LazyError> {
        match self.irq_depth() {
            0 => self.up(SECTION),
            _ => Ok(()),
        }
    }

    /// Leaves a section.
    #[inline]
    pub const fn disable(&mut self) -> Result<Action, LazyError> {
        if self.irq_depth() != 0 {
            return Ok(Action::None);
        }
        match self.down(SECTION, LazyError::NotEnabled) {
            Err(error) => Err(error),
            Ok(()) => Ok(match self.0 {
                0 => Action::Flush,
                _ => Action::None,
            }),
        }
    }

    /// Leaves a section that is not the outermost, which asks for nothing; `false` if it is, in a pause or
    /// in an interrupt: [`disable`](Self::disable) does that.
    #[inline(always)]
    pub const fn leave_inner(&mut self) -> bool {
        let inner = self.0.wrapping_sub(2 * SECTION) < (MOST - 1) * SECTION;
        if inner {
            self.0 -= SECTION;
        }
        inner
    }

    /// Leaves the only section, with no pause in force, outside of interrupts; `false` if that is not how it
    /// is. The caller has seen that nothing waits for a flush, which [`disable`](Self::disable) would ask for.
    #[inline(always)]
    pub const fn leave_only(&mut self) -> bool {
        let only = self.0 == SECTION;
        if only {
            self.0 = 0;
        }
        only
    }

    /// Suspends laziness.
    #[inline]
    pub const fn pause(&mut self) -> Result<Action, LazyError> {
        let was = self.is_lazy();
        if self.irq_depth() != 0 {
            return Ok(Action::None);
        }
        match self.up(PAUSE) {
            Err(error) => Err(error),
            Ok(()) => Ok(if was { Action::Flush } else { Action::None }),
        }
    }

    /// Ends a pause.
    #[inline]
    pub const fn resume(&mut self) -> Result<(), LazyError> {
        if self.irq_depth() != 0 {
            return Ok(());
        }
        self.down(PAUSE, LazyError::NotPaused)
    }

    /// An interrupt begins.
    #[inline]
    pub const fn enter_irq(&mut self) -> Result<(), LazyError> {
        self.up(INTERRUPT)
    }

    /// An interrupt ends.
    #[inline]
    pub const fn leave_irq(&mut self) -> Result<(), LazyError> {
        self.down(INTERRUPT, LazyError::NotInInterrupt)
    }

    /// The context gives up the vCPU.
    pub const fn switch_out(&self, queue: SwitchOut) -> Result<Action, LazyError> {
        match (self.irq_depth(), queue) {
            (0, SwitchOut::Flush) => Ok(Action::Flush),
            (0, SwitchOut::Carry) => Ok(Action::None),
            _ => Err(LazyError::InInterrupt),
        }
    }

    /// The context gets the vCPU, with whatever is queued there.
    pub const fn switch_in(&self) -> Action {
        if self.is_lazy() {
            Action::None
        } else {
            Action::Flush
        }
    }

    /// Counts one more of these.
    #[inline]
    const fn up(&mut self, one: u32) -> Result<(), LazyError> {
        if (self.0 / one) & MOST == MOST {
            return Err(LazyError::TooDeep);
        }
        self.0 += one;
        Ok(())
    }

    /// Counts one less, where there is any.
    #[inline]
    const fn down(&mut self, one: u32, at_zero: LazyError) -> Result<(), LazyError> {
        if (self.0 / one) & MOST == 0 {
            return Err(at_zero);
        }
        self.0 -= one;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_never_wrap() {
        let mut lazy = LazyMmu::new();
        assert_eq!(lazy.disable(), Err(LazyError::NotEnabled));
        assert_eq!(lazy.resume(), Err(LazyError::NotPaused));
        assert_eq!(lazy.leave_irq(), Err(LazyError::NotInInterrupt));
        assert_eq!(lazy, LazyMmu::new());
        for _ in 0..255 {
            lazy.enable().unwrap();
        }
        assert_eq!(lazy.enable(), Err(LazyError::TooDeep));
        assert_eq!(lazy.pause(), Ok(Action::Flush));
        for _ in 1..255 {
            assert_eq!(lazy.pause(), Ok(Action::None));
        }
        assert_eq!(lazy.pause(), Err(LazyError::TooDeep));
        assert_eq!((lazy.enable_count(), lazy.pause_count()), (255, 255));
        for _ in 0..255 {
            lazy.enter_irq().unwrap();
        }
        assert_eq!(lazy.enter_irq(), Err(LazyError::TooDeep));
        assert_eq!(
            lazy.switch_out(SwitchOut::Flush),
            Err(LazyError::InInterrupt)
        );
    }

    /// Each transition that does not match says which it was, in words of its own.
    #[test]
    fn each_mismatch_has_words_of_its_own() {
        for (error, words) in [
            (LazyError::NotEnabled, "section left but not entered"),
            (LazyError::NotPaused, "resumed but not paused"),
            (LazyError::NotInInterrupt, "interrupt left but not entered"),
            (LazyError::TooDeep, "nest too deep"),
            (LazyError::InInterrupt, "switched inside an interrupt"),
        ] {
            let text = error.to_string();
            assert!(text.ends_with(words), "{text}");
        }
    }

    #[test]
    fn an_empty_section_asks_for_a_flush_only_at_its_outer_end() {
        let mut lazy = LazyMmu::new();
        lazy.enable().unwrap();
        lazy.enable().unwrap();
        assert_eq!(lazy.disable(), Ok(Action::None));
        assert_eq!(lazy.disable(), Ok(Action::Flush));
    }

    /// What leaves the inner sections does as `disable` would, and leaves the outermost to it.
    #[test]
    fn an_inner_section_is_left_without_a_flush() {
        for depth in 0..4 {
            for (paused, interrupted) in [(false, false), (true, false), (false, true)] {
                let mut lazy = LazyMmu::new();
                (0..depth).for_each(|_| lazy.enable().unwrap());
                if paused {
                    let _ = lazy.pause().unwrap();
                }
                if interrupted {
                    lazy.enter_irq().unwrap();
                }
                let mut long = lazy;
                let left = lazy.leave_inner();
                assert_eq!(left, depth > 1 && !paused && !interrupted);
                let mut only = long;
                let is_only = depth == 1 && !paused && !interrupted;
                assert_eq!(only.leave_only(), is_only);
                assert_eq!(only.is_lazy(), long.is_lazy() && !is_only);
                if left {
                    assert_eq!(long.disable(), Ok(Action::None));
                }
                assert_eq!(lazy, long);
            }
        }
    }

    #[test]
    fn a_section_left_while_paused_has_nothing_to_flush() {
        let mut lazy = LazyMmu::new();
        lazy.enable().unwrap();
        assert_eq!(lazy.pause(), Ok(Action::Flush));
        assert_eq!(lazy.disable(), Ok(Action::None));
        lazy.enable().unwrap();
        lazy.resume().unwrap();
        assert!(lazy.is_lazy());
    }
}
