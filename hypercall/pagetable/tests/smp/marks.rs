//! A and D bits that one vCPU sets while another changes what is mapped: whatever is done, and whenever
//! the access comes, the entry that the page has afterwards tells of it.

use hypercall::Pfn;
use model::{Access, Kind, Layout};
use pagetable::fuzz::in_table;
use pagetable::locks::Part;
use pagetable::spaces::AddressSpace;
use pagetable::user::OnWrite;
use pagetable::{Flags, MmError, Tables};

use super::common::{BASE, MIB, PAGE, small};
use super::cpus::{Cpus, Host, Plant, Script};

/// Bytes that a table covers.
const SPAN: u64 = 512 * PAGE;
const USER: u64 = 7 << 30;
/// Memory that nobody has used yet.
const CLEAN: Flags = Flags::PRESENT
    .union(Flags::WRITABLE)
    .union(Flags::NO_EXECUTE);
/// Pages that are mapped: with their whole table something can be done that pays.
const PAGES: usize = 128;

/// What is done with the pages from an address on.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// So many lose the right to write.
    Protect(u64),
    /// So many are unmapped, the first of them that: the others may get another table.
    Unmap(u64, u64),
    /// So many move to an address so many bytes further on.
    Move(u64, u64),
    /// So many lose A.
    Aged(u64),
    Young,
    ReadOnly,
    Taken,
}

/// An access that does not come.
pub(super) const QUIET: Script = Script {
    points: usize::MAX,
    vcpu: 1,
    va: 0,
    access: Access::Read,
    done: false,
};

use Change::{Aged, Move, Protect, ReadOnly, Taken, Unmap, Young};

const ALL: [Change; 17] = [
    Protect(1),
    Protect(3),
    Protect(20),
    Protect(120),
    Protect(64),
    Unmap(0, 120),
    Unmap(4, 120),
    Unmap(1, 1),
    Move(1, 4 * SPAN + PAGE),
    Move(7, 4 * SPAN),
    Move(50, 4 * SPAN + 9 * PAGE),
    Move(512, 4 * SPAN),
    Aged(3),
    Aged(120),
    Young,
    ReadOnly,
    Taken,
];

impl Change {
    /// Carries it out.
    fn make(self, tables: &mut Tables<Host>, va: u64) -> Result<Flags, MmError> {
        // SAFETY: the model's memory, in a range that is the test's own.
        let change = unsafe {
            match self {
                Protect(pages) => tables.protect(va, pages, Flags::empty(), Flags::WRITABLE),
                Aged(pages) => tables.protect(va, pages, Flags::empty(), Flags::ACCESSED),
                Unmap(first, pages) => tables.unmap(va + first * PAGE, pages),
                Move(pages, by) => tables.move_pages(va, va + by, pages),
                Young => {
                    tables.ptep_test_and_clear_young(va)?;
                    return Ok(Flags::empty());
                }
                ReadOnly => return tables.ptep_set_wrprotect(va).map(|()| Flags::empty()),
                Taken => return tables.ptep_get_and_clear(va).map(|entry| entry.flags()),
            }
        }?;
        // SAFETY: what is used of the range meanwhile may be the old or the new.
        unsafe { change.defer() };
        Ok(Flags::empty())
    }

    /// Where a page is afterwards, if anywhere.
    fn place(self, va: u64, page: u64) -> Option<u64> {
        match self {
            Unmap(first, pages) if (first..first + pages).contains(&page) => None,
            Taken if page == 0 => None,
            Move(pages, by) if page < pages => Some(va + by + page * PAGE),
            _ => Some(va + page * PAGE),
        }
    }

    /// Whether it leaves bits as they were, if nobody uses the page.
    fn is_exact(self, page: u64) -> bool {
        match self {
            Move(pages, _) => pages == 512 || page >= pages,
            // Xen takes no bit and keeps the other, and tells of none.
            Taken => page != 0,
            // Of pages that were used.
            Young | Aged(_) => false,
            _ => true,
        }
    }
}

/// Two vCPUs, memory, and a space that both are in.
struct Two {
    cpus: Cpus,
    frames: Vec<Pfn>,
    space: AddressSpace,
}

