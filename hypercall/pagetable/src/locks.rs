//! Which tables a vCPU works on, where several do so side by side.
//!
//! The kernel's half of the address space is one part, the user half of each space another. A vCPU
//! *holds* the part that it works on ([`Tables::hold`]), and lets go of it only when nothing of its
//! own is queued ([`Tables::let_go`]): nobody who comes after it finds tables unlike what a queue
//! says. In a lazy section it therefore keeps what it holds from one use to the next. Before it
//! waits for another vCPU, whatever for, it sends what is queued and lets go
//! ([`Tables::send_and_let_go`]), so that no two wait for each other.
//!
//! User halves come before the kernel's: the direct map grows in the midst of everything. Its
//! entries need no lock, as that of a frame is its holder's to change, and its tables stay for good.
//!
//! Until a domain is shared ([`Tables::share`]) no lock is taken.

use core::sync::atomic::Ordering;

use hypercall::Pfn;
use lock_api::RawMutex;

use crate::domain::Domain;
use crate::error::MmError;
use crate::layout::Layout;
use crate::machine::Machine;
use crate::spaces::AddressSpace;
use crate::tables::{Recent, Tables};

/// Locks of user halves. Spaces whose roots have the same number modulo this share one, which costs
/// them nothing but waiting.
pub(super) const USER_LOCKS: usize = 16;

/// What a vCPU works on.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// The kernel's half, which is the same in every space.
    KernelHalf,
    /// The user half of a space.
    Space(&'a AddressSpace),
    /// The user halves of two.
    Both(&'a AddressSpace, &'a AddressSpace),
    /// All tables of the domain.
    All,
}

/// The parts that a vCPU holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    kernel: bool,
    /// A bit for each lock of user halves.
    users: u16,
}

const _: () = assert!(USER_LOCKS == u16::BITS as usize);

impl Held {
    pub(super) const NOTHING: Held = Held {
        kernel: false,
        users: 0,
    };
    const ALL: Held = Held {
        kernel: true,
        users: u16::MAX,
    };

    fn of(part: Part<'_>) -> Held {
        match part {
            Part::KernelHalf => Held {
                kernel: true,
                users: 0,
            },
            Part::Space(space) => Held::users_of(space.roots().kernel),
            Part::Both(one, other) => {
                let (one, other) = (one.roots().kernel, other.roots().kernel);
                Held {
                    kernel: false,
                    users: Held::users_of(one).users | Held::users_of(other).users,
                }
            }
            Part::All => Held::ALL,
        }
    }

    /// The user half of a space with this root.
    fn users_of(root: Pfn) -> Held {
        Held {
            kernel: false,
            users: 1 << (root.as_u64() % USER_LOCKS as u64),
        }
    }

    fn covers(self, other: Held) -> bool {
        self.kernel >= other.kernel && other.users & !self.users == 0
    }
}

/// Numbers of the locks that bits stand for.
fn numbers(bits: u16) -> impl Iterator<Item = usize> {
    (0..USER_LOCKS).filter(move |number| bits >> number & 1 == 1)
}

impl<M: Machine> Domain<M> {
    /// Whether vCPUs work side by side.
    #[inline]
    pub(super) fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }
}

impl<M: Machine> Tables<M> {
    /// Lets other vCPUs of the domain work side by side with this one, which holds all tables until
    /// it lets go.
    ///
    /// To be called by the only vCPU, before another [joins](Tables::join). What it has queued is sent:
    /// that was to be flushed here alone.
    ///
    /// # Errors
    /// As [`Tables::send_and_let_go`].
    pub fn share(&mut self) -> Result<(), MmError> {
        if !self.domain().is_shared() {
            self.send_own()?;
            self.domain().shared.store(true, Ordering::Release);
            // Those to come use memory before they join, and may have it cached.
            self.domain().count_vcpu();
            self.take(Held::ALL);
        }
        Ok(())
    }

    /// Waits until this vCPU may work on a part, in addition to what it holds.
    ///
    /// What comes before that in the order of locks is let go first, with what is queued: so a user
    /// half is to be asked for before the kernel's half, or with nothing in hand.
    ///
    /// # Errors
    /// Handlers are nested too deep for what is queued to be sent.
    #[inline]
    #[track_caller]
    pub fn hold(&mut self, part: Part<'_>) -> Result<(), MmError> {
        if self.domain().is_shared() {
            self.wait_for(Held::of(part))
        } else {
            Ok(())
        }
    }

