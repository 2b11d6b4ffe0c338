//! Address spaces: a root for the kernel and one for user mode.
//!
//! Under PV both kernel and user mode run in ring 3, and every kernel page is reachable for user
//! code if the tables lead there; what keeps them apart is that user mode runs on a root of its own
//! that has only the user half (`MMUEXT_NEW_USER_BASEPTR`). Entries of the user half are written to
//! both roots; those of the kernel half stand from the takeover on and are copied into every space's
//! root, so that the kernel is the same in all of them and nothing is ever written to the others.
//!
//! Both roots are pinned: switching to them then costs Xen no validation.
//!
//! A space is a value that its holder owns, and ending it takes the value: nobody works on a space
//! that is gone.
//!
//! ```
//! use pagetable::machine::Machine;
//! use pagetable::{MmError, Tables};
//!
//! fn once<M: Machine>(tables: &mut Tables<M>) -> Result<(), MmError> {
//!     let space = tables.create_space()?;
//!     tables.in_space(&space, |tables| tables.flush())?;
//!     tables.destroy_space(space).map_err(|refused| refused.error)
//! }
//! ```
//!
//! One that was ended cannot be worked on, nor ended again:
//!
//! ```compile_fail,E0382
//! # use pagetable::machine::Machine;
//! # use pagetable::{MmError, Tables};
//! fn twice<M: Machine>(tables: &mut Tables<M>) -> Result<(), MmError> {
//!     let space = tables.create_space()?;
//!     let ended = tables.destroy_space(space);
//!     tables.in_space(&space, |tables| tables.flush())
//! }
//! ```
//!
//! One that is worked on cannot be ended meanwhile:
//!
//! ```compile_fail,E0505
//! # use pagetable::machine::Machine;
//! # use pagetable::{MmError, Tables};
//! fn meanwhile<M: Machine>(tables: &mut Tables<M>) -> Result<(), MmError> {
//!     let space = tables.create_space()?;
//!     tables.in_space(&space, |tables| {
//!         tables.destroy_space(space).map_err(|refused| refused.error)
//!     })
//! }
//! ```

use hypercall::Pfn;
use hypercall::lazy::SwitchOut;
use hypercall::mmu::ExtOp;

use crate::audit::fingerprint;
use crate::entry::{Entry, L2, L4, L5, TableLevel};
use crate::error::MmError;
use crate::frames::{Frame, FrameError};
use crate::fresh::Fresh;
use crate::locks::Part;
use crate::machine::Machine;
use crate::state::{Illegal, Kind, Transition};
use crate::tables::{Fold, Tables};

/// The first slot of a root that is not user mode's.
pub(crate) const UPPER_HALF: usize = 256;

/// The first slot of a root that is the kernel's. With four levels those just below are Xen's, or
/// nobody's; with five, the whole upper half has one entry, and the table below it is in every
/// space.
pub(crate) const fn kernel_slots(fold: Fold) -> usize {
    match fold {
        Fold::FourLevels => 272,
        Fold::FiveLevels => UPPER_HALF,
    }
}

/// The frames of a space's roots: they tell which space it is, and give no right to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roots {
    /// Root of the kernel.
    pub kernel: Pfn,
    /// Root of user mode, if the space has a user half.
    pub user: Option<Pfn>,
}

impl Roots {
    /// Their [`fingerprint`]s, added up.
    pub(super) fn fingerprint(self) -> u64 {
        self.both()
            .fold(0, |sum, root| sum.wrapping_add(fingerprint(root)))
    }

    /// All there are, that of user mode first.
    fn both(self) -> impl Iterator<Item = Pfn> {
        self.user.into_iter().chain([self.kernel])
    }
}

/// An address space, from [`Tables::create_space`] to [`Tables::destroy_space`]. One that is dropped
/// stays for good, with all its tables.
#[must_use = "its tables come back only when it is destroyed"]
#[derive(Debug, PartialEq, Eq)]
pub struct AddressSpace {
    /// 32 bits hold the number of any frame that has a record, and so of any root: an error that
    /// gives the space back stays small.
    kernel: u32,
    user: Option<u32>,
}

impl AddressSpace {
    pub(super) fn new(roots: Roots) -> AddressSpace {
        let number = |pfn: Pfn| pfn.as_u64() as u32;
        AddressSpace {
            kernel: number(roots.kernel),
            user: roots.user.map(number),
        }
    }

    /// Its roots.
    #[inline]
    #[must_use]
    pub fn roots(&self) -> Roots {
        let pfn = |number: u32| Pfn::truncate(number.into());
        Roots {
            kernel: pfn(self.kernel),
            user: self.user.map(pfn),
        }
    }
}

