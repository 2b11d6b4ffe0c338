//! A domain with several vCPUs that share its tables, in one of two ways: by turns, where what one has
//! queued is sent before another's turn; or side by side, where each holds what it works on, and keeps
//! that as long as something is queued. There is one thread here, so whoever would wait for another's
//! part does nothing instead, after it has let go, as the kernel does before it waits.
//!
//! Memory, though, all of them use at all times: around each hypercall of one the others read and write
//! pages, so that their TLBs fill while entries are half changed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hypercall::abi::mmu::{MMU_PT_UPDATE_PRESERVE_AD, MMUEXT_NEW_BASEPTR, mmu_update};
use hypercall::abi::mmu::{mmuext_op, mmuext_op_arg1, mmuext_op_arg2};
use hypercall::abi::multicall::multicall_entry;
use hypercall::abi::xen::DOMID_SELF;
use hypercall::{Hypervisor, Mfn, Op as Call, Pfn};
use lock_api::RawMutex;
use model::{Access, Layout, Mode, Model, RemoteFlushes};
use pagetable::fuzz::{Rng, queued};
use pagetable::locks::Part;
use pagetable::machine::{Live, Machine, Words};
use pagetable::spaces::AddressSpace;
use pagetable::takeover::Initial;
use pagetable::{Flags, MmError, Tables};

use super::common::layout::{DIRECT, Fixed, Regions};
use super::common::{ModelMachine, Own, PAGE, machine, start};

/// What every frame that is mapped says in its first word, with its number added.
pub(super) const NAME: u64 = 0x6e61_6d65_0000_0000;
/// The bits that processors set in entries.
const MARKS: u64 = 1 << 5 | 1 << 6;
/// Numbers of frames are lower.
pub(super) const NAMES: u64 = 1 << 20;

/// A fault in how vCPUs work together, for tests that show that it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plant {
    /// Only the vCPU that changes an entry forgets it.
    LocalFlush,
    /// A frame is free before the others have forgotten it.
    FreedBeforeFlush,
    /// What came true of one vCPU's queue is told to another's log.
    WrongLog,
    /// What one vCPU has queued is not sent before another's turn.
    QueueKept,
    /// Entries are written without a look at the bits that another vCPU has set in them.
    PlainWrites,
    /// A table that was replaced is not looked at again.
    MarksUnread,
}

/// The other vCPUs' use of memory while one makes hypercalls.
pub(super) struct Others {
    rng: RefCell<Rng>,
    /// Where pages are mapped and unmapped.
    spots: Vec<u64>,
    /// Frames that the window maps.
    frames: Cell<u64>,
    vcpus: usize,
    wrong: RefCell<Option<String>>,
    /// Instead of what chance says, one access at one time.
    pub(super) script: Cell<Option<Script>>,
}

/// One access of a vCPU, so many points of time from now: there is one before each hypercall and one
/// behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script {
    pub(super) points: usize,
    pub(super) vcpu: usize,
    pub(super) va: u64,
    pub(super) access: Access,
    /// Whether it was made and allowed.
    pub(super) done: bool,
}

impl Others {
    /// What was found that nobody may ever find.
    pub(super) fn wrong(&self) -> Option<String> {
        self.wrong.take()
    }

    /// A point of time passes.
    pub(super) fn pass(&self, model: &Model) {
        let Some(mut script) = self.script.get() else {
            return self.use_memory(model);
        };
        if script.points == 0 && !script.done {
            let running = model.current_vcpu();
            model.run_on(script.vcpu);
            let used = model.access(script.va, script.access, Mode::Kernel);
            script.done = used.is_ok();
            model.run_on(running);
        }
        script.points = script.points.wrapping_sub(1);
        self.script.set(Some(script));
    }

    fn use_memory(&self, model: &Model) {
        let mut rng = self.rng.borrow_mut();
        let running = model.current_vcpu();
        for _ in 0..rng.below(3) {
            let vcpu = rng.below(self.vcpus as u64) as usize;
            if vcpu == running || self.frames.get() == 0 {
                continue;
            }
            model.run_on(vcpu);
            let mode = [Mode::Kernel, Mode::User][usize::from(rng.below(4) == 0)];
            if rng.below(4) == 0 {
                // Any page of memory, as what is free or a table now may be something else soon.
                let window = DIRECT.start + rng.below(self.frames.get()) * PAGE;
                let access = [Access::Read, Access::Write][rng.below(2) as usize];
                let _ = model.access(window, access, mode);
                continue;
            }
            let va = self.spots[rng.below(self.spots.len() as u64) as usize];
            self.use_page(model, va, mode);
        }
        model.run_on(running);
    }

