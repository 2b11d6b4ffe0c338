//! Boot as a Xen PV guest: from the entry shim to a kernel that owns its memory.

use core::ptr::NonNull;

use hypercall::Mfn;
use hypercall::abi::start_info::start_info;
use hypercall::event::Port;
use linker::{Image, VIRT_BASE};
use marks::init;
use pagetable::pv::FrameLists;
use xen_pv_rt::console::ring;

use super::common::{self, Entered, prepare, start_kernel_common};
use super::fixmap;
use super::processor;
use crate::before::{Before, Kind};
use crate::console;
use crate::mm::layout::{self, Fixed};
use crate::mm::machine::Machine;
use crate::mm::running::Running;
use crate::mm::tables::Fold;
use crate::mm::takeover::{Early, Initial, Start, Summary};
use crate::mm::{self, MmError};
use crate::start_info::{
    self as given, BootError, BootInfo, ConsoleInfo, Expect, Flags, StoreInfo,
};
use crate::subarch::Subarch;
use crate::xen::HV;
use crate::{cpu, power, println, shared, time, trap, verdict, xenstore};

const PAGE: u64 = 4096;

/// First Rust code: everything later is reached from here.
///
/// `address` is that of `start_info`, `stack` the top of the stack that Xen provided.
#[init]
pub(crate) extern "C" fn start(address: u64, stack: u64) -> ! {
    cpu::begin();
    time::entered();
    // An exception before the console is open is still better reported than fatal.
    let traps = trap::install(&HV);
    // The console first: whatever is wrong with the rest can then be said.
    let opened = read_start_info(address).and_then(|si| Ok((open_console(si)?, si)));
    let info = opened.and_then(|(ring, si)| {
        console::init(ring.0, ring.1);
        common::greet("Xen");
        parse(si, address)
    });
    let info = info.unwrap_or_else(|e| {
        console::init_if_closed();
        println!("{e}");
        verdict::crash(e);
        power::crash()
    });
    if let Err(e) = traps {
        panic!("trap table: {e}");
    }
    if let Some(feature) = processor::lacking(processor::cpuid_by_xen) {
        processor::refuse(feature);
    }
    // Later the pages that tell are used for something else.
    let before = read_start_info(address).map(|si| look(si, &info, stack));
    let entered = Entered {
        via: via(&info),
        by: &info.magic,
        cmdline: &info.cmdline,
        privileged: info.flags.contains(Flags::PRIVILEGED),
        console: info.console,
        module: info.module,
        before: before.ok(),
    };
    let options = prepare(Subarch::XenPv, &entered);
    start_kernel_common(&entered, &options, memory(&info, address, stack))
}

#[init]
fn look(si: &start_info, info: &BootInfo, stack: u64) -> Before {
    let table = |mfn| {
        let pfn = machine(info).pfn(mfn)?;
        Some(VIRT_BASE + pfn.as_u64() * PAGE)
    };
    // Behind the stack is padding, which nobody has touched.
    Before::look(kind(info), si, info.pt_base, stack, table)
}

/// How the kernel was started. The shim passes on the power-management bits that Xen gives to what
/// it starts first, without the privileges; a toolstack passes none.
#[init]
fn kind(info: &BootInfo) -> Kind {
    if info.flags.contains(Flags::PRIVILEGED) {
        Kind::Dom0
    } else if info.flags.intersects(Flags::INITDOMAIN | Flags::PM_MASK) {
        Kind::Shim
    } else {
        Kind::DomU
    }
}

#[init]
fn via(info: &BootInfo) -> &'static str {
    match kind(info) {
        Kind::Dom0 => "xen-pv dom0",
        Kind::Shim => "xen-pv shim",
        Kind::DomU => "xen-pv domU",
    }
}

#[init]
fn read_start_info(address: u64) -> Result<&'static start_info, BootError> {
    // SAFETY: Xen passed the address, and nobody reads there once the page is reused.
    unsafe { given::read(address, VIRT_BASE) }
}

#[init]
fn parse(si: &start_info, address: u64) -> Result<BootInfo, BootError> {
    let init_p2m = layout::P2M.start;
    BootInfo::parse(
        si,
        Expect {
            virt_base: VIRT_BASE,
            init_p2m,
            start_info: address,
        },
    )
}

/// The console that `start_info` names, and where the initial mapping has its ring.
#[init]
fn open_console(si: &start_info) -> Result<(ConsoleInfo, Option<&'static ring::Page>), BootError> {
    let info = given::console(si)?;
    let page = match info {
        ConsoleInfo::Hypervisor => None,
        ConsoleInfo::Ring { mfn, .. } => {
            // SAFETY: the frame is the console's, faults are handled by now, and the ring is moved
            // before the initial mapping is gone.
            Some(unsafe { ring::find(mfn, VIRT_BASE, layout::IMAGE.end) }?)
        }
    };
    Ok((info, page))
}

