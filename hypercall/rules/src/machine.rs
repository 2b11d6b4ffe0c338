//! The machine a rule is tested on: what a kernel, or the model, must offer.
//!
//! It is small on purpose. The first part every machine has; the rest are observations that make
//! sense on a real Xen only, or only where the kernel has built the means: each has a default
//! that says "not here", and the rules that need it are skipped.
//!
//! # What the kernel guarantees
//!
//! - The kernel runs on its own, undisturbed: one vCPU makes the calls, upcalls are masked unless
//!   a method says otherwise, the writable-page-tables assist is off, no user tables are loaded,
//!   it uses Xen's flat segments (no GDT, no LDT of its own) and 2-level event channels, and names
//!   its kernel stack again before it goes to user mode.
//! - Nothing but the tests touches the pages that [`Machine::alloc`] hands out, or the 512 GiB
//!   from [`Machine::scratch_va`] on.

use hypercall::{
    Hypervisor, MachAddr, Mfn, Pfn,
    abi::{
        shared_info::{shared_info, vcpu_info},
        start_info::start_info,
    },
};

/// As what the guest runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An ordinary guest.
    DomU,
    /// The first domain.
    Dom0,
    /// The guest of a PV shim.
    Shim,
}

/// What the machine is.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// As what the guest runs.
    pub kind: Kind,
    /// The model stands in for Xen: pointers are the host's, nothing is ever entered.
    pub model: bool,
    /// Xen's version, such as (4, 17).
    pub version: (u16, u16),
    /// Xen is a debug build. From its capabilities it cannot be told: the extra version or the
    /// compile information of Debian's builds can, or the effect on a multicall.
    pub debug: bool,
    /// vCPUs the domain may have.
    pub vcpus: u32,
}

/// A page of memory that nothing else uses, mapped writable by one mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// Its pseudo-physical number.
    pub pfn: Pfn,
    /// Its machine frame.
    pub mfn: Mfn,
    /// Where the kernel maps it, for accesses that may fault.
    pub va: u64,
    /// Where the tests reach its contents without a fault, as long as it is mapped at all. In a
    /// kernel it is `va` as a pointer.
    pub ptr: *mut u64,
}

/// A page fault, expected and survived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The error code: bit 0 protection, 1 write, 2 user mode, 4 instruction fetch.
    pub code: u32,
}

impl Fault {
    /// The page was there and did not allow the access.
    pub const fn is_protection(self) -> bool {
        self.code & 1 != 0
    }
}

/// What makes Xen enter the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// `int3`: an exception without an error code.
    Breakpoint,
    /// A load from an address that is not mapped: one with an error code.
    PageFault(u64),
    /// `int n` from the kernel, where the handler's gate has this DPL.
    Interrupt(u8, u8),
    /// The first use of the FPU with the virtual CR0.TS set.
    Fpu,
    /// An event.
    Upcall,
}

/// What the handler found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// Which vector was taken: for [`Cause::Interrupt`] it may be 13 instead of `n`. Upcalls: 255.
    pub vector: u8,
    /// RSP at the handler's first instruction: the address of the frame's lowest word.
    pub rsp: u64,
    /// The words of the frame from there on, as far as to SS. 7 without an error code, 8 with.
    pub frame: [u64; 8],
    /// RCX and R11 at the instruction that caused the entry.
    pub rcx_r11: (u64, u64),
    /// RSP at that instruction.
    pub stack: u64,
    /// The upcall mask before, and at the handler's first instruction.
    pub mask: (bool, bool),
    /// `vcpu_info.arch.cr2` at the handler's first instruction.
    pub cr2: u64,
    /// The upcall mask after a return by `iretq`, where it was set differently in the handler.
    pub mask_after_iretq: Option<bool>,
}

/// What an upcall in the middle of something saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observed {
    /// Upcalls taken meanwhile.
    pub upcalls: u32,
    /// The watched word when the first was taken.
    pub word: u64,
}

/// A machine.
pub trait Machine {
    /// Who answers hypercalls.
    fn hv(&self) -> &dyn Hypervisor;

    /// What it is.
    fn about(&self) -> About;

    /// A page, zeroed and writable, or none if there is none left. Twenty at a time are enough.
    fn alloc(&self) -> Option<Page>;

    /// Takes a page back: unused as a table, mapped writable. Its contents are anything.
    fn free(&self, page: Page);

    /// Makes the kernel's mapping of `page` writable or read-only, and flushes it everywhere.
    /// False if Xen refused.
    fn set_writable(&self, page: &Page, writable: bool) -> bool;

    /// The machine address of the L1 entry through which the kernel maps `page`.
    fn entry_of(&self, page: &Page) -> Option<MachAddr>;

    /// The L4 table that CR3 holds.
    fn l4(&self) -> Mfn;

    /// The word at `slot`, in a page table of the kernel or in a page of [`alloc`](Self::alloc);
    /// none if the kernel cannot read that frame.
    fn table_word(&self, slot: MachAddr) -> Option<u64>;

    /// The first address of an L4 slot that is empty in the current tables, below 2^47.
    fn scratch_va(&self) -> u64;

    /// Loads the aligned word at `va`.
    fn read(&self, va: u64) -> Result<u64, Fault>;

    /// Stores to the aligned word at `va`.
    fn write(&self, va: u64, value: u64) -> Result<(), Fault>;

    /// The page shared with Xen.
    fn shared_info(&self) -> *mut shared_info;

    /// What this vCPU shares with Xen.
    fn vcpu_info(&self) -> *mut vcpu_info;

    /// What the kernel was started with. Xen's first tables need not be there any more.
    fn start_info(&self) -> Option<&start_info> {
        None
    }

    /// Flags of an L1 entry of the initial mapping, writable, as the kernel found it first.
    fn initial_flags(&self) -> Option<u64> {
        None
    }

    /// Calls a `ret` in `page`, which the caller has put there, through `va`.
    fn execute(&self, va: u64) -> Option<Result<(), Fault>> {
        let _ = va;
        None
    }

    /// Has Xen enter the kernel, from the kernel, and says what the handler found. Upcalls are
    /// masked before exactly if `masked`.
    fn enter(&self, cause: Cause, masked: bool) -> Option<Entry> {
        let _ = (cause, masked);
        None
    }

    /// Runs `work` with upcalls unmasked. The handler reads the first word of `watch` when it is first
    /// entered, clears what is pending, and returns.
    fn observe_upcall(&self, watch: &Page, work: &mut dyn FnMut()) -> Option<Observed> {
        let _ = (watch, work);
        None
    }

    /// Makes the hypercall with this number, and says what RDI RSI RDX R10 R8 hold afterwards.
    fn registers_after(&self, number: u64, args: [u64; 5]) -> Option<[u64; 5]> {
        let _ = (number, args);
        None
    }

    /// The upcall mask after `sti` or `cli` (whichever would change it), with faults survived,
    /// from this value of the mask.
    fn mask_after_flag_instruction(&self, mask: bool) -> Option<bool> {
        let _ = mask;
        None
    }
}