    #[inline(never)]
    #[track_caller]
    fn wait_for(&mut self, wanted: Held) -> Result<(), MmError> {
        if !self.held.covers(wanted) {
            if wanted.users & !self.held.users != 0 {
                self.send_and_let_go()?;
            }
            if self.held == Held::NOTHING && wanted.users == 0 {
                core::mem::swap(&mut self.recent, &mut self.aside);
            }
            self.take(wanted);
        }
        Ok(())
    }

    /// Takes the locks that are missing, in their order.
    #[track_caller]
    fn take(&mut self, wanted: Held) {
        let domain = self.domain();
        for number in numbers(wanted.users & !self.held.users) {
            domain.user_halves[number].lock();
        }
        if wanted.kernel && !self.held.kernel {
            domain.kernel_half.lock();
        }
        self.held = Held {
            kernel: self.held.kernel || wanted.kernel,
            users: self.held.users | wanted.users,
        };
    }

    /// Lets go of what this vCPU holds, unless something is queued.
    #[inline]
    pub fn let_go(&mut self) {
        if self.held != Held::NOTHING && self.mmu.batch().is_empty() {
            self.release_locks();
        }
    }

    #[inline(never)]
    fn release_locks(&mut self) {
        self.apply_log();
        let domain = self.domain();
        let held = core::mem::replace(&mut self.held, Held::NOTHING);
        // What was found others may change from here on.
        let found = core::mem::replace(&mut self.recent, Recent::nothing());
        if held.users == 0 {
            self.aside = found;
        }
        if held.kernel {
            // SAFETY: it was locked when it was noted in `held`.
            unsafe { domain.kernel_half.unlock() };
        }
        for number in numbers(held.users) {
            // SAFETY: as it was noted in `held`, it is this vCPU that locked it.
            unsafe { domain.user_halves[number].unlock() };
        }
    }

    /// Sends what is queued and lets go of everything: before this vCPU waits for another. What Xen
    /// refuses is kept for the lazy section whose request it was, and returned by its next flush.
    ///
    /// # Errors
    /// Handlers are nested too deep.
    pub fn send_and_let_go(&mut self) -> Result<(), MmError> {
        self.send_own()?;
        self.let_go();
        Ok(())
    }

    /// Sends what is queued as an interrupt handler would find it sent.
    fn send_own(&mut self) -> Result<(), MmError> {
        if self.mmu.batch().is_empty() {
            return Ok(());
        }
        self.mmu.enter_irq()?;
        let sent = self.flush();
        self.mmu.leave_irq()?;
        sent
    }

    /// Whether this vCPU may work on parts: it holds them, or works alone.
    #[inline]
    fn may_use(&self, parts: Held) -> bool {
        !self.domain().is_shared() || self.held.covers(parts)
    }

    /// Refuses addresses of a part that this vCPU does not hold.
    #[inline]
    pub(super) fn check_held(&self, va: u64) -> Result<(), MmError> {
        let part = match va >> 63 {
            0 => Held::users_of(self.root()),
            _ if M::Layout::DIRECT.contains(&va) => Held::NOTHING,
            _ => Held::of(Part::KernelHalf),
        };
        let held = self.may_use(part);
        held.then_some(()).ok_or(MmError::NotHeld { va })
    }

    /// Refuses what looks at all tables unless this vCPU holds them.
    pub(super) fn check_holds_all(&self) -> Result<(), MmError> {
        let held = self.may_use(Held::ALL);
        held.then_some(()).ok_or(MmError::NotAlone)
    }

    /// Refuses a space whose user half this vCPU does not hold.
    pub(super) fn check_holds_users(&self, space: &AddressSpace) -> Result<(), MmError> {
        let held = self.may_use(Held::of(Part::Space(space)));
        held.then_some(()).ok_or(MmError::NotHeld { va: 0 })
    }

    /// Whether another vCPU may have translations of the user half of the space under work cached. One
    /// comes there with the half held.
    #[inline(never)]
    pub(super) fn others_run_there(&self) -> bool {
        let here = self.roots() == self.current_roots();
        self.domain().has_several_vcpus() && {
            let states = self.frames().states(self.root());
            // Each vCPU that runs in a space refers to its root.
            states.is_ok_and(|(_, planned)| planned.links > u16::from(here))
        }
    }
}