impl Two {
    fn new(plant: Option<Plant>) -> Two {
        let layout = Layout {
            vcpus: 2,
            survive_crash: true,
            ..small(Kind::DomU, 16 * MIB)
        };
        let mut cpus = Cpus::new(&layout, 0, vec![BASE], true, plant).unwrap();
        let frames = cpus.with(0, None, |tables| {
            let frames = (0..PAGES).map(|_| tables.alloc_frame().unwrap().pfn());
            frames.collect()
        });
        let space = cpus.with(0, None, Tables::create_space).unwrap().unwrap();
        cpus.others.script.set(Some(QUIET));
        for vcpu in 0..2 {
            let switched = cpus.with(vcpu, Some(Part::Space(&space)), |tables| {
                // SAFETY: nothing that is in use lies in a user half.
                unsafe { tables.switch_space(&space) }
            });
            switched.unwrap().unwrap();
        }
        Two {
            cpus,
            frames: frames.unwrap(),
            space,
        }
    }

    fn with<R>(&mut self, va: u64, f: impl FnOnce(&mut Tables<Host>) -> Result<R, MmError>) -> R {
        let part = match va >> 63 {
            0 => Part::Space(&self.space),
            _ => Part::KernelHalf,
        };
        let done = self.cpus.with(0, Some(part), f);
        done.unwrap().unwrap()
    }

    /// Forks the space, and writes to its first page, which takes a copy of the table, as the other vCPU
    /// reads the second.
    fn copy_shared(&mut self, pages: u64, points: usize) -> Seen {
        let Two { cpus, space, .. } = self;
        let script = Script {
            points,
            vcpu: 1,
            va: USER + PAGE,
            access: Access::Read,
            done: false,
        };
        let others = cpus.others.clone();
        let mut done = |f: &mut dyn FnMut(&mut Tables<Host>) -> Result<(), MmError>| {
            let done = cpus.with(0, Some(Part::Space(space)), |tables| f(tables));
            done.unwrap().unwrap();
        };
        done(&mut |tables| tables.map_user(USER, pages, CLEAN | Flags::USER, |_, _| {}));
        let mut child = None;
        done(&mut |tables| {
            child = Some(tables.fork_space(space)?);
            Ok(())
        });
        others.script.set(Some(script));
        done(&mut |tables| tables.make_writable(USER, OnWrite::Copy));
        let script = others.script.take().unwrap();
        others.script.set(Some(QUIET));
        let marks = in_table(self.cpus.of(1), script.va).unwrap().flags();
        let destroyed = self.cpus.with(0, Some(Part::KernelHalf), |tables| {
            tables.destroy_space(child.take().unwrap())
        });
        destroyed.unwrap().unwrap();
        self.with(USER, |tables| tables.unmap_user(USER, pages));
        Seen::of(script, marks, Flags::ACCESSED)
    }

    /// Makes a change, with an access of the other vCPU so many points after its beginning; the bits of
    /// the page that it used afterwards, and whether it was allowed and came at all.
    fn run(&mut self, change: Change, va: u64, lazy: bool, page: u64, script: Script) -> Seen {
        let user = if va >> 63 == 0 {
            Flags::USER
        } else {
            Flags::empty()
        };
        let frames = self.frames.clone();
        self.with(va, |tables| {
            // SAFETY: the model's memory, where nothing is mapped.
            unsafe { tables.map(va, frames.into_iter(), CLEAN | user) }?.commit(tables)
        });
        // Young ones are those that were used.
        if matches!(change, Young | Aged(_)) {
            for va in (va..).step_by(PAGE as usize).take(PAGES) {
                let model = &self.cpus.model;
                let used = model.access(va, Access::Read, model::Mode::Kernel);
                used.unwrap();
            }
        }
        let (others, model) = (self.cpus.others.clone(), self.cpus.model.clone());
        others.script.set(Some(script));
        let returned = self.with(va, |tables| {
            if !lazy {
                let flags = change.make(tables, va)?;
                tables.flush()?;
                return Ok(flags);
            }
            tables.lazily(|tables| {
                let flags = change.make(tables, va);
                others.pass(&model);
                flags
            })
        });
        let script = self.cpus.others.script.take().unwrap();
        self.cpus.others.script.set(Some(QUIET));
        let marks = match change.place(va, page) {
            Some(at) => {
                let entry = in_table(self.cpus.of(0), at);
                entry
                    .unwrap_or_else(|| panic!("{change:?}: no entry at {at:#x}"))
                    .flags()
            }
            None => returned,
        };
        self.with(va, |tables| {
            // SAFETY: the model's memory, in ranges that are the test's own.
            unsafe { tables.unmap(va, 512) }?.commit(tables)?;
            // SAFETY: the model's memory, in the ranges to which the test moves pages.
            unsafe { tables.unmap(va + 4 * SPAN, 1024) }?.commit(tables)
        });
        let mut wanted = Flags::ACCESSED;
        wanted.set(Flags::DIRTY, script.access == Access::Write);
        // One is what is taken.
        wanted.set(Flags::ACCESSED, !matches!(change, Young | Aged(_)));
        Seen::of(script, marks, wanted)
    }
}

