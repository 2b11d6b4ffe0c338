//! Entries into the kernel, made on purpose: what Xen pushes, and which registers and flags it
//! leaves alone.
//!
//! The trap stubs have taken the frame apart when the observer sees it; from the place where they
//! left it follows where it was.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, Ordering};

use hypercall::abi::shared_info::vcpu_info;
use hypercall::{Hypervisor, Op, VirtAddr};
use rules::{Cause, Entry};

use crate::frame::Frame;
use crate::lock::Lock;
use crate::rank;
use crate::trap;
use crate::xen::HV;

/// The vector of `int n`: the instruction has the number in it.
const SOFTWARE: u8 = 0x81;
const BREAKPOINT: u8 = 3;
const DEVICE_NOT_AVAILABLE: u8 = 7;
/// What no entry reports.
const NONE: u8 = 254;
/// RCX and R11 where an entry is caused.
const MARKS: (u64, u64) = (0x1111, 0x2222);

/// What the handler found.
#[derive(Clone, Copy)]
struct Seen {
    frame: Frame,
    /// Where the lowest word of Xen's frame was.
    rsp: u64,
    mask: bool,
    cr2: u64,
}

static ARMED: AtomicBool = AtomicBool::new(false);
static SEEN: Lock<Option<Seen>, rank::Check> = Lock::new(None);

fn observer(frame: &Frame) -> bool {
    if !ARMED.swap(false, Ordering::Relaxed) {
        return false;
    }
    // Below RIP lie RCX, R11 and the error code, if the vector has one.
    let below = if frame.exception().has_error { 24 } else { 16 };
    let mask = HV.mask_upcalls();
    *SEEN.lock() = Some(Seen {
        frame: *frame,
        rsp: (&raw const frame.rip) as u64 - below,
        mask,
        cr2: crate::shared::fault_address().unwrap_or(0),
    });
    // Faults go on where the exception table says, the others behind the instruction.
    matches!(frame.vector as u8, BREAKPOINT | DEVICE_NOT_AVAILABLE)
}

global_asm!(
    // A handler of breakpoints that returns by `iretq`: CS needs privilege level 3 for it.
    ".pushsection .text.trap, \"ax\", @progbits",
    ".balign 16",
    "rulebook_iretq:",
    "    pop rcx",
    "    pop r11",
    "    or qword ptr [rsp + 8], 3",
    "    iretq",
    ".popsection",
);

unsafe extern "C" {
    static rulebook_iretq: [u8; 1];
}

/// Causes an entry and says what the handler found.
pub(super) fn enter(vcpu: *mut vcpu_info, cause: Cause, masked: bool) -> Option<Entry> {
    match cause {
        Cause::Breakpoint | Cause::PageFault(_) => {}
        Cause::Fpu => {
            // SAFETY: sets TS, nothing else; the kernel does not use the FPU.
            unsafe { HV.call(Op::FpuTaskswitch, [1, 0, 0, 0, 0]) };
        }
        Cause::Interrupt(SOFTWARE, dpl) => {
            trap::install_breakpoint(&HV, SOFTWARE, dpl).ok()?;
        }
        Cause::Interrupt(..) | Cause::Upcall => return None,
    }
    let was = with_mask(vcpu, masked);
    *SEEN.lock() = None;
    trap::observe(Some(observer));
    ARMED.store(true, Ordering::Relaxed);
    let stack = raise(cause);
    ARMED.store(false, Ordering::Relaxed);
    trap::observe(None);
    let seen = *SEEN.lock();
    let mask_after_iretq = match cause {
        Cause::Breakpoint => mask_after_iretq(vcpu),
        _ => None,
    };
    with_mask(vcpu, was);
    let nothing = Entry {
        vector: NONE,
        ..Entry::default()
    };
    let Some(Seen {
        frame,
        rsp,
        mask,
        cr2,
    }) = seen
    else {
        return Some(nothing);
    };
    let (low, high) = (
        [frame.rcx, frame.r11],
        [
            frame.rip,
            frame.cs_slot(),
            frame.rflags,
            frame.rsp,
            frame.ss,
        ],
    );
    let mut words = [0; 8];
    words[..2].copy_from_slice(&low);
    match frame.exception().has_error {
        true => {
            words[2] = frame.error;
            words[3..].copy_from_slice(&high);
        }
        false => words[2..7].copy_from_slice(&high),
    }
    // The gate of `int n` leads to the breakpoint's stub.
    let vector = match cause {
        Cause::Interrupt(number, _) if frame.vector as u8 == BREAKPOINT => number,
        _ => frame.vector as u8,
    };
    Some(Entry {
        vector,
        rsp,
        frame: words,
        rcx_r11: MARKS,
        stack,
        mask: (masked, mask),
        cr2,
        mask_after_iretq,
    })
}

