//! Segments and the task state, which PV leaves to Xen: flat code and data, and one stack of its
//! own for double faults, so that a kernel whose stack overflowed can still say so.

use core::cell::UnsafeCell;

use marks::native;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

use crate::usermode;

/// The entry of the interrupt stack table that double faults use.
pub(crate) const DOUBLE_FAULT_STACK: u16 = 0;

/// Enough for a report inside a report.
const STACK: usize = 16 * 1024;

#[repr(C, align(16))]
struct Stack([u8; STACK]);

#[native]
static mut EMERGENCY: Stack = Stack([0; STACK]);
static TSS: Once<State> = Once::new();
static GDT: Once<(GlobalDescriptorTable, [SegmentSelector; 3])> = Once::new();

/// Where the task state has the stack for entries from user mode: behind four reserved bytes (SDM volume
/// 3, 8.7).
const STACK_WORD: usize = 4;

/// The task state. The processor reads it by itself, and its stack changes while it does.
struct State(UnsafeCell<TaskStateSegment>);

// SAFETY: after it is loaded one word of it changes, by the one processor that uses it.
unsafe impl Sync for State {}
// SAFETY: after it is loaded one word of it changes, by the one processor that uses it.
unsafe impl Send for State {}

/// Loads the tables.
#[native]
pub(crate) fn install() {
    let mut tss = TaskStateSegment::new();
    let stack = VirtAddr::from_ptr(&raw const EMERGENCY);
    tss.interrupt_stack_table[usize::from(DOUBLE_FAULT_STACK)] = stack + STACK as u64;
    let tss = TSS.call_once(|| State(UnsafeCell::new(tss)));
    let (gdt, [code, data, task]) = GDT.call_once(|| {
        let mut gdt = GlobalDescriptorTable::new();
        let code = gdt.append(Descriptor::kernel_code_segment());
        let data = gdt.append(Descriptor::kernel_data_segment());
        // Behind the kernel's, where user mode expects its own.
        gdt.append(Descriptor::user_data_segment());
        gdt.append(Descriptor::user_code_segment());
        // SAFETY: the state lives for good.
        let task = gdt.append(unsafe { Descriptor::tss_segment_unchecked(tss.0.get()) });
        (gdt, [code, data, task])
    });
    gdt.load();
    // SAFETY: the selectors are those of the table just loaded, flat like the ones in use; the
    // task state lives for good.
    unsafe {
        CS::set_reg(*code);
        SS::set_reg(*data);
        DS::set_reg(*data);
        ES::set_reg(*data);
        load_tss(*task);
        let state: *const TaskStateSegment = tss.0.get();
        usermode::set_stack_word(state.cast_mut().cast::<u8>().add(STACK_WORD).cast());
    }
    usermode::install_native();
}