    /// Reads a page and writes back what it says.
    fn use_page(&self, model: &Model, va: u64, mode: Mode) {
        let Ok((frame, _)) = model.access(va, Access::Read, mode) else {
            return;
        };
        // SAFETY: the model's memory, which this thread alone uses.
        let word = unsafe { model.frame_ptr(frame).cast::<u64>().read() };
        if word.wrapping_sub(NAME) >= NAMES {
            let vcpu = model.current_vcpu();
            let words = format!("vCPU {vcpu} reads {word:#x} at {va:#x}, in mfn {frame}");
            self.wrong.borrow_mut().get_or_insert(words);
            return;
        }
        if let Ok((frame, _)) = model.access(va, Access::Write, mode) {
            // SAFETY: the model's memory, which this thread alone uses.
            unsafe { model.frame_ptr(frame).cast::<u64>().write(word) };
        }
    }
}

/// The hypervisor as a vCPU reaches it while the others run.
#[derive(Clone)]
pub(super) struct Xen {
    model: Rc<Model>,
    others: Rc<Others>,
    plant: Option<Plant>,
}

impl Xen {
    /// Makes the updates of a list that are to preserve bits plain ones.
    fn make_plain(&self, op: Call, args: [u64; 5]) {
        let [list, count, ..] = args;
        if op == Call::Multicall {
            let calls = list as *const multicall_entry;
            for call in 0..count as usize {
                // SAFETY: a list of so many calls, which this thread alone uses.
                let entry = unsafe { calls.add(call).read() };
                let [a, b, c, d, e, _] = entry.args;
                if entry.op == Call::MmuUpdate as u64 {
                    self.make_plain(Call::MmuUpdate, [a, b, c, d, e]);
                }
            }
        }
        if op == Call::MmuUpdate {
            let list = list as *mut mmu_update;
            for update in 0..count as usize {
                // SAFETY: a list of so many updates, which this thread alone uses.
                let update = unsafe { &mut *list.add(update) };
                if update.ptr & 3 == u64::from(MMU_PT_UPDATE_PRESERVE_AD) {
                    update.ptr &= !3;
                }
            }
        }
    }
}

impl Hypervisor for Xen {
    unsafe fn call(&self, op: Call, args: [u64; 5]) -> i64 {
        self.others.pass(&self.model);
        if self.plant == Some(Plant::PlainWrites) {
            self.make_plain(op, args);
        }
        // SAFETY: the caller's promise.
        let result = unsafe { self.model.call(op, args) };
        self.others.pass(&self.model);
        result
    }

    fn mask_upcalls(&self) -> bool {
        self.model.mask_upcalls()
    }

    fn restore_upcalls(&self, was: bool) {
        self.model.restore_upcalls(was);
    }
}

/// A lock that nobody waits for: the only thread would do so for ever.
pub(super) struct Unwaited(spin::Mutex<()>);

// SAFETY: it is the lock inside.
unsafe impl RawMutex for Unwaited {
    const INIT: Unwaited = Unwaited(spin::Mutex::new(()));

    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        assert!(
            self.try_lock(),
            "a part is asked for that another vCPU holds"
        );
    }

    fn try_lock(&self) -> bool {
        RawMutex::try_lock(&self.0)
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller holds it.
        unsafe { RawMutex::unlock(&self.0) };
    }
}

/// Parts of the address space: the kernel's half, and a bit for each lock of user halves.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Parts {
    pub(super) kernel: bool,
    pub(super) users: u16,
}

impl Parts {
    /// Those that a part stands for.
    fn of(part: Option<Part<'_>>) -> Parts {
        match part {
            None => Parts::default(),
            Some(Part::KernelHalf) => Parts {
                kernel: true,
                users: 0,
            },
            Some(Part::Space(space)) => Parts {
                kernel: false,
                users: 1 << (space.roots().kernel.as_u64() % 16),
            },
            Some(Part::Both(one, other)) => {
                Parts::of(Some(Part::Space(one))).with(Parts::of(Some(Part::Space(other))))
            }
            Some(Part::All) => Parts {
                kernel: true,
                users: u16::MAX,
            },
        }
    }

    fn meets(self, other: Parts) -> bool {
        self.kernel && other.kernel || self.users & other.users != 0
    }

    fn with(self, other: Parts) -> Parts {
        Parts {
            kernel: self.kernel || other.kernel,
            users: self.users | other.users,
        }
    }

    /// Whether pages of a space at an address are among them.
    pub(super) fn has(self, space: &AddressSpace, va: u64) -> bool {
        let part = match va >> 63 {
            0 => Part::Space(space),
            _ => Part::KernelHalf,
        };
        self.meets(Parts::of(Some(part)))
    }
}

