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
use crate::pc::descriptors::{DOUBLE_FAULT_STACK, KEPT, SUMMONS_STACK};
use crate::pc::{interrupts, summons};

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
    "",
    // On a stack of its own, above whose beginning is where the summons are.
    ".balign 16",
    "native_summoned:",
    "    push rax",
    "    push rcx",
    "    mov rax, [rsp + {summons}]",
    "    test dword ptr [rax], {stop}",
    "    jnz 3f",
    "    test dword ptr [rax], {flush}",
    "    jz 4f",
    "    mov rcx, cr3",
    "    mov cr3, rcx",
    "    lock and dword ptr [rax], ~{flush}",
    // About to sleep: not if what it looked at before has changed since.
    "    lea rcx, [rip + native_sleeps]",
    "    cmp rcx, [rsp + 16]",
    "    jne 2f",
    "    inc qword ptr [rsp + 16]",
    "2:  pop rcx",
    "    pop rax",
    "    iretq",
    "3:  lock or dword ptr [rax], {stopped}",
    "    hlt",
    "    jmp 3b",
    // Nobody's summons: reported as one from outside. Where it came, GS may not be the kernel's.
    "4:  push rdx",
    "    push rbx",
    "    mov rbx, rax",
    "    mov ecx, {gs_base}",
    "    rdmsr",
    "    mov [rbx + {was}], eax",
    "    mov [rbx + {was} + 4], edx",
    "    mov eax, [rbx + {area}]",
    "    mov edx, [rbx + {area} + 4]",
    "    wrmsr",
    "    pop rbx",
    "    pop rdx",
    "    pop rcx",
    "    pop rax",
    "    push 0",
    "    push {nmi}",
    xen_pv_rt::call_with_frame!(),
    "    add rsp, 16",
    "    push rax",
    "    push rcx",
    "    push rdx",
    "    mov rdx, [rsp + {summons} + 8]",
    "    mov eax, [rdx + {was}]",
    "    mov edx, [rdx + {was} + 4]",
    "    mov ecx, {gs_base}",
    "    wrmsr",
    "    pop rdx",
    "    pop rcx",
    "    pop rax",
    "    iretq",
    ".popsection",
    summons = const 16 + PUSHED,
    flush = const summons::FLUSH,
    stop = const summons::STOP,
    stopped = const summons::STOPPED,
    area = const summons::AREA,
    was = const summons::WAS,
    gs_base = const GS_BASE,
    nmi = const super::nmi::VECTOR,
    vectors = const VECTORS,
    with_error = const crate::frame::vectors_with_error(),
    handler = sym handle,
);

/// The register of the GS base.
const GS_BASE: u32 = 0xc000_0101;
/// What the processor pushes: SS, RSP, the flags, CS, RIP.
const PUSHED: u64 = 40;

// What is kept at the end of the stack begins where the processor begins to push.
const _: () = assert!(KEPT.is_multiple_of(16));

unsafe extern "C" {
    static native_trap_stubs: [[u8; 16]; VECTORS];
    static native_summoned: u8;
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
    // registers and returns by `iretq`; the two stacks are nobody else's.
    unsafe {
        macro_rules! set {
            ($($vector:literal $field:ident)*) => {
                $(idt.$field.set_handler_addr(stub($vector));)*
            };
        }
        set! {
            0 divide_error 1 debug
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
        idt.non_maskable_interrupt
            .set_handler_addr(VirtAddr::from_ptr(&raw const native_summoned))
            .set_stack_index(SUMMONS_STACK);
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
    unsafe { (&raw mut IDT).write(MaybeUninit::new(table())) };
    load();
}

/// Loads the same table on another processor.
#[native]
pub(crate) fn load() {
    // Else the compiler could put the address into what is called, which stays after boot.
    let table = core::hint::black_box(&raw const IDT).cast::<InterruptDescriptorTable>();
    // SAFETY: it was made as the boot processor's was loaded, before any other ran.
    unsafe { (*table).load() };
}

// A stub pushes its vector as one signed byte, which is what lets it fit in its 16 bytes.
const _: () = assert!(VECTORS <= 128);