#[init]
fn machine(info: &BootInfo) -> Running {
    // SAFETY: the address and the number of entries are Xen's, checked against each other.
    let lists = unsafe { FrameLists::new(info.p2m_list, info.nr_pages) };
    Running::pv(lists)
}

/// Takes over the page tables.
#[init]
fn memory(info: &BootInfo, start_info: u64, stack: u64) -> Result<Summary, MmError> {
    let frame = |va: u64| (va - VIRT_BASE) / PAGE;
    let known = |mfn: Mfn| machine(info).pfn(mfn).map(|pfn| pfn.as_u64());
    let ring = match info.console {
        ConsoleInfo::Ring { mfn, port } => Some((mfn, port)),
        ConsoleInfo::Hypervisor => None,
    };
    let start = Start {
        nr_pages: info.nr_pages,
        fold: Fold::FourLevels,

        pt_base: info.pt_base,
        nr_pt_frames: info.nr_pt_frames,
        p2m_list: Some(info.p2m_list),
        p2m_frames: info.p2m_frames.clone(),
        start_info: frame(start_info),
        shared: [
            ring.and_then(|(mfn, _)| known(mfn)),
            info.store.and_then(|s| known(s.mfn)),
        ],
        module: info.module.map_or(0..0, |m| {
            m.pfn.as_u64()..m.pfn.as_u64() + m.bytes.div_ceil(PAGE)
        }),
        boot_stack: frame(stack - 1),
        image: layout::segments(&Image::current()),
    };
    // SAFETY: boot comes by here once, and nothing has used the page tables before.
    unsafe { mm::set_machine(machine(info)) };
    let report = mm::with(|tables| -> Result<Summary, MmError> {
        let mut early = Initial::survey(tables, start)?.fixmap()?;
        fixmap::check(&mut early)?;
        let page = Fixed::SharedInfo.address();
        // SAFETY: the frame is the one Xen shares with this domain, and this is its place.
        unsafe { early.map_fixed(page, info.shared_info.frame(), mm::Flags::DATA) }?;
        if let Some(page) = NonNull::new(core::ptr::with_exposed_provenance_mut(page as usize)) {
            // SAFETY: mapped just now, for good.
            unsafe { shared::publish(page) };
        }
        if let Some((mfn, _)) = ring {
            // SAFETY: the frame is the console's; the ring is used through this mapping from now on.
            console::move_ring(unsafe { map_ring(&mut early, Fixed::Console, mfn) }?);
        }
        if let Some(StoreInfo { mfn, port }) = info.store {
            // SAFETY: the frame is xenstore's, which is used through this mapping alone.
            xenstore::found(
                unsafe { map_ring(&mut early, Fixed::Store, mfn) }?,
                Port(port),
            );
        }
        early.direct_map()
    })?;
    tell_tools(info)?;
    Ok(report)
}

/// Maps the page of a ring, for good.
///
/// # Safety
/// The frame holds a `T`, which is all atomics, and this is its place.
#[init]
unsafe fn map_ring<T>(
    early: &mut Early<'_, Running>,
    place: Fixed,
    mfn: Mfn,
) -> Result<&'static T, MmError> {
    let page = place.address();
    // SAFETY: the frame is a ring's, and this is its place.
    unsafe { early.map_fixed(page, mfn, mm::Flags::DATA) }?;
    // SAFETY: mapped just now; it is a `T`, which is all atomics.
    Ok(unsafe { &*core::ptr::with_exposed_provenance(page as usize) })
}

/// Tells Xen's tools where the p2m list is, without which they can neither dump nor save a domain.
/// Those too old for a list that is mapped in one piece find no tree of its frames, and refuse. The
/// flag does not tell them apart: libxl leaves it out although it follows such a list.
#[init]
fn tell_tools(info: &BootInfo) -> Result<(), MmError> {
    let whole = info.flags.contains(Flags::VIRT_P2M_4TOOLS);
    // In the initial mapping it was left for the direct map, with the rest of memory.
    let list = if layout::P2M.contains(&info.p2m_list) {
        info.p2m_list
    } else {
        layout::DIRECT.start + (info.p2m_list - VIRT_BASE)
    };
    let root = mm::with(|tables| tables.mfn(tables.root()))?;
    shared::publish_p2m(info.nr_pages, list, root, whole);
    Ok(())
}