/// The tests' machine, with that hypervisor.
pub(super) struct Host {
    machine: ModelMachine,
    plant: Option<Plant>,
}

impl Machine for Host {
    type Hv = Xen;
    type Layout = Regions;
    type Lock = Unwaited;

    fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        self.machine.mfn(pfn)
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        self.machine.pfn(mfn)
    }

    fn memory(&self, pfn: Pfn) -> *mut Words {
        self.machine.memory(pfn)
    }

    fn window(&self, pfn: Pfn) -> u64 {
        self.machine.window(pfn)
    }

    fn set_reach(&self, pages: u64) {
        self.machine.set_reach(pages);
    }

    fn open_direct_map(&self) {
        self.machine.open_direct_map();
    }

    unsafe fn live(&self, table: Pfn) -> Option<Live<'_>> {
        if self.plant != Some(Plant::MarksUnread) {
            // SAFETY: the caller's promise.
            return unsafe { self.machine.live(table) };
        }
        // SAFETY: the model's memory, which this thread alone uses.
        let mut copy = unsafe { self.memory(table).as_ref() }?.to_vec();
        copy.iter_mut().for_each(|word| *word &= !MARKS);
        // SAFETY: a table's worth of words, which stay for as long as the test runs.
        Some(unsafe { Live::of(copy.leak().as_ptr()) })
    }

    fn direct_map_is_open(&self) -> bool {
        self.machine.direct_map_is_open()
    }
}

/// The page tables as each vCPU works with them.
pub(super) struct Cpus {
    /// Those of the vCPUs from 1 on. They go before the domain does.
    rest: Vec<Box<Tables<Host>>>,
    boot: Own<Host>,
    pub(super) model: Rc<Model>,
    pub(super) others: Rc<Others>,
    /// The vCPU that used them last, if it has left something queued.
    queued: Option<usize>,
    /// Parts that each vCPU holds, if they work side by side.
    held: Option<Vec<Parts>>,
    plant: Option<Plant>,
}

impl Cpus {
    /// A domain whose tables vCPU 0 took over and the others joined; `spots` are used by all.
    pub(super) fn new(
        layout: &Layout,
        seed: u64,
        spots: Vec<u64>,
        side_by_side: bool,
        plant: Option<Plant>,
    ) -> Result<Cpus, MmError> {
        let model = Rc::new(Model::build(layout));
        // Rights that grow must be flushed as well.
        model.fault_from_tlb(true);
        let others = Rc::new(Others {
            rng: RefCell::new(Rng::new(!seed)),
            spots,
            frames: Cell::new(0),
            vcpus: layout.vcpus,
            wrong: RefCell::new(None),
            script: Cell::new(None),
        });
        let xen = || Xen {
            plant,
            model: Rc::clone(&model),
            others: Rc::clone(&others),
        };
        let mut boot = Own::new(
            xen(),
            Host {
                machine: machine(&model, false),
                plant,
            },
        );
        let mut early = Initial::survey(&mut boot, start(&model, layout))?.fixmap()?;
        let (at, frame) = (Fixed::SharedInfo.address(), model.boot().shared_info);
        // SAFETY: a shared page has this one place; nothing of the host's is behind it.
        unsafe { early.map_fixed(at, frame, Flags::DATA) }?;
        early.direct_map()?;
        boot.populate_all()?;
        if side_by_side {
            boot.share()?;
            boot.let_go();
        }
        let mut rest = Vec::new();
        for vcpu in 1..layout.vcpus {
            model.run_on(vcpu);
            load(&model, model.boot().l4);
            // SAFETY: `with` has one at a time, and sends what another has queued.
            let mut tables = Box::new(unsafe { Tables::new(xen(), boot.domain()) });
            tables.join()?;
            rest.push(tables);
        }
        model.run_on(0);
        others.frames.set(boot.frames().counts().mapped);
        // Xen interrupts its own lists, or does not.
        let preempt = seed % 5;
        model.preempt_every((preempt > 0).then_some(preempt));
        model.remote_flushes(match plant {
            Some(Plant::LocalFlush) => RemoteFlushes::Lost,
            Some(Plant::FreedBeforeFlush) => RemoteFlushes::Late,
            _ => RemoteFlushes::InTime,
        });
        Ok(Cpus {
            rest,
            boot,
            model,
            others,
            queued: None,
            held: side_by_side.then(|| vec![Parts::default(); layout.vcpus]),
            plant,
        })
    }

    pub(super) fn count(&self) -> usize {
        1 + self.rest.len()
    }

    /// A vCPU's tables, to be looked at.
    pub(super) fn of(&self, vcpu: usize) -> &Tables<Host> {
        match vcpu.checked_sub(1) {
            None => &self.boot,
            Some(other) => &self.rest[other],
        }
    }

