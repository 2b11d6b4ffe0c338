//! Boot as a Xen PV guest.

use hypercall::abi::start_info::start_info;
use linker::{Image, VIRT_BASE};

use super::cmdline;
use super::info::{self, BootError, BootInfo, ConsoleInfo, Expect};
use crate::console::{self, ring};
use crate::mm::layout;
use crate::xen::XEN;
use crate::{power, println, trap, verdict};

/// First Rust code: everything later is reached from here.
pub(crate) extern "C" fn start(start_info: u64) -> ! {
    // An exception before the console is open is still better reported than fatal.
    let traps = trap::install(&XEN);
    let info = read_start_info(start_info);
    match &info {
        Ok(info) => console::init(info.console, ring_page(info)),
        Err(_) => console::init(ConsoleInfo::Hypervisor, None),
    }
    let info = info.unwrap_or_else(|e| {
        println!("{e}");
        verdict::crash(e);
        power::crash()
    });
    if let Err(e) = traps {
        println!("trap table: {e}");
    }
    println!(
        "hello from {}: {} pages, {:?}",
        info.magic, info.nr_pages, info.flags
    );
    println!("{:x?}", Image::current());
    let options = match cmdline::parse(&info.cmdline) {
        Ok(options) => options,
        Err(e) => {
            println!("{e}");
            verdict::fail(e);
            power::off()
        }
    };
    match options.provoke {
        Some(cmdline::Provoke::Panic) => panic!("provoked by the command line"),
        Some(cmdline::Provoke::PageFault) => {
            // SAFETY: never succeeds: nothing is mapped there, the fault is the point.
            unsafe { (0xdead_beef_0000_u64 as *const u64).read_volatile() };
        }
        _ => {}
    }
    verdict::pass("via=pv");
    power::off()
}

fn read_start_info(address: u64) -> Result<BootInfo, BootError> {
    info::check_pointer(address, VIRT_BASE)?;
    // SAFETY: Xen passes a page-aligned address in the initial mapping, checked as far as can be;
    // the structure is integers and shorter than the page.
    let si = unsafe { &*(address as *const start_info) };
    BootInfo::parse(
        si,
        Expect {
            virt_base: VIRT_BASE,
            init_p2m: layout::P2M.start,
            start_info: address,
        },
    )
}

fn ring_page(info: &BootInfo) -> Option<&'static ring::Page> {
    let ConsoleInfo::Ring { mfn, .. } = info.console else {
        return None;
    };
    let m2p = 0xffff_8000_0000_0000_u64 + mfn.as_u64() * 8;
    let pfn = trap::probe::read(m2p).ok()?;
    let page = VIRT_BASE + pfn * 4096;
    trap::probe::read(page).ok()?;
    // SAFETY: the frame is the console's.
    Some(unsafe { &*(page as *const ring::Page) })
}