/// Sets the upcall mask as such, without a look at what is pending; says what it was.
fn with_mask(vcpu: *mut vcpu_info, mask: bool) -> bool {
    // SAFETY: this vCPU's mask, a byte that Xen reads and writes whole, mapped for good.
    unsafe {
        let byte = &raw mut (*vcpu).evtchn_upcall_mask;
        let was = byte.read_volatile();
        byte.write_volatile(mask.into());
        was != 0
    }
}

/// The instruction that causes an entry. Returns RSP at that instruction.
fn raise(cause: Cause) -> u64 {
    let stack: u64;
    // SAFETY: each raises an exception that the observer deals with, or that the exception table
    // sends to the instruction behind with a word in RAX; every register changed is named.
    unsafe {
        match cause {
            Cause::PageFault(va) => asm!(
                "mov {stack}, rsp",
                "2: mov {va}, [{va}]",
                xen_pv_rt::goes_on_behind!(),
                stack = out(reg) stack,
                va = inout(reg) va => _,
                inout("rcx") MARKS.0 => _,
                inout("r11") MARKS.1 => _,
                inout("rax") 0_u64 => _,
            ),
            Cause::Interrupt(..) => asm!(
                "mov {stack}, rsp",
                "2: int {vector}",
                xen_pv_rt::goes_on_behind!(),
                vector = const SOFTWARE,
                stack = out(reg) stack,
                inout("rcx") MARKS.0 => _,
                inout("r11") MARKS.1 => _,
                inout("rax") 0_u64 => _,
            ),
            Cause::Fpu => asm!(
                "mov {stack}, rsp",
                "fnop",
                stack = out(reg) stack,
                inout("rcx") MARKS.0 => _,
                inout("r11") MARKS.1 => _,
            ),
            Cause::Breakpoint | Cause::Upcall => asm!(
                "mov {stack}, rsp",
                "int3",
                stack = out(reg) stack,
                inout("rcx") MARKS.0 => _,
                inout("r11") MARKS.1 => _,
            ),
        }
    }
    stack
}

/// The upcall mask after a handler that was entered with it set has returned by `iretq`.
fn mask_after_iretq(vcpu: *mut vcpu_info) -> Option<bool> {
    let handler = VirtAddr::from_ptr(&raw const rulebook_iretq);
    // SAFETY: the handler is written for an exception without an error code, and part of the image.
    unsafe { trap::install_stub(&HV, BREAKPOINT, handler, 3) }.ok()?;
    let was = with_mask(vcpu, false);
    raise(Cause::Breakpoint);
    let after = with_mask(vcpu, was);
    // Every handler as it was.
    trap::install(&HV).ok()?;
    Some(after)
}

/// Makes a hypercall, and says what its argument registers hold afterwards.
pub(super) fn registers_after(number: u64, args: [u64; 5]) -> [u64; 5] {
    let [mut a, mut b, mut c, mut d, mut e] = args;
    // SAFETY: the test asks for a hypercall that does not concern the kernel's memory; Xen changes
    // the registers named and no other.
    unsafe {
        asm!(
            "syscall",
            inout("rax") number => _,
            inout("rdi") a,
            inout("rsi") b,
            inout("rdx") c,
            inout("r10") d,
            inout("r8") e,
            out("rcx") _,
            out("r11") _,
        );
    }
    [a, b, c, d, e]
}

/// The upcall mask after the flag instruction that would change it.
pub(super) fn mask_after_flag_instruction(vcpu: *mut vcpu_info, mask: bool) -> bool {
    let was = with_mask(vcpu, mask);
    // SAFETY: as for the page fault in `raise`; the instructions change no register.
    unsafe {
        match mask {
            true => asm!(
                "2: sti",
                xen_pv_rt::goes_on_behind!(),
                inout("rax") 0_u64 => _,
            ),
            false => asm!(
                "2: cli",
                xen_pv_rt::goes_on_behind!(),
                inout("rax") 0_u64 => _,
            ),
        }
    }
    with_mask(vcpu, was)
}
