//! User mode: how the kernel goes there, and comes back when something takes it out.
//!
//! To its caller user mode is a function ([`Context::run`]) that returns with the reason. Entries from
//! user mode push their frame where the processor, or Xen, was told: at the end of the context's own
//! [`Frame`]. So registers lie in the context without being copied, and nothing of a program is on the
//! stack of the kernel thread that runs it.
//!
//! ```text
//! run ── enter: callee-saved registers, context's frame ──▶ user mode
//!  ▲                                                           │ system call, exception, event
//!  └── left: callee-saved registers ◀── frame pushed into the context
//! ```
//!
//! An event that comes meanwhile is taken only once the caller opens upcalls: it still waits then.
//! Interrupts of the kernel's own vectors are taken already and must be passed on by the caller.

/// The asm text by which an entry goes another way if it came out of user mode: the code segment's
/// place above RSP, and where to.
macro_rules! leave_to {
    ($cs:literal, $exit:literal) => {
        concat!("test byte ptr [rsp + ", $cs, "], 3\njnz ", $exit)
    };
}
pub(crate) use leave_to;

mod entry;
mod fpu;
mod native;

use hypercall::VirtAddr;
use hypercall::abi::arch::{FLAT_USER_CS, FLAT_USER_SS, VGCF_in_syscall};
use hypercall::descriptor::{SegmentBase, set_segment_base, stack_switch};
use hypercall::{Hypervisor, XenError};

use crate::frame::Frame;
use crate::xen::HV;
use crate::{cpu, probe, shared, subarch};

pub(crate) use entry::install;
use entry::{SYSTEM_CALL, UPCALL};
pub(crate) use fpu::Extended;
pub(crate) use native::{install as install_native, selectors, set_stack_word};

const PAGE_FAULT: u64 = 14;
/// The first vector that no exception has.
const INTERRUPTS: u64 = 32;

/// Flags that a program may set for itself: the arithmetic ones, TF, DF, AC and ID.
const FLAGS: u64 = 0x0024_0dd5;
/// Always set: interrupts, and the bit that has no meaning.
const FLAGS_SET: u64 = 0x202;
/// The first address that is no program's, a page below the end of the lower half, as the instruction
/// behind a `syscall` at its very end would have an address that is not canonical.
pub(crate) const END: u64 = (1 << 47) - 4096;

/// Why user mode was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// A system call: its number and arguments are in the registers.
    SystemCall,
    /// A page fault: the address, and the error code.
    PageFault {
        /// What was accessed.
        address: u64,
        /// As the processor says it.
        error: u64,
    },
    /// Another exception: vector and error code.
    Exception {
        /// Below 32.
        vector: u8,
        /// As the processor says it.
        error: u64,
    },
    /// An interrupt that is taken already, by its vector.
    Interrupt(u64),
    /// An event, which waits.
    Event,
}

/// The registers of a program, while it does not run.
#[repr(C, align(16))]
#[derive(Debug)]
pub(crate) struct Context {
    frame: Frame,
    /// Where the stack of the caller of `run` was.
    kernel_rsp: u64,
}

/// Where FS and GS lead in user mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bases {
    pub(crate) fs: u64,
    pub(crate) gs: u64,
}

impl Bases {
    /// Has FS and, in user mode, GS lead there, on this vCPU.
    ///
    /// # Errors
    /// Xen's refusal of an address that is not canonical.
    pub(crate) fn load(self) -> Result<(), XenError> {
        let Bases { fs, gs } = self;
        if !subarch::is_pv() {
            native::set_bases(fs, gs);
            return Ok(());
        }
        let here = cpu::here();
        let [told_fs, told_gs] = here.told_bases();
        // User mode changes them by itself, by a selector; but all that it could load lead to 0, as nobody
        // has an LDT, and Xen lets nobody write bases who has not asked for that (CR4.FSGSBASE). So one that is
        // 0, as Xen was told last, is that still.
        let is_known = |told, wanted| (told, wanted) == (0, 0);
        here.note_bases(None);
        // SAFETY: the kernel addresses nothing through FS, and has a GS base of its own.
        unsafe {
            if !is_known(told_fs, fs) {
                set_segment_base(&HV, SegmentBase::Fs, fs)?;
            }
            if !is_known(told_gs, gs) {
                set_segment_base(&HV, SegmentBase::GsUser, gs)?;
            }
        }
        here.note_bases(Some([fs, gs]));
        Ok(())
    }
}

