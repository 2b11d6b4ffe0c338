//! Segments and the task state, which PV leaves to Xen: flat code and data, and one stack of its
//! own for double faults, so that a kernel whose stack overflowed can still say so.

use marks::native;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// The entry of the interrupt stack table that double faults use.
pub(crate) const DOUBLE_FAULT_STACK: u16 = 0;

/// Enough for a report inside a report.
const STACK: usize = 16 * 1024;

#[repr(C, align(16))]
struct Stack([u8; STACK]);

#[native]
static mut EMERGENCY: Stack = Stack([0; STACK]);
static TSS: Once<TaskStateSegment> = Once::new();
static GDT: Once<(GlobalDescriptorTable, [SegmentSelector; 3])> = Once::new();

/// Loads the tables.
#[native]
pub(crate) fn install() {
    let mut tss = TaskStateSegment::new();
    let stack = VirtAddr::from_ptr(&raw const EMERGENCY);
    tss.interrupt_stack_table[usize::from(DOUBLE_FAULT_STACK)] = stack + STACK as u64;
    let tss = TSS.call_once(|| tss);
    let (gdt, [code, data, task]) = GDT.call_once(|| {
        let mut gdt = GlobalDescriptorTable::new();
        let code = gdt.append(Descriptor::kernel_code_segment());
        let data = gdt.append(Descriptor::kernel_data_segment());
        let task = gdt.append(Descriptor::tss_segment(tss));
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
    }
}