/// What came of an access.
#[derive(Debug)]
struct Seen {
    /// Its time came.
    came: bool,
    /// It was allowed.
    used: bool,
    /// What the entry says afterwards, of A and D.
    marks: Flags,
    /// What it must say.
    wanted: Flags,
}

impl Seen {
    fn of(script: Script, marks: Flags, wanted: Flags) -> Seen {
        Seen {
            came: script.points > usize::MAX / 2,
            used: script.done,
            marks: marks & (Flags::ACCESSED | Flags::DIRTY),
            wanted,
        }
    }
}

/// What is lost of what another vCPU sets, first of all: whatever is done, in the kernel's half and in a
/// user half, now or in a lazy section, and whenever the access comes. Where none came no bit may be set.
fn lost(plant: Option<Plant>) -> Result<u64, String> {
    let mut two = Two::new(plant);
    let mut used = 0;
    let places = [(BASE, false), (BASE, true), (USER, false), (USER, true)];
    let accesses = [
        (0, Access::Write),
        (0, Access::Read),
        (PAGES as u64 - 1, Access::Write),
    ];
    for change in ALL {
        for (va, lazy) in places {
            for (page, access) in accesses {
                for points in 0.. {
                    let script = Script {
                        points,
                        vcpu: 1,
                        va: va + page * PAGE,
                        access,
                        done: false,
                    };
                    let seen = two.run(change, va, lazy, page, script);
                    let Seen { marks, wanted, .. } = seen;
                    let is_gone = matches!(change, Unmap(..)) && change.place(va, page).is_none();
                    let holds = match seen.came {
                        true => !seen.used || marks.contains(wanted),
                        false => marks.is_empty() || !change.is_exact(page),
                    };
                    if !holds && !is_gone {
                        return Err(format!(
                            "{change:?} at {va:#x}, page {page}, {access:?} at {points}: {seen:?}"
                        ));
                    }
                    used += u64::from(seen.used);
                    if !seen.came {
                        break;
                    }
                }
            }
        }
    }
    Ok(used)
}

#[test]
fn no_mark_is_lost() {
    let used = lost(None).unwrap();
    assert!(used > 300, "only {used} accesses were allowed");
}

/// Without what keeps them they are lost, and it is found: in single entries, and in tables.
#[test]
fn lost_marks_are_found() {
    let single = lost(Some(Plant::PlainWrites)).unwrap_err();
    assert!(single.starts_with("Protect(1) at "), "{single}");
    let table = lost(Some(Plant::MarksUnread)).unwrap_err();
    assert!(table.starts_with("Protect(120) at "), "{table}");
}

/// Of a table that is shared after a fork another vCPU of the space may use any page while this one puts a
/// copy in its place: the copy says which.
#[test]
fn a_copy_of_a_shared_table_keeps_them() {
    for (plant, pages) in [(None, 5), (None, 300), (Some(Plant::MarksUnread), 300)] {
        let mut two = Two::new(plant);
        let (mut used, mut lost) = (0, 0);
        for points in 0.. {
            let seen = two.copy_shared(pages, points);
            if !seen.came {
                break;
            }
            used += u64::from(seen.used);
            lost += u64::from(seen.used && !seen.marks.contains(seen.wanted));
        }
        assert!(used > 3, "only {used} accesses were allowed");
        assert_eq!(lost > 0, plant.is_some(), "{lost} of {used}, {pages} pages");
    }
}