/// A space that was not ended entirely.
#[derive(Debug)]
pub struct NotDestroyed {
    /// Why.
    pub error: MmError,
    /// The space, unless Xen has let go of it: then what is missing are tables of its user half, which
    /// come back with the [frames that refusals left over](crate::frames::Frames::orphans), or are
    /// lost where their record says that something refers to them.
    pub space: Option<AddressSpace>,
}

impl<M: Machine> Tables<M> {
    /// Makes a space with the kernel's half and an empty user half, or takes one that was
    /// [kept](Tables::spare_space).
    ///
    /// # Errors
    /// No memory, or Xen's refusal.
    #[track_caller]
    pub fn create_space(&mut self) -> Result<AddressSpace, MmError> {
        if let Some(roots) = self.take_spare() {
            return Ok(AddressSpace::new(roots));
        }
        let listed = if self.domain().spaces.lock().needs_frame() {
            Some(self.alloc_frame()?)
        } else {
            None
        };
        match self.make_space() {
            Ok(roots) => {
                let mut spaces = self.domain().spaces.lock();
                spaces.push(self.machine(), roots, listed);
                Ok(AddressSpace::new(roots))
            }
            Err(e) => {
                listed.map_or(Ok(()), |frame| self.free_frame(frame))?;
                Err(e)
            }
        }
    }

    #[track_caller]
    fn make_space(&mut self) -> Result<Roots, MmError> {
        let (kernel_frame, user_frame) = (self.alloc_frame()?, self.alloc_frame());
        let user_frame = match user_frame.and_then(|frame| self.flush().map(|()| frame)) {
            Ok(frame) => frame,
            Err(e) => {
                self.free_frame(kernel_frame)?;
                return Err(e);
            }
        };
        match self.fold() {
            Fold::FourLevels => self.make_roots::<L4>(kernel_frame, user_frame),
            Fold::FiveLevels => self.make_roots::<L5>(kernel_frame, user_frame),
        }
    }

    /// Makes frames the roots of a space.
    #[track_caller]
    fn make_roots<L: TableLevel>(
        &mut self,
        kernel_frame: Frame,
        user_frame: Frame,
    ) -> Result<Roots, MmError> {
        let current = self.root();
        let first = kernel_slots(self.fold());
        let kernel = Fresh::<L>::filled(self, kernel_frame, |tables, words| {
            // SAFETY: the root is a table, so nobody's own memory; nothing is queued for it.
            let root = unsafe { tables.machine().live(current) };
            let root = root.ok_or(MmError::NoMemory {
                pfn: current.as_u64(),
            })?;
            words.fill(0);
            let mut copy = |index| {
                let entry = Entry::<L>::from_table(root.get(index));
                words[index] = entry.with_flags(entry.flags()).bits();
            };
            match tables.domain().kernel_entries() {
                Some(entries) => entries.for_each(|entry| copy(UPPER_HALF + entry)),
                None => root.present_from(first).for_each(copy),
            }
            Ok(())
        })?;
        let user = Fresh::<L>::empty(self, user_frame);
        let (kernel_pfn, user_pfn) = (kernel.pfn(), user.pfn());
        let pinned = self.lazily(|tables| {
            let kernel = kernel.seal(tables)?.pfn();
            tables.pin_new(kernel)?;
            let user = user.seal(tables)?.pfn();
            tables.pin_new(user)
        });
        if let Err(e) = pinned.and_then(|()| self.flush()) {
            for root in [kernel_pfn, user_pfn] {
                self.give_back_root(root)?;
            }
            return Err(e);
        }
        Ok(Roots {
            kernel: kernel_pfn,
            user: Some(user_pfn),
        })
    }

    /// Gives back a root that could not become one, as far as it came.
    fn give_back_root(&mut self, root: Pfn) -> Result<(), MmError> {
        let (_, state) = self.frames().states(root)?;
        if state.pinned {
            // SAFETY: no space came of it, so no base register refers to it.
            unsafe { self.unpin(root) }?;
            self.flush()?;
        }
        match state.kind {
            Kind::Table => self.release_table(root),
            // SAFETY: it was to be a root, its `Frame` was given up for that, and it is none.
            _ => self.free_frame(unsafe { Frame::from_pfn(root) }),
        }
    }

    /// The tables of the p2m list are Xen's and not counted.
    pub(super) fn is_recorded_table(&self, pfn: Pfn) -> bool {
        let states = self.frames().states(pfn);
        states.is_ok_and(|(_, planned)| planned.kind == Kind::Table)
    }

