//! The order in which locks are taken, written once.
//!
//! Each kind of lock has a rank, its place in the list at the end of this file. A vCPU takes only locks
//! that come behind all that it holds; so no two vCPUs wait for each other, whatever else they do. The
//! lock ([`crate::lock`]) looks at that each time one is taken, in every build: what is out of order is a
//! panic that names both locks and both places, the first time it happens, and not a hang the one time
//! that two vCPUs meet.

use core::panic::Location;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// A kind of lock.
pub trait Rank {
    /// Its place in the order, below 64.
    const NUMBER: u32;
}

/// What a vCPU holds: at most one lock of each rank, as ranks ascend. Only the vCPU itself looks here, and
/// it has upcalls masked while it holds anything.
pub(crate) struct Held {
    /// A bit for each rank.
    ranks: AtomicU64,
    /// Where each was taken.
    places: [AtomicPtr<Location<'static>>; Order::COUNT],
}

impl Held {
    /// Nothing.
    pub(crate) const fn nothing() -> Held {
        Held {
            ranks: AtomicU64::new(0),
            places: [const { AtomicPtr::new(ptr::null_mut()) }; Order::COUNT],
        }
    }

    /// Whether a lock of this rank may be waited for: all that is held comes before it.
    #[inline]
    pub(crate) fn admits(&self, rank: u32) -> bool {
        self.ranks.load(Ordering::Relaxed) < 1 << rank
    }

    /// Whether a lock of this rank is held.
    #[inline]
    pub(crate) fn has(&self, rank: u32) -> bool {
        self.ranks.load(Ordering::Relaxed) >> rank & 1 == 1
    }

    /// Notes that a lock was taken, of a rank of which none is held.
    #[inline]
    pub(crate) fn add(&self, rank: u32, place: &'static Location<'static>) {
        let ranks = self.ranks.load(Ordering::Relaxed) | 1 << rank;
        self.ranks.store(ranks, Ordering::Relaxed);
        self.places[rank as usize].store(ptr::from_ref(place).cast_mut(), Ordering::Relaxed);
    }

    /// Notes that a lock is given back.
    #[inline]
    pub(crate) fn remove(&self, rank: u32) {
        let ranks = self.ranks.load(Ordering::Relaxed) & !(1 << rank);
        self.ranks.store(ranks, Ordering::Relaxed);
    }

    /// Notes that nothing is held: for the report that ends the domain.
    #[cfg(any(target_os = "none", all(test, feature = "interleavings")))]
    pub(crate) fn forget(&self) {
        self.ranks.store(0, Ordering::Relaxed);
    }

    /// Where a lock of this rank was taken, if one is held.
    pub(crate) fn place(&self, rank: u32) -> Option<&'static Location<'static>> {
        let place = self.places.get(rank as usize).filter(|_| self.has(rank))?;
        // SAFETY: what is stored here are references that live for good.
        unsafe { place.load(Ordering::Relaxed).as_ref() }
    }

    /// The name of the last in the order that is held, and where it was taken.
    pub(crate) fn last(&self) -> Option<(&'static str, &'static Location<'static>)> {
        let rank = self.ranks.load(Ordering::Relaxed).checked_ilog2()?;
        Some((name(rank), self.place(rank)?))
    }
}

/// The name of a rank.
pub(crate) fn name(rank: u32) -> &'static str {
    Order::NAMES
        .get(rank as usize)
        .copied()
        .unwrap_or("unknown")
}

/// Makes a type of each name, in their order.
macro_rules! ranks {
    ($($(#[$about:meta])* $name:ident,)*) => {
        enum Order { $($name,)* }

        impl Order {
            const NAMES: &'static [&'static str] = &[$(stringify!($name),)*];
            const COUNT: usize = Order::NAMES.len();
        }

        const _: () = assert!(Order::COUNT <= u64::BITS as usize);

        $(
            $(#[$about])*
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}

            impl Rank for $name {
                const NUMBER: u32 = Order::$name as u32;
            }
        )*
    };
}

ranks! {
    /// What a program has mapped. A page of a file may be read under it.
    Areas,
    /// The processes, and whose child each is.
    Tree,
    /// What a process has: which memory, descriptors, name, program.
    Process,
    /// The registers of a program's thread beside the general ones.
    ThreadRegisters,
    /// What else such a thread has.
    Thread,
    /// What a process does about signals, and what is known of those that wait.
    Signals,
    /// The kernel threads that run programs, as they are made.
    Programs,
    /// Those who wait for a word of a program's memory.
    Futexes,
    /// What wakes one of them, and for which word it waits.
    FutexWaker,
    /// The file system of programs.
    Files,
    /// Their terminal.
    Screen,
    /// Who waits for a time in a file.
    FileTimers,
    /// A page of a file.
    FilePage,
    /// Random numbers.
    Random,
    /// What is known of Xen's tools: how much memory they want the domain to have, the connection to
    /// xenstore.
    Tools,
    /// What the checks put together.
    Check,
    /// The vCPUs besides the boot vCPU, what each has to do, and the pages in which processors begin.
    Cpus,
    /// Where Xen says how each vCPU spends its time.
    Runstates,
    /// Who is called when a port is raised.
    Events,
    /// The words of ports that Xen has, which take page tables to grow, and where a vCPU is in its queues.
    EventWords,
    /// The stacks that nobody uses.
    Stacks,
    /// What a thread leaves when it ends, and who waits for that.
    Task,
    /// All threads.
    Threads,
    /// What vCPUs have each other call.
    Mailbox,
    /// The times of a vCPU.
    Timers,
    /// The threads that wait for a vCPU.
    RunQueue,
    /// The heap, which takes page tables to grow.
    Heap,
    /// The page tables as one vCPU works with them, and behind them those that it shares with others.
    Tables,
    /// What the checks note while they use page tables, or in a handler.
    Noted,
    /// What the log shows.
    LogFilter,
    /// The console.
    Console,
    /// Who sees traps first: a trap may come wherever memory is probed.
    TrapObserver,
    /// Who asks other processors to forget translations, which may be wherever tables change.
    Summons,
}
