//! Xen's PV MMU rules as a model on the host: it answers hypercalls as Xen does, with the same
//! errors, the same rewritten entries and the same partial results, so that a kernel's page-table
//! code runs and is fuzzed without a hypervisor.
//!
//! The model is also meant to be read: what Xen's `arch/x86/mm.c` spreads over six thousand lines
//! is here by topic, one file each.
//!
//! ```text
//! entry    bits: which may be set, which Xen sets       types    references, types, validation
//! frame    memory and what is known about each frame    update   mmu_update, update_va_mapping
//! tlb      walks, stale translations, accesses          ext      mmuext_op
//! remote   which vCPUs a flush reaches                  stale    what was not flushed
//! builder  the initial layout                           list     the lists that both take
//! inject   failures on demand                           event    event channels, upcalls
//! audit    recounting everything
//! ```
//!
//! # What holds
//!
//! - Deterministic: the same calls give the same results and the same machine frames.
//! - A guest that forgets a flush sees the stale translation, every time ([`Model::access`]).
//! - After every call [`Model::check_invariants`] holds; a test asserts it where it likes.
//!
//! # What is not modelled
//!
//! Time, scheduling, other domains, grants, I/O, instruction emulation other than stores to L1
//! tables, entry to and exit from the guest. Xen may interrupt the validation of one table; here
//! only the list calls are interrupted, between requests, as a guest can tell. Nor does the model
//! lose tables where Xen does (R78 of the rule book): it always cleans up. Pointers among a
//! hypercall's arguments are host pointers.
#![allow(
    non_upper_case_globals,
    reason = "constants of the ABI are spelled as in Xen's headers, in patterns too"
)]

mod audit;
mod builder;
mod config;
mod counters;
pub mod entry;
mod event;
mod ext;
mod frame;
mod inject;
mod list;
mod misc;
mod remote;
mod segment;
mod stale;
mod state;
mod tlb;
mod types;
mod update;

use std::{cell::RefCell, rc::Rc};

use hypercall::{
    Errno, Hypervisor, MachAddr, Mfn, Op, Pfn,
    abi::{multicall::multicall_entry, shared_info::vcpu_info},
};

pub use builder::Boot;
pub use config::{Kind, Layout, Order, Version};
pub use counters::Counters;
pub use frame::{Frame, Owner, Type};
pub use inject::Injection;
pub use list::PREEMPTED;
pub use misc::XEN_VIRT_START;
pub use remote::RemoteFlushes;
pub use stale::{Remembered, Stale};
pub use tlb::{Access, Fault, Mode, Walk};

use frame::Memory;
use state::{Outcome, State, Vcpu, copy_from, copy_to, handle_ok};

/// What takes an upcall: the guest's event handler. It runs with upcalls masked and may make
/// hypercalls; when it returns they are unmasked, as its `iret` would.
pub type Upcall = Rc<dyn Fn(&Model)>;

/// A machine with Xen and one domain.
pub struct Model {
    state: RefCell<State>,
    upcall: RefCell<Option<Upcall>>,
    p2m: Vec<Mfn>,
    boot: Boot,
    foreign: Mfn,
}

/// Frames of another domain.
const FOREIGN_PAGES: usize = 8;