    /// Runs `f` with operations about a space, whether the processor works with it or not: an
    /// address of the user half means that space's. What is written there the processor finds when
    /// it is switched to; the kernel's half is the same in every space. Afterwards operations are
    /// about the space as before, or, if `f` switched, about the one it switched to.
    ///
    /// It is a lazy section, and at its end everything queued goes out, whatever section it lies in:
    /// nobody who works on the space afterwards finds it unlike what a queue says.
    ///
    /// # Errors
    /// Those of `f`, the space is one of other tables, or Xen's refusal.
    #[track_caller]
    pub fn in_space<R>(
        &mut self,
        space: &AddressSpace,
        f: impl FnOnce(&mut Self) -> Result<R, MmError>,
    ) -> Result<R, MmError> {
        let roots = space.roots();
        let (current, before) = (self.current_roots(), self.roots());
        // Where this vCPU runs is a space, and what was found there stays where it is.
        let is_here = roots == before && self.is_current(0);
        if !is_here {
            self.check_roots(roots)?;
        }
        self.check_holds_users(space)?;
        if !is_here {
            self.work_on(roots);
        }
        let result = self.lazily(f);
        let flushed = self.flush();
        let stays = self.current_roots() == current;
        if !(is_here && stays) {
            self.work_on(if stays { before } else { self.current_roots() });
        }
        if let (Err(_), Err(also)) = (&result, &flushed) {
            // Only one error can be returned; the later one is not lost either.
            log::error!(target: "mm", "{also}");
        }
        let value = result?;
        flushed?;
        Ok(value)
    }

    /// Refuses roots that are not a space's here: a space of other tables, or one that was half ended
    /// when Xen refused the rest.
    fn check_roots(&self, roots: Roots) -> Result<(), MmError> {
        let top = self.fold().top();
        let is_root = |pfn| {
            let states = self.frames().states(pfn);
            states.is_ok_and(|(_, planned)| {
                planned.kind == Kind::Table && planned.level == top && planned.pinned
            })
        };
        let boot = self.boot_space().roots() == roots;
        if boot || is_root(roots.kernel) && roots.user.is_some_and(is_root) {
            return Ok(());
        }
        let root = roots.kernel.as_u64();
        Err(MmError::NoSpace { root })
    }

    /// Switches to a space. What is queued goes out with the switch.
    ///
    /// # Errors
    /// It is one of other tables, or what Xen refused, be it of the queue; the space is then the one
    /// before. Should Xen refuse the way back as well, which is logged, the roots are those that the
    /// base registers refer to.
    ///
    /// # Safety
    /// Nothing in use lies in the user half of the space that is left.
    #[track_caller]
    pub unsafe fn switch_space(&mut self, to: &AddressSpace) -> Result<(), MmError> {
        self.check_roots(to.roots())?;
        self.check_holds_users(to)?;
        let before = self.current_roots();
        if before == to.roots() {
            return self.flush();
        }
        // SAFETY: the kernel half is the same in every space, the user half not in use.
        let Err(error) = (unsafe { self.change_bases(to.roots()) }) else {
            return Ok(());
        };
        if self.current_roots() != before {
            // SAFETY: these are the tables that were in use.
            if let Err(also) = unsafe { self.change_bases(before) } {
                // Only one error can be returned; the later one is not lost either.
                log::error!(target: "mm", "the way back to the space before: {also}");
            }
        }
        Err(error)
    }

    /// Has Xen change the base registers, and records what they refer to afterwards, whatever was
    /// refused.
    ///
    /// # Safety
    /// The space maps what is in use as before.
    #[track_caller]
    unsafe fn change_bases(&mut self, to: Roots) -> Result<(), MmError> {
        let lazy = *self.mmu.lazy();
        let bases = self.bases(to)?;
        // SAFETY: the caller's promise: what is in use stays mapped.
        let switched = unsafe { self.mmu.switch(lazy, SwitchOut::Carry, &bases) };
        self.apply_log();
        let carried_out = switched
            .as_ref()
            .map_or_else(|error| error.carried_out, |_| bases.len());
        let before = self.current_roots();
        let kernel = if carried_out > 0 {
            to.kernel
        } else {
            before.kernel
        };
        let user = if carried_out > 1 {
            to.user
        } else {
            before.user
        };
        let top = self.fold().top();
        for root in core::iter::once(before.kernel).chain(before.user) {
            self.frames().transition(root, Transition::Unlink)?;
        }
        for root in core::iter::once(kernel).chain(user) {
            self.frames().transition(root, Transition::Link(top))?;
        }
        self.set_roots(Roots { kernel, user });
        switched.map_err(|error| error.error)?;
        Ok(())
    }

    /// The operations that make a space the current one.
    fn bases(&self, space: Roots) -> Result<[ExtOp; 2], MmError> {
        let user = match space.user {
            Some(user) => Some(self.mfn(user)?),
            None => None,
        };
        Ok([
            ExtOp::NewBaseptr(self.mfn(space.kernel)?),
            ExtOp::NewUserBaseptr(user),
        ])
    }

