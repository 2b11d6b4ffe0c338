//! The way in: from Xen's first instruction to a kernel's `main`.
//!
//! Xen enters in 64-bit mode at ring 3 with paging on, RSI = virtual address of `start_info`,
//! RSP = top of a stack it built, upcalls masked (`xen/include/public/arch-x86/xen.h`, "PV guest
//! start-of-day").

use hypercall::abi::start_info::start_info;
use hypercall::mmu::{Scope, VaFlush, update_va_mapping};
use hypercall::{VirtAddr, Xen};

use crate::console::{self, ring};
use crate::image::{Image, P2M_LIST, VIRT_BASE};
use crate::start_info::{self as given, BootError, BootInfo, ConsoleInfo, Expect};
use crate::verdict::{self, Outcome};
use crate::{println, trap};

// SAFETY: this module is entered by what `entry!` makes, whose notes are those of a PV kernel alone.
// Where nobody entered so, nothing is asked: the console is closed.
pub(crate) const XEN: Xen = unsafe { Xen::new() };

/// What a kernel begins with.
pub struct Start {
    /// What Xen told the kernel, checked.
    pub info: BootInfo,
    /// Xen: whoever has a `Start` was entered by it.
    pub xen: Xen,
    pub(crate) given: &'static start_info,
    pub(crate) stack: u64,
}

impl Start {
    /// What Xen told the kernel, as it did: for what [`BootInfo`] leaves out. Its page is gone once the
    /// page tables are taken over.
    #[must_use]
    pub fn given(&self) -> &start_info {
        self.given
    }

    /// Where the stack pointer was as Xen entered.
    #[must_use]
    pub fn xen_stack(&self) -> u64 {
        self.stack
    }
}

/// The first Rust code.
///
/// # Safety
/// Called by the entry that [`entry!`] makes, with what Xen passed and the stubs of
/// [`trap_stubs!`](crate::trap_stubs).
#[doc(hidden)]
pub unsafe fn begin<O: Outcome>(
    address: u64,
    stack: u64,
    stubs: *const u8,
    main: fn(Start) -> O,
) -> ! {
    // An exception before the console is open is still better reported than fatal.
    // SAFETY: the stubs are of this image, which is never unmapped.
    let traps = unsafe { trap::install(&XEN, VirtAddr::from_ptr(stubs)) };
    // The console first: whatever is wrong with the rest can then be said.
    // SAFETY: the address is Xen's, and `Start` lends what is there no longer than it is.
    let opened = unsafe { open(address) };
    let parsed = opened.and_then(|given| Ok((given, parse(given, address)?)));
    let (given, info) = parsed.unwrap_or_else(|error| {
        console::open(ConsoleInfo::Hypervisor, None);
        println!("{error}");
        verdict::crash(error)
    });
    if let Err(error) = traps {
        panic!("trap table: {error}");
    }
    // SAFETY: the page below the stack is nobody's.
    if let Err(error) = unsafe { map_guard(0) } {
        panic!("guard page of the stack: {error}");
    }
    let xen = XEN;
    let start = Start {
        info,
        xen,
        given,
        stack,
    };
    verdict::end(&main(start))
}

/// Opens the console that `start_info` names.
///
/// # Safety
/// As [`given::read`].
unsafe fn open(address: u64) -> Result<&'static start_info, BootError> {
    // SAFETY: the caller's promise.
    let given = unsafe { given::read(address, VIRT_BASE) }?;
    let info = given::console(given)?;
    let page = match info {
        ConsoleInfo::Hypervisor => None,
        // SAFETY: the frame is the console's, and whoever takes the tables over moves the ring before
        // the initial mapping is gone.
        ConsoleInfo::Ring { mfn, .. } => Some(unsafe { ring::find(mfn, VIRT_BASE, END) }?),
    };
    console::open(info, page);
    Ok(given)
}

/// Where the initial mapping ends at the latest: what the image may be in.
const END: u64 = VIRT_BASE + (1 << 30);

fn parse(given: &start_info, address: u64) -> Result<BootInfo, BootError> {
    let expect = Expect {
        virt_base: VIRT_BASE,
        init_p2m: P2M_LIST,
        start_info: address,
    };
    BootInfo::parse(given, expect)
}

/// Writes the entry of the page below the stack.
///
/// # Safety
/// It maps nothing, or that page.
pub(crate) unsafe fn map_guard(entry: u64) -> Result<(), hypercall::XenError> {
    let guard = VirtAddr::new(Image::current().stack_guard.start);
    // SAFETY: nobody uses the page below the stack.
    unsafe { update_va_mapping(&XEN, guard, entry, VaFlush::Page(Scope::Local)) }
}
