//! The entries of exceptions and interrupts where the processor delivers to the kernel itself.
//!
//! It pushes no rcx and r11, and returns by `iretq`; otherwise the stubs leave the same [`Frame`]
//! and call the same handler as those for Xen. Every gate is an interrupt gate, so that interrupts
//! are off throughout. A vector without a gate is an exception whose error code names it (SDM volume
//! 3, 6.13).

use core::arch::global_asm;
use core::mem::MaybeUninit;

use marks::native;
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::{PrivilegeLevel, VirtAddr};

use crate::frame::Frame;
use crate::pc::descriptors::DOUBLE_FAULT_STACK;
use crate::pc::interrupts;

/// Vectors that have a stub: up to the last interrupt.
const VECTORS: usize = interrupts::LAST as usize + 1;

global_asm!(
    ".pushsection .native.text, \"ax\", @progbits",
    ".balign 16",
    "native_trap_stubs:",
    ".set native_vector, 0",
    ".rept {vectors}",
    "    .balign 16",
    "    .if ({with_error} >> native_vector) & 1 == 0",
    "    push 0",
    "    .endif",
    "    push native_vector",
    "    jmp native_trap_common",
    "    .set native_vector, native_vector + 1",
    ".endr",
    "",
    "native_trap_common:",
    crate::usermode::leave_to!(24, "native_usermode_left"),
    xen_pv_rt::call_with_frame!(),
    // Vector and error code.
    "    add rsp, 16",
    "    iretq",
    ".popsection",
    vectors = const VECTORS,
    with_error = const crate::frame::vectors_with_error(),
    handler = sym handle,
);

unsafe extern "C" {
    static native_trap_stubs: [[u8; 16]; VECTORS];
}

#[native]
extern "C" fn handle(frame: &mut Frame) {
    frame.note_interrupt_flag();
    if !interrupts::take(frame.vector) {
        super::dispatch(frame);
    }
}

#[native]
static mut IDT: MaybeUninit<InterruptDescriptorTable> = MaybeUninit::zeroed();

/// A gate for every stub.
#[native]
fn table() -> InterruptDescriptorTable {
    let stub = |vector: usize| {
        // SAFETY: only the address of an element inside the stub array is taken.
        let stub = unsafe {
            (&raw const native_trap_stubs)
                .cast::<[u8; 16]>()
                .add(vector)
        };
        VirtAddr::from_ptr(stub)
    };
    let mut idt = InterruptDescriptorTable::new();
    // SAFETY: every address is a stub of this image that is written for its vector, saves all
    // registers and returns by `iretq`; the stack of double faults is nobody else's.
    unsafe {
        macro_rules! set {
            ($($vector:literal $field:ident)*) => {
                $(idt.$field.set_handler_addr(stub($vector));)*
            };
        }
        set! {
            0 divide_error 1 debug 2 non_maskable_interrupt
            5 bound_range_exceeded 6 invalid_opcode 7 device_not_available
            10 invalid_tss 11 segment_not_present 12 stack_segment_fault
            13 general_protection_fault 14 page_fault 16 x87_floating_point
            17 alignment_check 18 machine_check 19 simd_floating_point
        }
        // The two that programs may raise by an instruction of their own.
        idt.breakpoint
            .set_handler_addr(stub(3))
            .set_privilege_level(PrivilegeLevel::Ring3);
        idt.overflow
            .set_handler_addr(stub(4))
            .set_privilege_level(PrivilegeLevel::Ring3);
        idt.double_fault
            .set_handler_addr(stub(8))
            .set_stack_index(DOUBLE_FAULT_STACK);
        for vector in interrupts::FIRST..=interrupts::LAST {
            idt[vector].set_handler_addr(stub(usize::from(vector)));
        }
    }
    idt
}

/// Loads the table of the stubs. The segments must be loaded before.
#[native]
pub(crate) fn install() {
    // SAFETY: the boot comes by here once, and only the processor looks at the table from then on.
    unsafe {
        (&raw mut IDT).write(MaybeUninit::new(table()));
        (*(&raw const IDT).cast::<InterruptDescriptorTable>()).load();
    }
}

// A stub pushes its vector as one signed byte, which is what lets it fit in its 16 bytes.
const _: () = assert!(VECTORS <= 128);
