//! What vCPUs remember, and what of it the tables no longer say: a flush that was not asked for, or
//! that reached too few.
//!
//! Between a change of an entry and its flush a guest may leave this so, as long as nobody relies on
//! the change. Whoever has flushed everything asks [`Model::stale`], and finds nothing.

use std::fmt;

use hypercall::Mfn;

use crate::{
    Mode, Model,
    entry::{NX, RW, U},
    state::State,
};

/// A translation that a vCPU remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// By whom.
    pub vcpu: usize,
    /// Accesses of which mode find it.
    pub mode: Mode,
    /// The page's address.
    pub va: u64,
    /// Where it leads.
    pub frame: Mfn,
    /// RW, U and NX, each for the whole way down.
    pub rights: u64,
}

/// A translation that a vCPU remembers and that its tables do not have, or not with these rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stale {
    /// What is remembered.
    pub old: Remembered,
    /// The frame and the rights that the tables have, if they map the page.
    pub new: Option<(Mfn, u64)>,
}

/// Rights as in a listing of a directory.
fn letters(rights: u64) -> [char; 3] {
    let letter = |set: bool, letter| if set { letter } else { '-' };
    [
        letter(rights & U != 0, 'r'),
        letter(rights & RW != 0, 'w'),
        letter(rights & NX == 0, 'x'),
    ]
}

fn write_frame(f: &mut fmt::Formatter<'_>, frame: Mfn, rights: u64) -> fmt::Result {
    let [r, w, x] = letters(rights);
    write!(f, "mfn {frame} {r}{w}{x}")
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Remembered {
            vcpu,
            mode,
            va,
            frame,
            rights,
        } = self.old;
        let mode = match mode {
            Mode::Kernel => "kernel",
            Mode::User => "user",
        };
        write!(f, "vCPU {vcpu} in {mode} mode, {va:#x}: remembers ")?;
        write_frame(f, frame, rights)?;
        f.write_str(", the tables have ")?;
        match self.new {
            Some((frame, rights)) => write_frame(f, frame, rights),
            None => f.write_str("nothing"),
        }
    }
}

impl State {
    /// Everything that any vCPU remembers, in no order.
    fn remembered(&self) -> impl Iterator<Item = Remembered> {
        let vcpus = self.vcpus.iter().enumerate();
        vcpus.flat_map(|(vcpu, state)| {
            state
                .tlb
                .all()
                .flat_map(move |(mode, page, frame, rights)| {
                    let user = state.user_l4.is_some();
                    let both = [Some(Mode::Kernel), user.then_some(Mode::User)];
                    let modes = mode.map_or(both, |mode| [Some(mode), None]);
                    modes.into_iter().flatten().map(move |mode| Remembered {
                        vcpu,
                        mode,
                        // Sign-extended, as addresses of the upper half are.
                        va: ((page << 12).cast_signed() << 16 >> 16).cast_unsigned(),
                        frame,
                        rights,
                    })
                })
        })
    }

    /// What the tables say, if it is less than what is remembered, or something else.
    fn contradiction(&self, old: &Remembered) -> Option<Stale> {
        let vcpu = &self.vcpus[old.vcpu];
        let root = match old.mode {
            Mode::Kernel => Some(vcpu.kernel_l4),
            Mode::User => vcpu.user_l4,
        };
        let new = root.and_then(|root| self.walk(root, old.va).page);
        let holds = new.is_some_and(|(frame, rights)| {
            let lost = old.rights & !rights & (RW | U) | rights & !old.rights & NX;
            frame == old.frame && lost == 0
        });
        let old = *old;
        (!holds).then_some(Stale { old, new })
    }
}

impl Model {
    /// Everything that any vCPU remembers, by vCPU, mode and address.
    pub fn remembered(&self) -> Vec<Remembered> {
        let mut all: Vec<_> = self.state.borrow().remembered().collect();
        all.sort_unstable_by_key(|one| (one.vcpu, one.mode as u8, one.va));
        all
    }

    /// What vCPUs remember that their tables contradict, by vCPU, mode and address. A right that the
    /// tables give and that is not remembered is none: a processor looks again before it faults.
    pub fn stale(&self) -> Vec<Stale> {
        let state = self.state.borrow();
        let mut all: Vec<_> = state
            .remembered()
            .filter_map(|old| state.contradiction(&old))
            .collect();
        all.sort_unstable_by_key(|stale| (stale.old.vcpu, stale.old.mode as u8, stale.old.va));
        all
    }
}
