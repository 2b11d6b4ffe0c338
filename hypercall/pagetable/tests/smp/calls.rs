//! A flush that reaches other vCPUs rides with what makes it necessary: an operation takes as many hypercalls
//! with four vCPUs in the space as with one.

use hypercall::Pfn;
use model::{Kind, Layout};
use pagetable::locks::Part;
use pagetable::spaces::AddressSpace;
use pagetable::user::OnWrite;
use pagetable::{Flags, MmError, Tables};

use super::common::{BASE, MIB, PAGE, small};
use super::cpus::{Cpus, Host};
use super::marks::QUIET;

const USER: u64 = 7 << 30;
/// As far away as a table covers.
const SPAN: u64 = 512 * PAGE;

/// The hypercalls of each operation, by what it is.
type Calls = Vec<(String, u64)>;

/// vCPUs that are all in one space, and what their operations take.
struct All {
    cpus: Cpus,
    space: AddressSpace,
    calls: Calls,
}

impl All {
    fn new(vcpus: usize) -> All {
        let layout = Layout {
            vcpus,
            ..small(Kind::DomU, 24 * MIB)
        };
        let mut cpus = Cpus::new(&layout, 0, vec![BASE], vcpus > 1, None).unwrap();
        cpus.others.script.set(Some(QUIET));
        let space = cpus.with(0, None, Tables::create_space).unwrap().unwrap();
        for vcpu in 0..vcpus {
            let switched = cpus.with(vcpu, Some(Part::Space(&space)), |tables| {
                // SAFETY: nothing that is in use lies in a user half.
                unsafe { tables.switch_space(&space) }
            });
            switched.unwrap().unwrap();
        }
        All {
            cpus,
            space,
            calls: Calls::new(),
        }
    }

    /// Carries out an operation, and counts.
    fn count(
        &mut self,
        what: String,
        va: u64,
        f: impl FnOnce(&mut Tables<Host>) -> Result<(), MmError>,
    ) {
        let part = match va >> 63 {
            0 => Part::Space(&self.space),
            _ => Part::KernelHalf,
        };
        let before = self.cpus.model.counters().traps;
        let done = self.cpus.with(0, Some(part), f);
        done.unwrap().unwrap_or_else(|e| panic!("{what}: {e}"));
        let calls = self.cpus.model.counters().traps - before;
        self.calls.push((what, calls));
    }

    /// Maps pages, takes rights, gives them back, moves and unmaps.
    fn pages(&mut self, va: u64, frames: &[Pfn], flags: Flags) {
        let (n, none, write) = (frames.len() as u64, Flags::empty(), Flags::WRITABLE);
        let to = va + 4 * SPAN + PAGE;
        let mut count = |what: &str, f: &dyn Fn(&mut Tables<Host>) -> Result<(), MmError>| {
            self.count(format!("{what} of {n} at {va:#x}"), va, |tables| f(tables));
        };
        count("map", &|tables| {
            let frames = frames.iter().copied();
            // SAFETY: the model's memory, in a range of the test's own.
            unsafe { tables.map(va, frames, flags) }?.commit(tables)
        });
        count("protect", &|tables| {
            // SAFETY: the model's memory, in a range of the test's own.
            unsafe { tables.protect(va, n, none, write) }?.commit(tables)
        });
        count("protect back", &|tables| {
            // SAFETY: the model's memory, in a range of the test's own.
            unsafe { tables.protect(va, n, write, none) }?.commit(tables)
        });
        count("move", &|tables| {
            // SAFETY: the model's memory, in a range of the test's own.
            unsafe { tables.move_pages(va, to, n) }?.commit(tables)
        });
        count("unmap", &|tables| {
            // SAFETY: the model's memory, in a range of the test's own.
            unsafe { tables.unmap(to, n) }?.commit(tables)
        });
    }

    /// What programs do.
    fn programs(&mut self, pages: u64) {
        let flags = Flags::DATA | Flags::USER;
        self.count(format!("program's map of {pages}"), USER, |tables| {
            tables.map_user(USER, pages, flags, |_, _| {})
        });
        let mut child = None;
        let space = &self.space;
        let before = self.cpus.model.counters().traps;
        let forked = self.cpus.with(0, Some(Part::Space(space)), |tables| {
            child = Some(tables.fork_space(space)?);
            Ok::<_, MmError>(())
        });
        forked.unwrap().unwrap();
        let calls = self.cpus.model.counters().traps - before;
        self.calls.push((format!("fork of {pages}"), calls));
        self.count(format!("write to a copy of {pages}"), USER, |tables| {
            tables.make_writable(USER, OnWrite::Copy)
        });
        let ended = self.cpus.with(0, Some(Part::KernelHalf), |tables| {
            tables.destroy_space(child.take().unwrap())
        });
        ended.unwrap().unwrap();
        self.count(
            format!("write to the last of {pages}"),
            USER + PAGE,
            |tables| tables.make_writable(USER + PAGE, OnWrite::Copy),
        );
        self.count(format!("program's unmap of {pages}"), USER, |tables| {
            tables.unmap_user(USER, pages)
        });
    }
}

/// What the operations take with so many vCPUs, on memory that is mapped with these rights.
fn calls(vcpus: usize, flags: Flags) -> Calls {
    let mut all = All::new(vcpus);
    let frames = all.cpus.with(0, None, |tables| {
        let frames = (0..512).map(|_| tables.alloc_frame().unwrap().pfn());
        frames.collect::<Vec<_>>()
    });
    let frames = frames.unwrap();
    for n in [1, 3, 20, 128, 512] {
        all.pages(BASE, &frames[..n], flags);
        all.pages(USER, &frames[..n], flags | Flags::USER);
    }
    [2, 20, 400]
        .into_iter()
        .for_each(|pages| all.programs(pages));
    all.calls
}

#[test]
fn hypercalls_do_not_grow_with_vcpus() {
    let alone = calls(1, Flags::DATA);
    assert_eq!(alone.len(), 50 + 15);
    assert_eq!(calls(2, Flags::DATA), alone);
    assert_eq!(calls(4, Flags::DATA), alone);
}

/// Where others may set A or D in a table that is replaced, what they have set comes in a batch of its own,
/// however many they are.
#[test]
fn marks_that_may_come_take_one_more() {
    let clean = Flags::DATA - Flags::ACCESSED - Flags::DIRTY;
    let (alone, two) = (calls(1, clean), calls(2, clean));
    assert_eq!(calls(4, clean), two);
    let grown = alone
        .iter()
        .zip(&two)
        .filter(|(alone, two)| two.1 > alone.1);
    let more: Vec<_> = grown
        .map(|(alone, two)| (&two.0, two.1 - alone.1))
        .collect();
    assert!(more.iter().all(|(_, more)| *more == 1), "{more:?}");
    let replaced = |what: &str| what.contains("of 128") || what.contains("of 512");
    assert!(more.iter().all(|(what, _)| replaced(what)), "{more:?}");
    assert_eq!(more.len(), 4 * 2, "{more:?}");
}