impl Context {
    /// A program that begins at an instruction, with a stack.
    pub(crate) fn new(rip: u64, rsp: u64) -> Context {
        let mut context = Context {
            frame: Frame::default(),
            kernel_rsp: 0,
        };
        context.frame.rip = rip;
        context.frame.rsp = rsp;
        context.frame.rflags = FLAGS_SET;
        context
    }

    /// Its registers.
    pub(crate) fn frame(&self) -> &Frame {
        &self.frame
    }

    /// Its registers, to be changed. Whatever they say, user mode is all that is entered with them.
    pub(crate) fn frame_mut(&mut self) -> &mut Frame {
        &mut self.frame
    }

    /// The registers are not those that a call returns with: none of them may be lost on the way back.
    pub(crate) fn replaced(&mut self) {
        self.frame.vector = 0;
    }

    /// The same registers, for another thread.
    pub(crate) fn duplicate(&self) -> Context {
        Context {
            frame: self.frame,
            kernel_rsp: 0,
        }
    }

    /// Runs the program until something takes it out of user mode, with upcalls masked from there on.
    ///
    /// The vCPU is in the program's space. What the kernel has not set, such as vector registers, is
    /// as the program that ran last on this vCPU left it.
    ///
    /// # Errors
    /// Xen's refusal of the context as a stack, which it would not use.
    #[inline(always)]
    pub(crate) fn run(&mut self) -> Result<Exit, XenError> {
        HV.mask_upcalls();
        self.confine();
        let top = (&raw const self.frame) as u64 + size_of::<Frame>() as u64;
        if cpu::here().user_top() != top {
            self.take_entries(top)?;
        }
        // SAFETY: the frame is one of user mode, and entries from there push into it.
        unsafe { entry::enter(self) };
        Ok(self.exit())
    }

    /// Has entries from user mode push below `top`, the end of the frame.
    #[inline(never)]
    fn take_entries(&self, top: u64) -> Result<(), XenError> {
        if subarch::is_pv() {
            // SAFETY: the context is mapped and stays the caller's while user mode runs; entries push
            // there what makes up a frame, and no more.
            unsafe { stack_switch(&HV, VirtAddr::new_truncate(top)) }?;
        } else {
            native::set_stack(top);
        }
        cpu::here().set_user_top(top);
        Ok(())
    }

    /// Has the frame lead to user mode and nowhere else.
    fn confine(&mut self) {
        let (cs, ss) = if subarch::is_pv() {
            (u64::from(FLAT_USER_CS), u64::from(FLAT_USER_SS))
        } else {
            selectors()
        };
        let by_call = self.frame.vector == SYSTEM_CALL;
        self.frame.set_segments(cs, ss);
        self.frame.rflags = self.frame.rflags & FLAGS | FLAGS_SET;
        if self.frame.rip >= END {
            // What is fetched there faults as what a program may not reach.
            self.frame.rip = END;
        }
        // After a call RCX and R11 have what `syscall` leaves there, and so the shorter way back has.
        let short = by_call && self.frame.rcx == self.frame.rip;
        self.frame.vector = if short { VGCF_in_syscall.into() } else { 0 };
    }

    fn exit(&self) -> Exit {
        match self.frame.vector {
            SYSTEM_CALL => Exit::SystemCall,
            UPCALL => Exit::Event,
            PAGE_FAULT => Exit::PageFault {
                address: fault_address(),
                error: self.frame.error,
            },
            vector if vector < INTERRUPTS => Exit::Exception {
                vector: vector as u8,
                error: self.frame.error,
            },
            vector => Exit::Interrupt(vector),
        }
    }
}

/// Whether a page fault comes with its address, without which no program can be run: where virtualisation
/// is emulated, Xen 4.17 loses it.
pub(crate) fn has_fault_addresses() -> bool {
    let masked = HV.mask_upcalls();
    // Nothing is ever mapped there.
    let faulted = probe::read(END).is_err();
    let address = fault_address();
    HV.restore_upcalls(masked);
    faulted && address == END
}

/// The address that the last page fault was about.
fn fault_address() -> u64 {
    if subarch::is_pv() {
        return shared::fault_address().unwrap_or(0);
    }
    x86_64::registers::control::Cr2::read_raw()
}
