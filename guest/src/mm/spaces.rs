//! Address spaces: a root for the kernel and one for user mode.
//!
//! Under PV both kernel and user mode run in ring 3, and every kernel page is reachable for user
//! code if the tables lead there; what keeps them apart is that user mode runs on a root of its own
//! that has only the user half (`MMUEXT_NEW_USER_BASEPTR`). Entries of the user half are written to
//! both roots; entries of the kernel half to the kernel root of every space, so that the kernel is
//! the same in all of them.
//!
//! Both roots are pinned: switching to them then costs Xen no validation.

use heapless::Vec;
use hypercall::Pfn;
use hypercall::lazy::SwitchOut;
use hypercall::mmu::{ExtOp, Level};
use hypercall::queue::{MmuError, SwitchError};

use super::entry::{Entry, L1, L2, L4, L5, TableLevel};
use super::error::MmError;
use super::frames::{Frame, FrameError};
use super::fresh::Fresh;
use super::machine::Machine;
use super::state::{Illegal, Kind, State, Step};
use super::tables::{Fold, Tables, slots};

/// Spaces that can exist at once.
pub const MAX_SPACES: usize = 32;
/// The first slot of a root that is not user mode's.
const UPPER_HALF: usize = 256;

/// The first slot of a root that is the kernel's. With four levels those just below are Xen's, or
/// nobody's; with five, the whole upper half has one entry, and the table below it is in every
/// space.
const fn kernel_slots(fold: Fold) -> usize {
    match fold {
        Fold::FourLevels => 272,
        Fold::FiveLevels => UPPER_HALF,
    }
}

/// An address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Root of the kernel.
    pub kernel: Pfn,
    /// Root of user mode, if the space has a user half.
    pub user: Option<Pfn>,
}

/// The spaces that exist.
pub(super) type Spaces = Vec<Space, MAX_SPACES>;

impl<M: Machine> Tables<M> {
    /// Makes a space with the kernel's half and an empty user half.
    ///
    /// # Errors
    /// No memory, too many spaces, or Xen's refusal.
    #[track_caller]
    pub fn create_space(&mut self) -> Result<Space, MmError> {
        if self.spaces.is_full() {
            return Err(FrameError::Full.into());
        }
        let (kernel_frame, user_frame) = (self.alloc_frame()?, self.alloc_frame());
        let user_frame = match user_frame {
            Ok(frame) => frame,
            Err(e) => {
                self.free_frame(kernel_frame)?;
                return Err(e);
            }
        };
        self.flush()?;
        let space = match self.fold() {
            Fold::FourLevels => self.make_roots::<L4>(kernel_frame, user_frame),
            Fold::FiveLevels => self.make_roots::<L5>(kernel_frame, user_frame),
        }?;
        self.spaces.push(space).map_err(|_| FrameError::Full)?;
        Ok(space)
    }

    /// Makes frames the roots of a space.
    #[track_caller]
    fn make_roots<L: TableLevel>(
        &mut self,
        kernel_frame: Frame,
        user_frame: Frame,
    ) -> Result<Space, MmError> {
        let current = self.machine().memory(self.root()).cast_const();
        let first = kernel_slots(self.fold());
        let kernel = Fresh::<L>::filled(self, kernel_frame, |_, words| {
            words[..first].fill(0);
            for (index, word) in words.iter_mut().enumerate().skip(first) {
                // SAFETY: the root is a table that the window reaches; nothing is queued for it.
                let entry = Entry::<L>::from_table(unsafe { (*current)[index] });
                *word = if entry.is_present() {
                    entry.with_flags(entry.flags()).bits()
                } else {
                    0
                };
            }
            Ok(())
        })?;
        let user = Fresh::<L>::empty(self, user_frame);
        let (kernel_pfn, user_pfn) = (kernel.pfn(), user.pfn());
        let pinned = self.lazily(|tables| {
            let kernel = kernel.seal(tables)?.pfn();
            tables.pin(kernel)?;
            let user = user.seal(tables)?.pfn();
            tables.pin(user)
        });
        if let Err(e) = pinned.and_then(|()| self.flush()) {
            for root in [kernel_pfn, user_pfn] {
                self.give_back_root(root)?;
            }
            return Err(e);
        }
        Ok(Space {
            kernel: kernel_pfn,
            user: Some(user_pfn),
        })
    }

