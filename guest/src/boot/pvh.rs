//! Boot by the PVH protocol, under Xen or with nothing underneath: from the entry shim to a kernel
//! that owns its memory.
//!
//! The entry has left tables like those that Xen's builder makes. They are made to fit the memory
//! that there is, and then taken over as under PV.

use core::arch::x86_64::__cpuid_count;
use core::ops::Range;

use hypercall::abi::hvm::{
    HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_CONSOLE_PFN, HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN,
};
use hypercall::abi::memory::e820entry;
use hypercall::event::Port;
use hypercall::hvm::{parameter, xen_leaves};
use hypercall::{Mfn, XenError, memory};
use linker::{Image, early_tables};
use marks::init;
use pagetable::native::Cpu;
use x86_64::VirtAddr;
use x86_64::instructions::tlb;
use x86_64::registers::control::Cr3;
use x86_64::registers::model_specific::{Efer, EferFlags};

use super::acpi;
use super::common::{self, Entered, prepare, start_kernel_common};
use super::fixmap;
use super::hvm::{Ask, HvmInfo, Read};
use super::processor;
use crate::apic_ids;
use crate::console;
use crate::mm::entry::{Entry, L1};
use crate::mm::layout::{self, Fixed};
use crate::mm::memory::MAX_RANGES;
use crate::mm::processor::Processor;
use crate::mm::running::Running;
use crate::mm::takeover::{Initial, Start, Summary};
use crate::mm::{self, MmError};
use crate::pc::back_end::{OnMetal, OnXen};
use crate::pc::{clock, descriptors, devices, interrupts, processors, timer};
use crate::start_info::ConsoleInfo;
use crate::subarch::{self, Subarch};
use crate::xen::{self, HV};
use crate::{cpu, power, println, time, trap, verdict, xenstore};

const PAGE: u64 = 4096;
/// Frames that the entry maps.
const MAPPED: u64 = 2048;
/// The right to write, in an entry.
const WRITABLE: u64 = 1 << 1;

/// First Rust code: everything later is reached from here. `start_info` is a physical address.
#[init]
pub(crate) extern "C" fn start(start_info: u64) -> ! {
    let lacking = processor::lacking(processor::cpuid);
    let subarch = match xen_leaves() {
        Some(_) => Subarch::XenPvh,
        None => Subarch::Bare,
    };
    // SAFETY: it is what CPUID says, and nothing was asked or written yet.
    unsafe { subarch::set(subarch) };
    cpu::begin();
    xen::tell(match subarch {
        Subarch::Bare => &OnMetal,
        _ => &OnXen,
    });
    let started = time::tsc();
    descriptors::install();
    trap::install_native();
    if let Some(feature) = lacking {
        open_console(subarch);
        common::greet(subarch);
        processor::refuse(feature);
    }
    time::entered();
    if subarch == Subarch::Bare {
        timer::probe();
        interrupts::probe();
    }
    time::set_counter(clock::find(), started);
    let (console, refused) = open_console(subarch);
    common::greet(subarch);
    if let Some(e) = refused {
        println!("console: {e}");
    }
    if let Some(e) = open_store(subarch) {
        println!("xenstore: {e}");
    }
    let mut physical = Physical::new();
    let info = HvmInfo::parse(start_info, &mut physical, &mut Loaders { subarch, console })
        .unwrap_or_else(|e| {
            println!("hvm_{e}");
            verdict::crash(e);
            power::crash()
        });
    let entered = Entered {
        via: subarch.name(),
        by: "hvm_start_info",
        cmdline: &info.cmdline,
        privileged: false,
        console,
        module: info.module,
        before: None,
    };
    let options = prepare(subarch, &entered);
    if subarch == Subarch::Bare {
        find_processors(info.rsdp, &mut physical);
    }
    start_kernel_common(&entered, &options, take_over(&info))
}

/// Opens the console: the ring that Xen's tools have set up, or what the native back end has. Says
/// which, and what Xen refused.
#[init]
fn open_console(subarch: Subarch) -> (ConsoleInfo, Option<XenError>) {
    if subarch == Subarch::Bare {
        devices::init();
        console::init_device(&devices::Serial);
        return (ConsoleInfo::Hypervisor, None);
    }
    match ring_parameters(HVM_PARAM_CONSOLE_PFN, HVM_PARAM_CONSOLE_EVTCHN) {
        Ok((frame @ 1.., port)) => {
            let info = ConsoleInfo::Ring {
                mfn: Mfn::truncate(frame),
                port: port as u32,
            };
            // SAFETY: the frame is the console's by Xen's word.
            console::init(info, Some(unsafe { map_ring(Fixed::Console, frame) }));
            (info, None)
        }
        other => {
            console::init(ConsoleInfo::Hypervisor, None);
            (ConsoleInfo::Hypervisor, other.err())
        }
    }
}