    /// Ends a space that is not the current one, with all tables of its user half, and the memory that
    /// only they mapped as [user mode's](crate::user). Other pages stay their owners'. This vCPU holds
    /// the kernel's half afterwards, where the domain is shared.
    ///
    /// # Errors
    /// A vCPU is in it, it is worked on, the one that boot ran in or one of other tables, or Xen's
    /// refusal. The space comes back with the error as long as it exists.
    #[track_caller]
    pub fn destroy_space(&mut self, space: AddressSpace) -> Result<(), NotDestroyed> {
        let roots = space.roots();
        // Of two spaces that share tables and end at once one is the last.
        let listed = match self
            .hold(Part::KernelHalf)
            .and_then(|()| self.retire(roots))
        {
            Ok(listed) => listed,
            Err(error) => {
                let space = Some(space);
                return Err(NotDestroyed { error, space });
            }
        };
        self.give_back_tables(roots, listed)
            .map_err(|error| NotDestroyed { error, space: None })
    }

    /// The place in the list of a space that nobody is in.
    pub(super) fn check_left(&self, space: Roots) -> Result<usize, MmError> {
        let mut listed = self.spaces().skip(1);
        let place = listed.position(|roots| roots == space);
        let (_, state) = self.frames().states(space.kernel)?;
        // A vCPU that runs there refers to its root.
        let in_use = state.links > 0 || self.root() == space.kernel;
        place.filter(|_| !in_use).ok_or_else(|| {
            let transition = Transition::Unpin;
            FrameError::Illegal(space.kernel, Illegal { state, transition }).into()
        })
    }

    /// Takes a space out of the list, which may need one of its frames no more, and its roots out of
    /// Xen's hands.
    #[track_caller]
    fn retire(&mut self, space: Roots) -> Result<Option<Frame>, MmError> {
        let place = self.check_left(space)?;
        // What is queued may be for its roots, whose entries are counted as they stand.
        self.flush()?;
        self.lazily(|tables| {
            for root in space.both() {
                // One may have been unpinned by an attempt that failed.
                if tables.frames().states(root)?.1.pinned {
                    // SAFETY: a space that is neither the current one nor worked on.
                    unsafe { tables.unpin(root) }?;
                }
            }
            Ok(())
        })?;
        // From here on Xen knows the tables below no more, and records may follow.
        self.flush()?;
        let mut spaces = self.domain().spaces.lock();
        Ok(spaces.remove(self.machine(), place))
    }

    /// Gives back the tables of a space that Xen knows no more, and the list's frame.
    #[track_caller]
    fn give_back_tables(&mut self, space: Roots, listed: Option<Frame>) -> Result<(), MmError> {
        listed.map_or(Ok(()), |frame| self.free_frame(frame))?;
        self.lazily(|tables| {
            let mut roots = space.both();
            roots.try_for_each(|root| tables.dissolve(root, tables.fold().top()))
        })?;
        self.flush()
    }

    /// Gives back a table that nothing refers to, and those that only it referred to: Xen lets go
    /// of them with it.
    fn dissolve(&mut self, table: Pfn, level: u8) -> Result<(), MmError> {
        if !self.unreferenced(table)? {
            return Ok(());
        }
        let top = self.fold().top();
        let last = if level == top { UPPER_HALF } else { 512 };
        // SAFETY: a table that is not released yet is nobody's own memory.
        let live = unsafe { self.machine().live(table) };
        let live = live.filter(|_| level > 1).map(|live| live.split_at(last).0);
        let present = live
            .iter()
            .flat_map(|live| live.present_from(0).map(|i| live.get(i)));
        for word in present {
            let entry = Entry::<L2>::from_table(word);
            let Some(value) = self.value(entry).filter(|v| self.is_recorded_table(v.pfn)) else {
                continue;
            };
            if level < top {
                // Those below a root lost their reference with its pin, these with their parent.
                self.frames().transition(value.pfn, Transition::Unlink)?;
            }
            self.dissolve(value.pfn, level - 1)?;
        }
        if level == 1 {
            self.uncount_entries(table, 512);
        }
        self.release_table(table)
    }

    /// Every space: the first one and those created since.
    pub(super) fn spaces(&self) -> impl Iterator<Item = Roots> + use<M> {
        let domain = self.domain();
        let space = |place| domain.spaces.lock().get(domain.machine(), place);
        let created = (0..).map_while(space);
        core::iter::once(self.boot_space().roots()).chain(created)
    }

    /// The space that boot ran in: the kernel's own, without a user half. It is there to be switched
    /// to and worked on, always, and so for everybody who asks: it is never destroyed.
    pub fn boot_space(&self) -> AddressSpace {
        AddressSpace::new(Roots {
            kernel: self.boot_root,
            user: None,
        })
    }
}