    /// Gives back a root that could not become one, as far as it came.
    fn give_back_root(&mut self, root: Pfn) -> Result<(), MmError> {
        let (_, state) = self.frames().states(self.machine(), root)?;
        if state.pinned {
            self.unpin(root)?;
            self.flush()?;
        }
        match state.kind {
            Kind::Table => self.release_table(root),
            _ => self.free_frame(Frame::from_pfn(root)),
        }
    }

    /// Unpins a root; what its entries refer to loses a reference.
    #[track_caller]
    fn unpin(&mut self, root: Pfn) -> Result<(), MmError> {
        let steps = self.root_steps(root, Step::Unpin, |_| Step::Unlink)?;
        let tag = self.plan(&steps)?;
        let op = ExtOp::Unpin(self.mfn(root)?);
        // SAFETY: no base register refers to the root, so nothing in use is reached through it.
        unsafe { self.mmu.ext(op, tag) }?;
        Ok(())
    }

    /// Pins a root; what its entries refer to gains a reference.
    #[track_caller]
    fn pin(&mut self, root: Pfn) -> Result<(), MmError> {
        let steps = self.root_steps(root, Step::Pin(self.fold().top()), Step::Link)?;
        let tag = self.plan(&steps)?;
        let op = ExtOp::Pin(Level::L4, self.mfn(root)?);
        // SAFETY: pinning validates; it changes no mapping.
        unsafe { self.mmu.ext(op, tag) }?;
        Ok(())
    }

    /// The steps of pinning or unpinning a root: its own, and one for each table it refers to.
    fn root_steps(
        &self,
        root: Pfn,
        own: Step,
        each: impl Fn(u8) -> Step,
    ) -> Result<Vec<(Pfn, Step), 16>, MmError> {
        let mut steps = Vec::new();
        steps.push((root, own)).map_err(|_| FrameError::Full)?;
        let below = self.fold().top() - 1;
        let xens = UPPER_HALF..kernel_slots(self.fold());
        // Entries of any level are read alike.
        let first = self
            .slot::<L1>(root, 0)
            .ok_or(MmError::NoMemory { pfn: root.as_u64() })?;
        for (index, slot) in slots(first, 512).enumerate() {
            if xens.contains(&index) {
                continue;
            }
            let Some(value) = self.value(self.get(slot)) else {
                continue;
            };
            if self.is_recorded_table(value.pfn) {
                steps
                    .push((value.pfn, each(below)))
                    .map_err(|_| FrameError::Full)?;
            }
        }
        Ok(steps)
    }

    /// The tables of the p2m list are Xen's and not counted.
    pub(super) fn is_recorded_table(&self, pfn: Pfn) -> bool {
        let states = self.frames().states(self.machine(), pfn);
        states.is_ok_and(|(_, planned)| planned.kind == Kind::Table)
    }

    /// Switches to a space. What is queued goes out with the switch.
    ///
    /// # Errors
    /// What Xen refused; the space is then the one before.
    ///
    /// # Safety
    /// Nothing in use lies in the user half of the space that is left.
    #[track_caller]
    pub unsafe fn switch_space(&mut self, to: Space) -> Result<(), MmError> {
        let lazy = *self.mmu.lazy();
        let bases = self.bases(to)?;
        let back = self.bases(Space {
            kernel: self.root(),
            user: self.user_root(),
        })?;
        // SAFETY: the kernel half is the same in every space, the user half not in use.
        let switched = unsafe { self.mmu.switch(lazy, SwitchOut::Carry, &bases) };
        self.settle();
        if let Err(SwitchError {
            error,
            previous: None,
        }) = switched
        {
            if let MmuError::Flush(_) = error {
                // One of the two may have been changed: both go back to what they were.
                // SAFETY: these are the tables in use.
                unsafe { self.mmu.switch(lazy, SwitchOut::Flush, &back) }.map_err(|e| e.error)?;
            }
            return Err(error.into());
        }
        let before = core::iter::once(self.root()).chain(self.user_root());
        for root in before.collect::<Vec<Pfn, 2>>() {
            self.count_base(root, -1)?;
        }
        for root in core::iter::once(to.kernel).chain(to.user) {
            self.count_base(root, 1)?;
        }
        self.set_roots(to.kernel, to.user);
        switched.map_err(|e| e.error)?;
        Ok(())
    }