impl Model {
    /// Builds a domain, up to the point where its kernel's first instruction would run.
    ///
    /// # Panics
    /// If the layout does not fit its memory.
    pub fn build(layout: &Layout) -> Self {
        let first = layout.first_mfn.as_u64();
        let large_pages = match layout.large_p2m {
            true => (layout.nr_pages / (1 << 18)) * 512 + 512,
            false => 0,
        };
        let ram = layout.nr_pages + large_pages + layout.spare_pages;
        // The M2P has a word for every machine frame, those below RAM and its own included.
        let m2p_pages = (first + ram + ram / 400 + 4096).div_ceil(512);
        let m2p_tables = m2p_pages.div_ceil(512) + m2p_pages.div_ceil(512 * 512) + 1;
        let fixed = 2 + FOREIGN_PAGES as u64 + m2p_tables + m2p_pages;
        let mut mem = Memory::new(layout.first_mfn, (ram + fixed) as usize);
        let at = |page: u64| Mfn::truncate(first + page);

        let mut p2m: Vec<Mfn> = machine_order(layout).map(at).collect();
        for &mfn in &p2m {
            mem[mfn] = Frame::new(Owner::Guest);
        }
        let large_first = (first + layout.nr_pages).next_multiple_of(512);
        let mut large = (large_first..).map(Mfn::truncate);

        let shared_info = at(ram);
        mem[shared_info] = Frame {
            special: true,
            kind: Type::Writable,
            type_count: 1,
            validated: true,
            ..Frame::new(Owner::Guest)
        };
        let xen_l3 = at(ram + 1);
        let foreign = at(ram + 2);
        let m2p_first = ram + 2 + FOREIGN_PAGES as u64;
        for page in 0..FOREIGN_PAGES as u64 {
            mem[at(ram + 2 + page)] = Frame::new(Owner::Foreign);
        }
        for page in [ram + 1].into_iter().chain(m2p_first..ram + fixed) {
            mem[at(page)] = Frame::new(Owner::Xen);
        }
        let m2p = at(m2p_first + m2p_tables);
        let m2p_slot = m2p_tables_at(&mem, at(m2p_first), m2p, m2p_pages);

        let vcpus = (0..layout.vcpus).map(|id| new_vcpu(shared_info, id));
        let mut state = State {
            mem,
            kind: layout.kind,
            version: layout.version,
            debug: layout.debug,
            l1tf: layout.l1tf,
            pcid: layout.pcid,
            domid: (layout.kind != Kind::Dom0) as u16,
            assists: Default::default(),
            vcpus: vcpus.collect(),
            current: 0,
            clock: 0,
            m2p_slot,
            xen_slot: entry::entry(xen_l3, entry::P | entry::RW | entry::A | entry::D),
            m2p,
            shared_info,
            pages: (layout.nr_pages, layout.nr_pages),
            freed: Vec::new(),
            ports: vec![event::Port {
                bound: event::Bound::Closed,
                vcpu: 0,
            }],
            counters: Counters::default(),
            injections: Vec::new(),
            in_multicall: false,
            preempt: None,
            faults_from_tlb: false,
            remote_flushes: RemoteFlushes::InTime,
            late_flushes: Vec::new(),
            has_upcall: false,
            console: Vec::new(),
            input: Vec::new(),
            shutdown: None,
            crashed: None,
            survive: layout.survive_crash,
        };
        for mfn in state.mem.mfns() {
            state.m2p_write(mfn, u64::MAX);
        }
        for vcpu in 0..layout.vcpus {
            state.current = vcpu;
            state.upcall_mask(Some(true));
        }
        state.current = 0;
        state.come_in();
        let large: &mut dyn Iterator<Item = Mfn> = &mut large.by_ref().inspect(|_| ());
        // The frames set aside for large pages are the domain's if they are used.
        for page in 0..large_pages.saturating_sub(512) {
            state.mem[Mfn::truncate(large_first + page)] = Frame::new(Owner::Guest);
        }
        let before = p2m.clone();
        let boot = builder::build(&mut state, layout, &mut p2m, large);
        for (&old, &new) in before.iter().zip(&p2m) {
            if old != new {
                state.mem[old] = Frame::new(Owner::Nobody);
                state.m2p_write(old, u64::MAX);
            }
        }
        state.freed = (0..layout.spare_pages)
            .map(|page| at(layout.nr_pages + large_pages + page))
            .rev()
            .collect();
        state.counters = Counters::default();
        Self {
            state: RefCell::new(state),
            upcall: RefCell::new(None),
            p2m,
            boot,
            foreign,
        }
    }

    /// Where everything is at the start.
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// The initial p2m: the machine frame of each pseudo-physical one.
    pub fn p2m(&self) -> &[Mfn] {
        &self.p2m
    }

