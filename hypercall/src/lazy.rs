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
/// One number, so that what sections do most often is to add to it and to look at its sign. Negative, it
/// is lazy: minus the sections entered, each of them 2²³; 0 is none of all. Positive, pauses or
/// interrupts hold it: then it counts each in bits of its own. No section entered or left
/// there makes it negative by mistake.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LazyMmu(i32);

/// One section, while nothing holds lazy mode: one more than [`MOST_SECTIONS`] turns the sign.
const SECTION: i32 = 1 << 23;
/// The most sections that can be counted.
const MOST_SECTIONS: u16 = 256;

/// Lazy mode is held: sections in bits 0-8, interrupts in 9-16, pauses in 17-24.
const HELD: i32 = 1 << 30;
const HELD_SECTIONS: i32 = 0x1ff;
const INTERRUPT: i32 = 1 << 9;
const PAUSE: i32 = 1 << 17;
/// The most interrupts, and pauses, that can be counted.
const MOST: i32 = 0xff;

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
        self.0 < 0
    }

    /// Whether there is neither section, nor pause, nor interrupt.
    #[inline(always)]
    pub const fn is_at_rest(&self) -> bool {
        self.0 == 0
    }

    /// Sections entered, 256 at most.
    #[inline]
    pub const fn enable_count(&self) -> u16 {
        match self.0 > 0 {
            true => (self.0 & HELD_SECTIONS) as u16,
            false => (self.0 / -SECTION) as u16,
        }
    }

    /// Pauses in force.
    pub const fn pause_count(&self) -> u8 {
        self.held_by(PAUSE) as u8
    }

    /// Interrupts entered.
    #[inline]
    pub const fn irq_depth(&self) -> u8 {
        self.held_by(INTERRUPT) as u8
    }

    /// How many of these hold it.
    #[inline]
    const fn held_by(&self, one: i32) -> i32 {
        match self.0 > 0 {
            true => (self.0 / one) & MOST,
            false => 0,
        }
    }

    /// Enters a section.
    #[inline(always)]
    pub const fn enable(&mut self) -> Result<(), LazyError> {
        self.0 = self.0.wrapping_sub(SECTION);
        if self.0 < 0 {
            return Ok(());
        }
        self.enable_otherwise()
    }

    /// As [`enable`](Self::enable), which has counted already, where lazy mode is held or that was one too
    /// many.
    #[cold]
    #[inline(never)]
    const fn enable_otherwise(&mut self) -> Result<(), LazyError> {
        self.0 = self.0.wrapping_add(SECTION);
        if self.irq_depth() != 0 {
            return Ok(());
        }
        if self.enable_count() == MOST_SECTIONS {
            return Err(LazyError::TooDeep);
        }
        self.0 += 1;
        Ok(())
    }

    /// Leaves a section.
    #[inline]
    pub const fn disable(&mut self) -> Result<Action, LazyError> {
        match self.leave() {
            true => Ok(Action::None),
            false => self.left(),
        }
    }

    /// Leaves a section, and says whether it was one in another, outside of pauses and interrupts, which is
    /// all that there is to do. If not, [`left`](Self::left) is called next and says what it is.
    #[inline(always)]
    #[must_use = "what else there is to do must be done"]
    pub const fn leave(&mut self) -> bool {
        self.0 = self.0.wrapping_add(SECTION);
        self.0 < 0
    }

    /// What there is to do for a section of which [`leave`](Self::leave) has just said that it was not one
    /// in another.
    #[inline]
    pub const fn left(&mut self) -> Result<Action, LazyError> {
        match self.has_left_outermost() {
            true => Ok(Action::Flush),
            false => self.left_otherwise(),
        }
    }

    /// Whether a section of which [`leave`](Self::leave) has just said that it was not one in another was
    /// the outermost, outside of pauses and interrupts: then nothing but a flush is left to do.
    #[inline(always)]
    pub const fn has_left_outermost(&self) -> bool {
        self.0 == 0
    }

    /// As [`left`](Self::left) where lazy mode is held, or there was no section to leave.
    #[cold]
    #[inline(never)]
    const fn left_otherwise(&mut self) -> Result<Action, LazyError> {
        self.0 = self.0.wrapping_sub(SECTION);
        if self.irq_depth() != 0 {
            return Ok(Action::None);
        }
        if self.enable_count() == 0 {
            return Err(LazyError::NotEnabled);
        }
        self.0 -= 1;
        Ok(Action::None)
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

    /// One more of these holds it.
    #[inline]
    const fn up(&mut self, one: i32) -> Result<(), LazyError> {
        if self.0 <= 0 {
            self.0 = HELD + one + self.enable_count() as i32;
            return Ok(());
        }
        if self.held_by(one) == MOST {
            return Err(LazyError::TooDeep);
        }
        self.0 += one;
        Ok(())
    }

    /// One less of these holds it, where any does.
    #[inline]
    const fn down(&mut self, one: i32, at_zero: LazyError) -> Result<(), LazyError> {
        if self.held_by(one) == 0 {
            return Err(at_zero);
        }
        self.0 -= one;
        let sections = self.0 - HELD;
        if sections <= HELD_SECTIONS {
            self.0 = sections * -SECTION;
        }
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
        for _ in 0..MOST_SECTIONS {
            lazy.enable().unwrap();
            assert!(lazy.is_lazy());
        }
        assert_eq!(lazy.enable(), Err(LazyError::TooDeep));
        assert_eq!(lazy.pause(), Ok(Action::Flush));
        assert_eq!(lazy.enable(), Err(LazyError::TooDeep));
        for _ in 1..255 {
            assert_eq!(lazy.pause(), Ok(Action::None));
        }
        assert_eq!(lazy.pause(), Err(LazyError::TooDeep));
        assert_eq!(
            (lazy.enable_count(), lazy.pause_count()),
            (MOST_SECTIONS, 255)
        );
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

    /// Of a section in another nothing is left to do, of the outermost a flush; a pause or an interrupt
    /// decides otherwise, and then counts are as they were or one less.
    #[test]
    fn a_section_in_another_is_left_without_a_flush() {
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
                let before = lazy;
                let is_held = paused || interrupted;
                let is_inner = lazy.leave();
                assert_eq!(is_inner, depth > 1 && !is_held);
                if !is_inner {
                    assert_eq!(lazy.has_left_outermost(), depth == 1 && !is_held);
                    assert_eq!(
                        lazy.left(),
                        match (depth, is_held) {
                            (0, _) if !interrupted => Err(LazyError::NotEnabled),
                            (_, true) => Ok(Action::None),
                            (_, false) => Ok(Action::Flush),
                        }
                    );
                }
                let left = u16::from(depth > 0 && !interrupted);
                assert_eq!(lazy.enable_count(), before.enable_count() - left);
                assert_eq!(lazy.irq_depth(), before.irq_depth());
                assert_eq!(lazy.pause_count(), before.pause_count());
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