/// Finds the ring of xenstore, if Xen's tools have set one up. Says what Xen refused.
#[init]
fn open_store(subarch: Subarch) -> Option<XenError> {
    if subarch == Subarch::Bare {
        return None;
    }
    match ring_parameters(HVM_PARAM_STORE_PFN, HVM_PARAM_STORE_EVTCHN) {
        Ok((frame @ 1.., port @ 1..)) => {
            // SAFETY: the frame is xenstore's by Xen's word.
            xenstore::found(unsafe { map_ring(Fixed::Store, frame) }, Port(port as u32));
            None
        }
        other => other.err(),
    }
}

/// The frame and the port of a ring, by the parameters that hold them.
#[init]
fn ring_parameters(frame: u32, port: u32) -> Result<(u64, u64), XenError> {
    Ok((parameter(&HV, frame)?, parameter(&HV, port)?))
}

/// Maps the page of a ring, for good.
///
/// # Safety
/// The frame holds a `T`, which is all atomics, and this is its place.
#[init]
unsafe fn map_ring<T>(place: Fixed, frame: u64) -> &'static T {
    set_fixed(place, frame * PAGE, mm::Flags::DATA);
    // SAFETY: mapped just now; it is a `T`, which is all atomics.
    unsafe { &*core::ptr::with_exposed_provenance(place.address() as usize) }
}

/// An early table, while the early mapping lasts.
#[init]
fn early_table(index: u64) -> *mut u64 {
    core::ptr::with_exposed_provenance_mut((early_tables().start + index * PAGE) as usize)
}

/// Places of the early tables.
mod place {
    pub(super) const L5: u64 = 0;
    pub(super) const L4: u64 = 1;
    pub(super) const L3: u64 = 2;
    pub(super) const L1: u64 = 4;
    pub(super) const FIXMAP_L1: u64 = 8;
}

/// Who can be asked about memory beside the loader.
struct Loaders {
    subarch: Subarch,
    console: ConsoleInfo,
}

#[init]
impl Ask for Loaders {
    fn map(&mut self, to: &mut [e820entry]) -> Option<usize> {
        if self.subarch != Subarch::XenPvh {
            return None;
        }
        Some(memory::memory_map(&HV, to).ok()?.len())
    }

    fn pages(&mut self) -> Option<u64> {
        if self.subarch != Subarch::XenPvh {
            return None;
        }
        memory::current_reservation(&HV).ok()
    }

    fn ring(&mut self) -> Option<u64> {
        match self.console {
            ConsoleInfo::Ring { mfn, .. } => Some(mfn.as_u64()),
            ConsoleInfo::Hypervisor => None,
        }
    }
}

/// Maps a page at a fixed place, before there is anybody else to ask. Where the processor has no NX,
/// which ends the boot once there is a console, entries are without.
#[init]
fn set_fixed(fixed: Fixed, address: u64, mut flags: mm::Flags) {
    if !Efer::read().contains(EferFlags::NO_EXECUTE_ENABLE) {
        flags -= mm::Flags::NO_EXECUTE;
    }
    let entry = Entry::<L1>::from_mfn(Mfn::truncate(address / PAGE), flags);
    let index = (fixed.address() - layout::FIXMAP.start) / PAGE;
    // SAFETY: the fixmap's table is the kernel's and mapped; the place is used for nothing else,
    // and whoever looked at what was mapped there before is done.
    unsafe {
        early_table(place::FIXMAP_L1)
            .add(index as usize)
            .write_volatile(entry.bits());
    }
    tlb::flush(VirtAddr::new_truncate(fixed.address()));
}

/// Physical memory, wherever it is, page by page. What lies beyond the processor's addresses reads as
/// zeros.
struct Physical {
    end: u64,
}

#[init]
impl Physical {
    fn new() -> Physical {
        // Without the leaf that says it, as many bits as there were when there was none.
        let known = __cpuid_count(0x8000_0000, 0).eax >= 0x8000_0008;
        let width = if known {
            __cpuid_count(0x8000_0008, 0).eax & 0xff
        } else {
            36
        };
        Physical {
            end: 1 << width.clamp(32, 52),
        }
    }
}

