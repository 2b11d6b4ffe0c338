//! References to tables by entries that are written again and again in one queue, while Xen refuses
//! some of the writes: the record counts those that stand.

use crate::common::{BASE, MIB, PAGE, World, expect, small};
use hypercall::mmu::Scope;
use hypercall::{Errno, ExtOp, Op, Pfn};
use model::{Injection, Kind};
use pagetable::entry::{L2, Pmd};
use pagetable::fuzz::{Mode, mode, queued};
use pagetable::tables::Place;
use pagetable::{Flags, MmError, Value};

const SPAN: u64 = 512 * PAGE;

/// What an entry is to refer to.
#[derive(Clone, Copy, Debug)]
enum To {
    Nothing,
    One,
    /// The same table, with other rights.
    OneNoExecute,
    Two,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    /// Writes the first entry, or the second.
    Set(usize, To),
    /// The same in an interrupt handler.
    Handle(usize, To),
    /// Queues an operation, which what comes later does not overtake: a list of its own, after which
    /// Xen goes on whatever it refused before.
    Operation,
}

const ACTS: [Act; 12] = [
    Act::Set(0, To::Nothing),
    Act::Set(0, To::One),
    Act::Set(0, To::OneNoExecute),
    Act::Set(0, To::Two),
    Act::Set(1, To::Nothing),
    Act::Set(1, To::One),
    Act::Set(1, To::Two),
    Act::Handle(0, To::Nothing),
    Act::Handle(0, To::One),
    Act::Handle(0, To::OneNoExecute),
    Act::Handle(0, To::Two),
    Act::Operation,
];

/// Two entries that are written, and two that refer to a table each all the time: no table is ever
/// without a reference.
struct Bench {
    world: World,
    entries: [Place<L2>; 4],
    tables: [Pfn; 2],
}

impl Bench {
    fn new() -> Bench {
        let mut world = World::fast(&small(Kind::DomU, 16 * MIB)).populated();
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| BASE + i * SPAN);
        for va in [c, d] {
            world.tables.ensure_pte_table(va).unwrap();
        }
        let entries = [a, b, c, d].map(|va| world.tables.pmd_slot(va).unwrap().place());
        let tables = [c, d].map(|va| {
            let entry = world.tables.get(world.tables.pmd_slot(va).unwrap());
            world.tables.pmd_val(entry).unwrap().pfn
        });
        Bench {
            world,
            entries,
            tables,
        }
    }

    fn set(&mut self, entry: usize, to: To) -> Result<(), MmError> {
        let [one, two] = self.tables;
        let make = |pfn, flags| self.world.tables.make_pmd(Value::new(pfn, flags));
        let value = match to {
            To::Nothing => Pmd::NONE,
            To::One => make(one, Flags::TABLE)?,
            To::OneNoExecute => make(one, Flags::TABLE | Flags::NO_EXECUTE)?,
            To::Two => make(two, Flags::TABLE)?,
        };
        // SAFETY: nothing is mapped below.
        unsafe { self.world.tables.set_pmd(self.entries[entry], value) }
    }

    fn act(&mut self, act: Act) -> Result<(), MmError> {
        match act {
            Act::Set(entry, to) => self.set(entry, to),
            Act::Handle(entry, to) => {
                self.world.mode(Mode::EnterInterrupt);
                let result = self.set(entry, to);
                self.world.mode(Mode::LeaveInterrupt);
                result
            }
            Act::Operation => {
                let op = ExtOp::TlbFlush(Scope::Local);
                // SAFETY: it changes no mapping.
                Ok(unsafe { self.world.tables.mmu().ext(op, 0) }?)
            }
        }
    }

    /// How many entries refer to a table as they stand, by what Xen counts and by the record.
    fn agree(&self, what: &str) {
        for pfn in self.tables {
            let mfn = self.world.tables.mfn(pfn).unwrap();
            let refer = |place: &&Place<L2>| {
                // SAFETY: no table that an entry lies in goes.
                unsafe { self.world.tables.get_at(**place) }.mfn() == Some(mfn)
            };
            let links = self.entries.iter().filter(refer).count() as u16;
            let (applied, planned) = self.world.tables.frames().states(pfn).unwrap();
            let counted = self.world.model.frame(mfn).unwrap().type_count;
            assert_eq!((links.into(), applied), (counted, planned), "{what}");
            assert_eq!(links, applied.links, "{what}");
        }
    }

    /// Carries out a sequence in a lazy section with one failure. False if none was met.
    fn fails(&mut self, acts: &[Act], failure: Injection) -> bool {
        let what = format!("{acts:?}, {failure:?}");
        for (entry, to) in [(0, To::One), (1, To::Nothing)] {
            self.set(entry, to).unwrap();
        }
        self.world.model.inject(failure);
        self.world.mode(Mode::Enter);
        let mut result = Ok(());
        for &act in acts {
            result = result.and(self.act(act));
        }
        let result = result.and(mode(&mut self.world.tables, Mode::Leave));
        let met = self.world.model.clear_injections() == 0;
        assert_eq!(result.is_err(), met, "{what}: {result:?}");
        assert_eq!(queued(&self.world.tables), (0, false), "{what}");
        self.agree(&what);
        met
    }
}

/// All sequences to a depth, each request of each refused once.
fn all(bench: &mut Bench, acts: &mut Vec<Act>, depth: usize) -> u64 {
    let mut runs = 0;
    for act in ACTS {
        acts.push(act);
        for index in 0..acts.len() as u32 {
            let mut nth = 1;
            loop {
                let refusal = Injection::request(Op::MmuUpdate, index, Errno::ENOMEM);
                if !bench.fails(acts, Injection { nth, ..refusal }) {
                    break;
                }
                (nth, runs) = (nth + 1, runs + 1);
            }
        }
        if acts.len() < depth {
            runs += all(bench, acts, depth);
        }
        acts.pop();
    }
    runs
}

#[test]
fn the_record_counts_the_references_that_stand_whatever_is_refused() {
    let mut bench = Bench::new();
    let runs = all(&mut bench, &mut vec![], 4);
    assert!(runs > 30_000, "{runs}");
    expect::sound(&bench.world);
}

/// A table with two references, of which one was refused, still has the other after the refused one
/// is taken back: it is not released while an entry refers to it.
#[test]
fn a_refused_reference_is_not_dropped() {
    for act in [Act::Handle(1, To::Nothing), Act::Set(1, To::Nothing)] {
        let mut bench = Bench::new();
        bench.world.mode(Mode::Enter);
        bench.act(Act::Set(1, To::One)).unwrap();
        bench.act(Act::Operation).unwrap();
        let refusal = Injection::request(Op::MmuUpdate, 0, Errno::ENOMEM);
        bench.world.model.inject(refusal);
        let acted = bench.act(act);
        let left = mode(&mut bench.world.tables, Mode::Leave);
        assert!(matches!(acted.and(left), Err(MmError::Flush(_))));
        let [table, _] = bench.tables;
        let (state, _) = bench.world.tables.frames().states(table).unwrap();
        assert_eq!(state.links, 1, "{act:?}");
        expect::sound(&bench.world);
    }
}