    /// The machine frame behind `pfn` at the start.
    pub fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        self.p2m.get(pfn.as_u64() as usize).copied()
    }

    /// What the M2P says about `mfn`, if it has a pseudo-physical number.
    pub fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        let state = self.state.borrow();
        state
            .mem
            .is_valid(mfn)
            .then(|| state.m2p_read(mfn))
            .and_then(Pfn::new)
    }

    /// A frame that belongs to another domain.
    pub fn foreign_mfn(&self) -> Mfn {
        self.foreign
    }

    /// The contents of a frame. Whoever writes through it does what a guest with a writable
    /// mapping can do, and what a guest without one cannot.
    ///
    /// # Panics
    /// If there is no such frame.
    pub fn frame_ptr(&self, mfn: Mfn) -> *mut [u64; 512] {
        self.state.borrow().mem.ptr(mfn).cast()
    }

    /// What Xen knows about a frame.
    pub fn frame(&self, mfn: Mfn) -> Option<Frame> {
        let state = self.state.borrow();
        state.mem.is_valid(mfn).then(|| state.mem[mfn])
    }

    /// The `vcpu_info` of the current vCPU.
    pub fn vcpu_info(&self) -> *mut vcpu_info {
        let state = self.state.borrow();
        let place: MachAddr = state.vcpus[state.current].info;
        state
            .mem
            .ptr(place.frame())
            .wrapping_byte_add(place.page_offset() as usize)
            .cast()
    }

    /// Translates `va` for an access of the current vCPU, from its TLB if it remembers, and sets
    /// accessed and dirty bits.
    pub fn access(&self, va: u64, access: Access, mode: Mode) -> Result<(Mfn, u64), Fault> {
        self.state.borrow_mut().access(va, access, mode)
    }

    /// Loads the aligned word at `va` in kernel mode.
    pub fn load(&self, va: u64) -> Result<u64, Fault> {
        self.state.borrow_mut().load(va, Mode::Kernel)
    }

    /// Stores to the aligned word at `va` in kernel mode; a store to an L1 table is emulated where
    /// Xen does that.
    pub fn store(&self, va: u64, value: u64) -> Result<(), Fault> {
        self.state.borrow_mut().store(va, value, Mode::Kernel)
    }

    /// Walks the tables from `l4` as they are in memory, leaving no trace.
    pub fn walk(&self, l4: Mfn, va: u64) -> Walk {
        self.state.borrow().walk(l4, va)
    }

    /// The L4 table of the current vCPU in `mode`.
    pub fn l4(&self, mode: Mode) -> Option<Mfn> {
        self.state.borrow().root(mode)
    }

    /// Names the event handler, or none.
    pub fn set_upcall(&self, upcall: Option<Upcall>) {
        self.state.borrow_mut().has_upcall = upcall.is_some();
        *self.upcall.borrow_mut() = upcall;
    }

    /// Raises a virtual interrupt; false if no port is bound to it.
    pub fn raise_virq(&self, virq: u32, vcpu: u32) -> bool {
        let raised = self.state.borrow_mut().raise_virq(virq, vcpu);
        self.deliver();
        raised
    }

    /// Interrupts list calls before every `every`-th request even if no event is pending, as when
    /// Xen itself wants the CPU. `None` stops that.
    pub fn preempt_every(&self, every: Option<u64>) {
        let mut state = self.state.borrow_mut();
        state.preempt = every.filter(|&n| n > 0).map(|n| (n, n));
    }

    /// Lets an access fault that a cached translation does not allow, without a look at the tables,
    /// which may allow it by now: so a processor may do, and a kernel that gives rights without a
    /// flush is found out. Otherwise the tables are looked at, as by most processors.
    pub fn fault_from_tlb(&self, faults: bool) {
        self.state.borrow_mut().faults_from_tlb = faults;
    }

    /// Arranges a failure.
    pub fn inject(&self, injection: Injection) {
        self.state.borrow_mut().injections.push(injection);
    }

    /// Calls off the failures that have not come yet, and says how many those were.
    pub fn clear_injections(&self) -> usize {
        std::mem::take(&mut self.state.borrow_mut().injections).len()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.state.borrow().counters.clone()
    }

    /// Counts from zero again.
    pub fn reset_counters(&self) {
        self.state.borrow_mut().counters = Counters::default();
    }

    /// What the guest wrote to Xen's console.
    pub fn console(&self) -> Vec<u8> {
        self.state.borrow().console.clone()
    }

    /// Types into Xen's console.
    pub fn type_in(&self, bytes: &[u8]) {
        self.state.borrow_mut().input.extend_from_slice(bytes);
    }

    /// The reason the guest gave for ending (`SHUTDOWN_*`), if it did.
    pub fn shutdown(&self) -> Option<u32> {
        self.state.borrow().shutdown
    }

    /// Why Xen ended the domain, if it did.
    pub fn crashed(&self) -> Option<String> {
        self.state.borrow().crashed.clone()
    }

    /// Counts all references and uses again, from the tables, and compares.
    ///
    /// # Errors
    /// Every difference, a line each.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.state.borrow().audit()
    }

    /// Takes an upcall if one is due.
    fn deliver(&self) {
        let upcall = {
            let mut state = self.state.borrow_mut();
            if !state.has_upcall || !state.upcall_due() {
                return;
            }
            state.counters.upcalls += 1;
            state.upcall_mask(Some(true));
            self.upcall.borrow().clone()
        };
        if let Some(upcall) = upcall {
            upcall(self);
        }
        self.state.borrow_mut().upcall_mask(Some(false));
    }
}