#[init]
impl Read for Physical {
    fn read(&mut self, address: u64, to: &mut [u8]) {
        let mut at = address;
        for byte in to {
            if at >= self.end {
                *byte = 0;
                continue;
            }
            if at == address || at.is_multiple_of(PAGE) {
                set_fixed(Fixed::Early, at & !(PAGE - 1), mm::Flags::CONST);
            }
            let place = Fixed::Early.address() + at % PAGE;
            let place = core::ptr::with_exposed_provenance::<u8>(place as usize);
            // SAFETY: the page is mapped; physical memory that does not exist reads as something.
            *byte = unsafe { place.read_volatile() };
            at += 1;
        }
    }
}

/// Makes the early tables what the takeover expects: no entry for what is not memory, none at
/// physical addresses, the tables in use read-only.
#[init]
fn fit_early_tables(info: &HvmInfo, used: Range<u64>) {
    let l1 = early_table(place::L1);
    let frame = |va: u64| (va - layout::IMAGE.start) / PAGE;
    let own = frame(used.start)..frame(used.end);
    Processor.unprotected(|| {
        // SAFETY: the L1 tables lie one behind the other and have an entry for each frame. What
        // loses its mapping is not memory, what loses the right to be written is written only by
        // those who may; the code that ran at physical addresses is done.
        unsafe {
            for frame in info.memory.holes(MAPPED).flatten() {
                l1.add(frame as usize).write_volatile(0);
            }
            for frame in own {
                let entry = l1.add(frame as usize);
                entry.write_volatile(entry.read_volatile() & !WRITABLE);
            }
            for level in [place::L3, place::L4, place::L5] {
                early_table(level).write_volatile(0);
            }
        }
    });
    tlb::flush_all();
}

/// Finds the machine's processors, and says what is wrong with the tables that list them: there are
/// those, then, that were listed before, the boot processor in any case.
#[init]
fn find_processors(root: u64, physical: &mut Physical) {
    if root == 0 {
        log::info!(target: "smp", "the loader names no tables of ACPI, which would list processors");
        return;
    }
    let found = acpi::processors(root, physical);
    if let Some(e) = found.error {
        let count = found.ids.count();
        log::warn!(target: "smp", "{e}; processors that are known of: {count}");
    }
    if found.beyond > 0 {
        log::warn!(
            target: "smp",
            "{} processors are not used: their APIC ids are above {}, which this kernel does not send to",
            found.beyond,
            apic_ids::END - 1
        );
    }
    processors::found(found.ids);
}

/// Takes over the page tables.
#[init]
fn take_over(info: &HvmInfo) -> Result<Summary, MmError> {
    // The last page that was looked at is in nobody's use.
    // SAFETY: as in `set_fixed`.
    unsafe {
        let index = (Fixed::Early.address() - layout::FIXMAP.start) / PAGE;
        early_table(place::FIXMAP_L1)
            .add(index as usize)
            .write_volatile(0);
    }
    // From the root on: a table above it is free memory.
    let root = Cr3::read().0.start_address().as_u64() + layout::IMAGE.start;
    let tables = root..early_tables().end;
    fit_early_tables(info, tables.clone());
    let start = Start {
        nr_pages: info.memory.end(),
        fold: Processor.fold(),
        pt_base: root,
        nr_pt_frames: (tables.end - root) / PAGE,
        p2m_list: None,
        p2m_frames: 0..0,
        start_info: 0,
        shared: [None, None],
        module: info.module.map_or(0..0, |m| {
            m.pfn.as_u64()..m.pfn.as_u64() + m.bytes.div_ceil(PAGE)
        }),
        boot_stack: 0,
        image: layout::segments(&Image::current()),
    };
    if info.memory.left_out() > 0 {
        log::warn!(
            target: "mm",
            "{} pages are not used: the memory map has more than {MAX_RANGES} ranges, and they lie in the smallest",
            info.memory.left_out()
        );
    }
    // SAFETY: boot comes by here once, and nothing has used the page tables before.
    unsafe { mm::set_machine(Running::native(info.memory.clone())) };
    let report = mm::with(|tables| -> Result<Summary, MmError> {
        let mut early = Initial::survey(tables, start)?.fixmap()?;
        fixmap::check(&mut early)?;
        early.direct_map()
    })?;
    Ok(report)
}
