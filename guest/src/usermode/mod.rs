//! User mode: how the kernel goes there, and comes back when something takes it out.
//!
//! To its caller user mode is a function ([`run`]) that returns with the reason. Entries from
//! user mode push their frame where the processor, or Xen, was told: at the end of the context's own
//! [`Frame`]. So registers lie in the context without being copied, and nothing of a program is on the
//! stack of the kernel thread that runs it.
//!
//! ```text
//! run ── enter: callee-saved registers, context's frame ──▶ user mode ◀── short way ─┐
//!  ▲                                                           │ system call,        │
//!  │                                                           │ exception, event    │
//!  └── callee-saved registers ◀── left: frame pushed into the context ── served ─────┘
//! ```
//!
//! Under Xen system calls and page faults are served before `run` would return ([`Serve`]). If nothing
//! waits for the program then it goes back by a short way: its registers are those that it left with, but
//! for a call's result, and need neither be looked at nor all be loaded.
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
use entry::{NOT_SERVED, OnExit, SERVED, SYSTEM_CALL, UPCALL};
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
    /// Something that was served.
    Served,
}

/// What became of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    /// It returned; the program could go on at once.
    Returned,
    /// Something is to be done before the program goes on.
    Waits,
    /// Nothing was done: it takes all of the program's registers.
    NotServed,
}

/// A program, and what serves it without user mode being left for long: all of its registers are in its
/// context only where [`run`] has returned.
pub(crate) trait Serve {
    /// Its registers.
    fn context(&mut self) -> &mut Context;

    /// Serves a system call, with upcalls open.
    fn call(&mut self) -> Called;

    /// Serves a page fault, with upcalls open. Whether the program could go on at once.
    fn page_fault(&mut self, address: u64, error: u64) -> bool;

    /// Gives others their turn, and then says whether nothing waits for the program that comes before user
    /// mode. Upcalls are masked.
    fn goes_on(&self) -> bool;
}

/// Runs a program until something takes it out of user mode that is not served, or that it does not go on
/// from at once, with upcalls masked from there on.
///
/// The vCPU is in the program's space. What the kernel has not set, such as vector registers, is
/// as the program that ran last on this vCPU left it.
///
/// # Errors
/// Xen's refusal of the context as a stack, which it would not use.
#[inline(always)]
pub(crate) fn run<S: Serve>(program: &mut S) -> Result<Exit, XenError> {
    let server: *mut S = program;
    // SAFETY: the program is borrowed up to the end, and nobody but `left` uses it meanwhile.
    let left = unsafe { (*server).context().enter(server.cast(), serving::<S>()) }?;
    Ok(match left {
        SERVED => Exit::Served,
        _ => program.context().exit(),
    })
}

/// What serves a program.
const fn serving<S: Serve>() -> OnExit {
    OnExit {
        called: called::<S>,
        left: left::<S>,
    }
}

/// Called when a system call left user mode under Xen.
///
/// # Safety
/// It is the server that user mode was entered with.
unsafe extern "C" fn called<S: Serve>(server: *mut ()) -> i32 {
    // SAFETY: `run` has it borrowed, and does not use it while user mode runs.
    let program = unsafe { &mut *server.cast::<S>() };
    HV.restore_upcalls(false);
    let called = program.call();
    HV.mask_upcalls();
    match called {
        Called::Returned => go_back(program),
        Called::Waits => SERVED,
        Called::NotServed => NOT_SERVED,
    }
}

/// Called when something else left user mode under Xen.
///
/// # Safety
/// It is the server that user mode was entered with.
unsafe extern "C" fn left<S: Serve>(server: *mut ()) -> i32 {
    // SAFETY: `run` has it borrowed, and does not use it while user mode runs.
    let program = unsafe { &mut *server.cast::<S>() };
    let frame = program.context().frame();
    if frame.vector != PAGE_FAULT {
        return NOT_SERVED;
    }
    let (address, error) = (fault_address(), frame.error);
    HV.restore_upcalls(false);
    let is_served = program.page_fault(address, error);
    HV.mask_upcalls();
    match is_served {
        true => go_back(program),
        false => SERVED,
    }
}

/// Whether a program goes back to user mode by the short way: 0 if so. By now it may be on another vCPU, or
/// entries from user mode push elsewhere.
#[inline(always)]
fn go_back<S: Serve>(program: &mut S) -> i32 {
    if !program.goes_on() {
        return SERVED;
    }
    let context = program.context();
    match cpu::here().user_top() == context.top() || context.retake_entries() {
        true => 0,
        false => SERVED,
    }
}

/// Serves nothing.
#[cfg(feature = "check")]
extern "C" fn serve_nothing(_: *mut ()) -> i32 {
    NOT_SERVED
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

    /// As [`run`], where nothing is served.
    ///
    /// # Errors
    /// As [`run`].
    #[cfg(feature = "check")]
    pub(crate) fn run(&mut self) -> Result<Exit, XenError> {
        let nothing = OnExit {
            called: serve_nothing,
            left: serve_nothing,
        };
        // SAFETY: what serves nothing uses no server.
        unsafe { self.enter(core::ptr::null_mut(), nothing) }?;
        Ok(self.exit())
    }

    /// Enters user mode, and returns what a function of `exit` did when it was left.
    ///
    /// # Safety
    /// The functions of `exit` may be called with the server. They return 0 only where upcalls are masked,
    /// entries from user mode push at the end of the frame, and its registers are as they were left.
    #[inline(always)]
    unsafe fn enter(&mut self, server: *mut (), exit: OnExit) -> Result<i32, XenError> {
        HV.mask_upcalls();
        self.confine();
        if cpu::here().user_top() != self.top() {
            self.take_entries()?;
        }
        // SAFETY: the frame is one of user mode, and entries from there push into it. The rest is the
        // caller's promise.
        Ok(unsafe { entry::enter(self, server, exit) })
    }

    /// The same on a way back; false if Xen refused, as it then does where that can be told.
    #[cold]
    #[inline(never)]
    fn retake_entries(&self) -> bool {
        self.take_entries().is_ok()
    }

    /// The end of the frame.
    #[inline]
    fn top(&self) -> u64 {
        (&raw const self.frame) as u64 + size_of::<Frame>() as u64
    }

    /// Has entries from user mode push below the end of the frame.
    #[inline(never)]
    fn take_entries(&self) -> Result<(), XenError> {
        let top = self.top();
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