/// A vCPU before it runs.
fn new_vcpu(shared_info: Mfn, id: usize) -> Vcpu {
    Vcpu {
        kernel_l4: Mfn::default(),
        user_l4: None,
        tlb: tlb::Tlb::new(),
        info: MachAddr::from_frame(shared_info, (id % 32 * size_of::<vcpu_info>()) as u64),
        info_moved: false,
        up: id == 0,
        initialised: id == 0,
        gdt: Vec::new(),
        ldt: (0, 0),
        kernel_stack: (0, 0),
        callbacks: Default::default(),
        traps: Default::default(),
        segment_bases: [0; 4],
        debug_registers: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
        ts: false,
        iopl: 0,
        timer: 0,
    }
}

/// The position of each pseudo-physical frame's machine frame within RAM.
fn machine_order(layout: &Layout) -> Box<dyn Iterator<Item = u64>> {
    let pages = layout.nr_pages;
    match layout.order {
        Order::Linear => Box::new(0..pages),
        Order::Reversed => Box::new((0..pages).rev()),
        Order::Scattered => {
            // A step without a common divisor visits every frame once.
            let gcd = |mut a: u64, mut b: u64| {
                while b != 0 {
                    (a, b) = (b, a % b);
                }
                a
            };
            let step = (pages * 5 / 8 + 1..)
                .find(|&step| gcd(step, pages) == 1)
                .unwrap_or(1);
            Box::new((0..pages).map(move |pfn| (pfn as u128 * step as u128 % pages as u128) as u64))
        }
    }
}

/// Maps the M2P, read-only for everybody, and returns the L4 entry that shows it.
fn m2p_tables_at(mem: &Memory, tables: Mfn, m2p: Mfn, pages: u64) -> u64 {
    let flags = entry::P | entry::U | entry::A | entry::NX;
    let l3 = tables;
    let l2s = pages.div_ceil(512 * 512);
    for page in 0..pages {
        let (l2, l1) = (page / (512 * 512), page / 512);
        let (l2_mfn, l1_mfn) = (tables.add(1 + l2), tables.add(1 + l2s + l1));
        mem.write(l3, l2 as usize, entry::entry(l2_mfn, flags));
        mem.write(l2_mfn, (l1 % 512) as usize, entry::entry(l1_mfn, flags));
        mem.write(
            l1_mfn,
            (page % 512) as usize,
            entry::entry(m2p.add(page), flags),
        );
    }
    entry::entry(l3, flags)
}

impl State {
    /// Carries out one hypercall, up to its end or an interruption.
    fn dispatch(&mut self, op: Op, args: [u64; 5]) -> Outcome {
        self.counters.calls[op as usize & 63] += 1;
        if let Err(errno) = self.injected(op, args[0] as u32, None) {
            return Err(errno).into();
        }
        match op {
            Op::MmuUpdate => return self.mmu_update(args),
            Op::MmuextOp => return self.mmuext_op(args),
            Op::Multicall => return self.multicall(args),
            Op::UpdateVaMapping => self.update_va_mapping(args),
            Op::SetTrapTable => self.set_trap_table(args),
            Op::SetGdt => self.set_gdt(args),
            Op::StackSwitch => self.stack_switch(args),
            Op::SetCallbacks => self.set_callbacks(args),
            Op::CallbackOp => self.callback_op(args),
            Op::FpuTaskswitch => {
                self.vcpu().ts = args[0] as u32 != 0;
                Ok(0)
            }
            Op::SetDebugreg => self.set_debugreg(args),
            Op::GetDebugreg => self.get_debugreg(args),
            Op::UpdateDescriptor => self.update_descriptor(args),
            Op::SetSegmentBase => self.set_segment_base(args),
            Op::MemoryOp => self.memory_op(args),
            Op::SetTimerOp => {
                self.vcpu().timer = args[0];
                Ok(0)
            }
            Op::XenVersion => self.xen_version(args),
            Op::ConsoleIo => self.console_io(args),
            Op::VmAssist => self.vm_assist(args),
            Op::VcpuOp => self.vcpu_op(args),
            Op::SchedOp => self.sched_op(args),
            Op::EventChannelOp => self.event_channel_op(args),
            Op::PhysdevOp => self.physdev_op(args),
            _ => Err(Errno::ENOSYS),
        }
        .into()
    }