    /// The operations that make a space the current one.
    fn bases(&self, space: Space) -> Result<[ExtOp; 2], MmError> {
        let user = match space.user {
            Some(user) => Some(self.mfn(user)?),
            None => None,
        };
        Ok([
            ExtOp::NewBaseptr(self.mfn(space.kernel)?),
            ExtOp::NewUserBaseptr(user),
        ])
    }

    /// Counts a base register that refers, or no longer refers, to a root.
    fn count_base(&mut self, root: Pfn, change: i16) -> Result<(), MmError> {
        let (frames, machine) = self.ledger();
        let (state, _) = frames.states(machine, root)?;
        let links = state.links.saturating_add_signed(change);
        Ok(frames.set(machine, root, State { links, ..state })?)
    }

    /// Ends a space that is not the current one, with all tables of its user half. The pages that
    /// were mapped there stay their owners'.
    ///
    /// # Errors
    /// It is the current one, or Xen's refusal.
    #[track_caller]
    pub fn destroy_space(&mut self, space: Space) -> Result<(), MmError> {
        let place = self.spaces.iter().position(|s| *s == space);
        let Some(place) = place.filter(|_| space.kernel != self.root()) else {
            let step = Step::Unpin;
            let (_, state) = self.frames().states(self.machine(), space.kernel)?;
            let illegal = Illegal { state, step };
            return Err(FrameError::Illegal(space.kernel, illegal).into());
        };
        let roots = || space.user.into_iter().chain([space.kernel]);
        self.lazily(|tables| {
            for root in roots() {
                // One may have been unpinned by an attempt that failed.
                if tables.frames().states(tables.machine(), root)?.1.pinned {
                    tables.unpin(root)?;
                }
            }
            Ok(())
        })?;
        // From here on Xen knows the tables below no more, and records may follow.
        self.flush()?;
        self.spaces.swap_remove(place);
        self.lazily(|tables| {
            roots().try_for_each(|root| tables.dissolve(root, tables.fold().top()))
        })?;
        self.flush()
    }

    /// Gives back a table that nothing refers to, and those that only it referred to: Xen lets go
    /// of them with it.
    fn dissolve(&mut self, table: Pfn, level: u8) -> Result<(), MmError> {
        if !self.unreferenced(table)? {
            return Ok(());
        }
        let words = self.machine().memory(table).cast_const();
        let top = self.fold().top();
        let last = if level == top { UPPER_HALF } else { 512 };
        for index in 0..if level > 1 { last } else { 0 } {
            // SAFETY: the table is reached by the window and no longer changes.
            let entry = Entry::<L2>::from_table(unsafe { (*words)[index] });
            let Some(value) = self.value(entry).filter(|v| self.is_recorded_table(v.pfn)) else {
                continue;
            };
            if level < top {
                // Those below a root lost their reference with its pin, these with their parent.
                let (frames, machine) = self.ledger();
                frames.step_now(machine, value.pfn, Step::Unlink)?;
            }
            self.dissolve(value.pfn, level - 1)?;
        }
        self.release_table(table)
    }

    /// Every root: the first space's and those created since.
    pub(super) fn roots(&self) -> impl Iterator<Item = (Pfn, Option<Pfn>)> + use<M> {
        let mut all: Vec<Space, { MAX_SPACES + 1 }> = Vec::new();
        for space in core::iter::once(self.boot_space()).chain(self.spaces.iter().copied()) {
            // As many as can exist, and one more.
            let _ = all.push(space);
        }
        all.into_iter().map(|s| (s.kernel, s.user))
    }

    /// The space that boot ran in: the kernel's own, without a user half.
    #[must_use]
    pub fn boot_space(&self) -> Space {
        Space {
            kernel: self.boot_root,
            user: None,
        }
    }

    /// The roots that base registers refer to.
    pub(super) fn base_references(&self) -> impl Iterator<Item = Pfn> + use<M> {
        core::iter::once(self.root()).chain(self.user_root())
    }
}
