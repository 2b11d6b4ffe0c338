//! Segments and the task state of each processor, which PV leaves to Xen: flat code and data, and stacks
//! of their own for double faults, so that a kernel whose stack overflowed can still say so, and for what
//! one processor has another do at once ([`Summons`]).
//!
//! At the upper end of the latter stack is the address of the processor's summons: whoever comes there
//! may have interrupted code in which no register leads anywhere.

use core::cell::UnsafeCell;

use marks::native;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use super::processors;
use super::summons::Summons;
use crate::usermode;

/// The entry of the interrupt stack table that double faults use.
pub(crate) const DOUBLE_FAULT_STACK: u16 = 0;
/// That of interrupts that cannot be masked.
pub(crate) const SUMMONS_STACK: u16 = 1;
/// What is kept at the upper end of the latter's stack, in bytes.
pub(crate) const KEPT: u64 = 16;

/// Enough for a report inside a report.
const STACK: usize = 16 * 1024;

#[repr(C, align(16))]
struct Stack([u8; STACK]);

/// The boot processor's two.
#[native]
static mut EMERGENCY: [Stack; 2] = [const { Stack([0; STACK]) }; 2];

/// Where the task state has the stack for entries from user mode: behind four reserved bytes (SDM volume
/// 3, 8.7).
const STACK_WORD: usize = 4;

/// What a processor has.
pub(super) struct Descriptors {
    state: UnsafeCell<TaskStateSegment>,
    table: UnsafeCell<GlobalDescriptorTable>,
}

// SAFETY: the one processor whose they are changes them, as it loads them; after that it changes one word of
// the state, and what the processor does to both by itself.
unsafe impl Sync for Descriptors {}
// SAFETY: integers.
unsafe impl Send for Descriptors {}

/// Loads those of the boot processor.
#[native]
pub(crate) fn install() {
    let stacks = (&raw const EMERGENCY).cast::<u8>().addr() as u64;
    let tops = [1, 2].map(|count| stacks + count * STACK as u64);
    let boot = processors::boot();
    boot.summons.set_area(boot.area().base());
    // SAFETY: the two stacks are nobody else's, one behind the other.
    unsafe { boot.descriptors.load(tops, &boot.summons) };
}

impl Descriptors {
    pub(super) const fn new() -> Descriptors {
        Descriptors {
            state: UnsafeCell::new(TaskStateSegment::new()),
            table: UnsafeCell::new(GlobalDescriptorTable::new()),
        }
    }

    /// Loads them on this processor, whose they are, with the upper ends of its two stacks, and readies it
    /// for user mode.
    ///
    /// # Safety
    /// The processor uses none of it yet, or not any more. The stacks are 16-byte aligned, nobody else's, and
    /// mapped for good.
    #[native]
    pub(super) unsafe fn load(
        &'static self,
        [double_fault, summoned]: [u64; 2],
        summons: &'static Summons,
    ) {
        let kept = core::ptr::with_exposed_provenance_mut::<u64>((summoned - KEPT) as usize);
        let (state, table) = (self.state.get(), self.table.get());
        // SAFETY: the stack is this processor's, by this function's contract, as is the state, which is not
        // in use.
        unsafe {
            kept.write(core::ptr::from_ref(summons).expose_provenance() as u64);
            (*state).interrupt_stack_table[usize::from(DOUBLE_FAULT_STACK)] =
                VirtAddr::new_truncate(double_fault);
            (*state).interrupt_stack_table[usize::from(SUMMONS_STACK)] =
                VirtAddr::new_truncate(summoned - KEPT);
        }
        // SAFETY: the table is this processor's, and is not in use. It is made anew, as the processor marks the
        // task state that it loads. The selectors are those of the table just loaded, flat like the segments
        // in use; state and table live for good.
        unsafe {
            table.write(GlobalDescriptorTable::new());
            let table = &mut *table;
            let code = table.append(Descriptor::kernel_code_segment());
            let data = table.append(Descriptor::kernel_data_segment());
            // Behind the kernel's, where user mode expects its own.
            table.append(Descriptor::user_data_segment());
            table.append(Descriptor::user_code_segment());
            let task = table.append(Descriptor::tss_segment_unchecked(state));
            table.load_unsafe();
            CS::set_reg(code);
            SS::set_reg(data);
            DS::set_reg(data);
            ES::set_reg(data);
            load_tss(task);
            usermode::set_stack_word(state.cast::<u8>().add(STACK_WORD).cast());
        }
        usermode::install_native();
    }
}