    /// Several hypercalls in a row, which go on after one that fails. Only results are written
    /// back, unless an entry was interrupted: then its arguments are those for the rest of it.
    fn multicall(&mut self, args: [u64; 5]) -> Outcome {
        let [list, count, ..] = args;
        if self.in_multicall {
            return Err(Errno::EINVAL).into();
        }
        const SIZE: u64 = size_of::<multicall_entry>() as u64;
        if !count
            .checked_mul(SIZE)
            .is_some_and(|bytes| handle_ok(list, bytes))
        {
            return Err(Errno::EFAULT).into();
        }
        for index in 0..count {
            let at = list + index * SIZE;
            let rest = Outcome::Preempted(Op::Multicall, [at, count - index, 0, 0, 0]);
            if index > 0 && self.preempt_check() {
                return rest;
            }
            let mut call: multicall_entry = match copy_from(at) {
                Ok(call) => call,
                Err(errno) => return Err(errno).into(),
            };
            self.in_multicall = true;
            let [a, b, c, d, e, _] = call.args;
            let injected = self.injected(Op::Multicall, call.op as u32, Some(index as u32));
            let outcome = match (injected, Op::from_number(call.op)) {
                (Err(errno), _) => Err(errno).into(),
                (_, Some(op)) => self.dispatch(op, [a, b, c, d, e]),
                (_, None) => Err(Errno::ENOSYS).into(),
            };
            self.in_multicall = false;
            self.counters.multicall_entries += 1;
            if self.debug {
                let scribbled = multicall_entry {
                    op: 0xaaaa_aaaa_aaaa_aaaa,
                    result: 0xaaaa_aaaa_aaaa_aaaa,
                    args: [0xaaaa_aaaa_aaaa_aaaa; 6],
                };
                let _ = copy_to(at, scribbled);
            }
            match outcome {
                Outcome::Done(value) => {
                    let result = at + std::mem::offset_of!(multicall_entry, result) as u64;
                    if let Err(errno) = copy_to(result, value) {
                        return Err(errno).into();
                    }
                }
                Outcome::Preempted(op, [a, b, c, d, e]) => {
                    call.op = op as u64;
                    call.args = [a, b, c, d, e, call.args[5]];
                    if let Err(errno) = copy_to(at, call) {
                        return Err(errno).into();
                    }
                    return rest;
                }
            }
        }
        Outcome::Done(0)
    }
}

impl Hypervisor for Model {
    unsafe fn call(&self, op: Op, args: [u64; 5]) -> i64 {
        let (mut op, mut args) = (op, args);
        self.state.borrow_mut().enter();
        let value = loop {
            let outcome = {
                let mut state = self.state.borrow_mut();
                if state.crashed.is_some() {
                    break Errno::ESRCH.to_return();
                }
                state.dispatch(op, args)
            };
            match outcome {
                Outcome::Done(value) => break value,
                // The guest's instruction pointer is on the hypercall again: events first, then
                // the call goes on where it was.
                Outcome::Preempted(next, rest) => (op, args) = (next, rest),
            }
            self.deliver();
        };
        let crash = {
            let state = self.state.borrow();
            (!state.survive).then(|| state.crashed.clone()).flatten()
        };
        if let Some(why) = crash {
            panic!("Xen ended the domain: {why}");
        }
        self.deliver();
        value
    }

    fn mask_upcalls(&self) -> bool {
        self.state.borrow_mut().upcall_mask(Some(true))
    }

    fn restore_upcalls(&self, was: bool) {
        if !was {
            self.state.borrow_mut().upcall_mask(Some(false));
            self.deliver();
        }
    }
}