    fn of_mut(&mut self, vcpu: usize) -> &mut Tables<Host> {
        match vcpu.checked_sub(1) {
            None => &mut self.boot,
            Some(other) => &mut self.rest[other],
        }
    }

    /// Whether no vCPU has anything queued.
    pub(super) fn idle(&self) -> bool {
        (0..self.count()).all(|vcpu| !queued(self.of(vcpu)).1)
    }

    /// Whether another vCPU has something queued.
    pub(super) fn others_queue(&self, vcpu: usize) -> bool {
        let mut others = (0..self.count()).filter(|other| *other != vcpu);
        others.any(|other| queued(self.of(other)).1)
    }

    /// Parts that others than a vCPU hold.
    pub(super) fn held_by_others(&self, vcpu: usize) -> Parts {
        let held = self.held.iter().flatten().enumerate();
        let others = held.filter(|(other, _)| *other != vcpu);
        others.fold(Parts::default(), |all, (_, parts)| all.with(*parts))
    }

    /// Parts that a vCPU holds; by turns that is all.
    pub(super) fn held_by(&self, vcpu: usize) -> Parts {
        let all = Parts::of(Some(Part::All));
        self.held.as_ref().map_or(all, |held| held[vcpu])
    }

    /// Parts that may be unlike what a queue says.
    pub(super) fn open(&self) -> Parts {
        match &self.held {
            Some(held) => held
                .iter()
                .fold(Parts::default(), |all, one| all.with(*one)),
            None if self.idle() => Parts::default(),
            None => Parts::of(Some(Part::All)),
        }
    }

    /// Whether a vCPU would have to wait for a part. Before it does, it lets go.
    pub(super) fn must_wait(
        &mut self,
        vcpu: usize,
        part: Option<Part<'_>>,
    ) -> Result<bool, MmError> {
        let waits = Parts::of(part).meets(self.held_by_others(vcpu));
        if waits {
            self.with(vcpu, None, Tables::send_and_let_go)??;
        }
        Ok(waits)
    }

    /// A vCPU at work on a part, which nobody else holds: by turns with nothing queued by another.
    pub(super) fn with<R>(
        &mut self,
        vcpu: usize,
        part: Option<Part<'_>>,
        f: impl FnOnce(&mut Tables<Host>) -> R,
    ) -> Result<R, MmError> {
        self.model.run_on(vcpu);
        let by_turns = self.held.is_none();
        if let Some(last) = self.queued.filter(|&last| by_turns && last != vcpu) {
            self.send_queued(last, vcpu)?;
        }
        if let Some(part) = part {
            self.of_mut(vcpu).hold(part)?;
        }
        let result = f(self.of_mut(vcpu));
        self.of_mut(vcpu).let_go();
        let any = queued(self.of(vcpu)).1;
        self.queued = any.then_some(vcpu);
        if let Some(held) = &mut self.held {
            // Asked for another user half, it has let go of what it held.
            let other = Parts::of(part).users & !held[vcpu].users != 0;
            let before = if other { Parts::default() } else { held[vcpu] };
            held[vcpu] = match any {
                true => before.with(Parts::of(part)),
                false => Parts::default(),
            };
        }
        Ok(result)
    }

    /// Sends what a vCPU has queued, on another whose turn it is.
    fn send_queued(&mut self, last: usize, next: usize) -> Result<(), MmError> {
        self.queued = None;
        match self.plant {
            Some(Plant::QueueKept) => Ok(()),
            Some(Plant::WrongLog) => {
                self.swap_logs(last, next);
                let sent = self.of_mut(last).send_queued();
                self.swap_logs(last, next);
                sent
            }
            _ => self.of_mut(last).send_queued(),
        }
    }

    fn swap_logs(&mut self, one: usize, other: usize) {
        let mut all: Vec<&mut Tables<Host>> = vec![&mut self.boot];
        all.extend(self.rest.iter_mut().map(|tables| &mut **tables));
        if let Ok([one, other]) = all.get_disjoint_mut([one, other]) {
            std::mem::swap(&mut one.mmu().completion, &mut other.mmu().completion);
        }
    }
}

/// Loads the tables of a vCPU that begins to run.
fn load(model: &Model, root: Mfn) {
    let op = [mmuext_op {
        cmd: MMUEXT_NEW_BASEPTR,
        arg1: mmuext_op_arg1 { mfn: root.as_u64() },
        arg2: mmuext_op_arg2 { src_mfn: 0 },
    }];
    let args = [op.as_ptr() as u64, 1, 0, DOMID_SELF.into(), 0];
    // SAFETY: a list of one operation, which is there until the call returns.
    assert_eq!(unsafe { model.call(Call::MmuextOp, args) }, 0);
}
