//! Boot as a Xen PV guest: from the entry shim to a kernel that owns its memory.

use core::fmt;
use core::ptr::NonNull;

use hypercall::abi::start_info::start_info;
use hypercall::{Mfn, Xen};
use linker::{Image, VIRT_BASE};

use super::cmdline::{self, Options, Selection};
use super::info::{self, BootError, BootInfo, ConsoleInfo, Expect, Flags};
use crate::console::{self, ring};
use crate::mm::layout::{self, Fixed};
use crate::mm::machine::Machine;
use crate::mm::pv::Pv;
use crate::mm::takeover::{Initial, Report, Start};
use crate::mm::{self, MmError};
use crate::monitor::{Leave, Monitor};
use crate::xen::XEN;
use crate::{event, power, println, selftest, shared, trap, verdict};

const PAGE: u64 = 4096;

/// First Rust code: everything later is reached from here.
///
/// `address` is that of `start_info`, `stack` the top of the stack that Xen provided.
pub(crate) extern "C" fn start(address: u64, stack: u64) -> ! {
    // An exception before the console is open is still better reported than fatal.
    let traps = trap::install(&XEN);
    let info = read_start_info(address).and_then(|info| Ok((ring_page(&info)?, info)));
    let info = match info {
        Ok((page, info)) => {
            console::init(info.console, page);
            info
        }
        Err(e) => {
            console::init(ConsoleInfo::Hypervisor, None);
            println!("{e}");
            verdict::crash(e);
            power::crash()
        }
    };
    println!(
        "{} {} on {}",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
        via(&info)
    );
    if let Err(e) = traps {
        panic!("trap table: {e}");
    }
    let options = cmdline::parse(&info.cmdline).unwrap_or_else(|e| {
        println!("{e}");
        verdict::fail(e.summary());
        power::off()
    });
    console::set_filter(options.log.clone());
    log::info!(target: "boot", "{}, command line '{}'", info.magic, info.cmdline);
    if let Err(e) = memory(&info, address, stack) {
        panic!("memory: {e}");
    }
    run(&info, &options)
}

/// How the kernel was started.
fn via(info: &BootInfo) -> &'static str {
    match (
        info.flags.contains(Flags::PRIVILEGED),
        info.flags.contains(Flags::INITDOMAIN),
        info.console,
    ) {
        (true, ..) => "xen-pv dom0",
        (_, true, _) => "xen-pv shim",
        _ => "xen-pv domU",
    }
}

fn read_start_info(address: u64) -> Result<BootInfo, BootError> {
    info::check_pointer(address, VIRT_BASE)?;
    // SAFETY: Xen passes a page-aligned address in the initial mapping, checked as far as can be;
    // the structure is integers and shorter than the page.
    let si = unsafe { &*core::ptr::with_exposed_provenance::<start_info>(address as usize) };
    BootInfo::parse(
        si,
        Expect {
            virt_base: VIRT_BASE,
            init_p2m: layout::P2M.start,
            start_info: address,
        },
    )
}

fn machine(info: &BootInfo) -> Pv {
    // SAFETY: the address and the number of entries are Xen's, checked against each other.
    unsafe { Pv::new(info.p2m_list, info.nr_pages) }
}

/// The pfn of a page that Xen named by machine frame: checked both ways, as the number came from
/// outside.
fn pfn_of(info: &BootInfo, field: &'static str, mfn: Mfn) -> Result<u64, BootError> {
    let expected = "a machine frame of this domain";
    let pfn = machine(info).pfn(mfn).ok_or(BootError {
        field,
        value: mfn.as_u64(),
        expected,
    })?;
    Ok(pfn.as_u64())
}

/// The console's ring, where the initial mapping has it.
fn ring_page(info: &BootInfo) -> Result<Option<&'static ring::Page>, BootError> {
    let ConsoleInfo::Ring { mfn, .. } = info.console else {
        return Ok(None);
    };
    let address = VIRT_BASE + pfn_of(info, "console.domU.mfn", mfn)? * PAGE;
    // SAFETY: the frame is the console's by Xen's word and memory of this domain by both frame
    // maps; the initial mapping reaches it, and it is all atomics.
    Ok(Some(unsafe {
        &*core::ptr::with_exposed_provenance(address as usize)
    }))
}

/// Takes over the page tables.
fn memory(info: &BootInfo, start_info: u64, stack: u64) -> Result<(), MmError> {
    let frame = |va: u64| (va - VIRT_BASE) / PAGE;
    let known = |mfn: Mfn| machine(info).pfn(mfn).map(|pfn| pfn.as_u64());
    let ring = match info.console {
        ConsoleInfo::Ring { mfn, port } => Some((mfn, port)),
        ConsoleInfo::Hypervisor => None,
    };
    let start = Start {
        nr_pages: info.nr_pages,
        pt_base: info.pt_base,
        nr_pt_frames: info.nr_pt_frames,
        p2m_list: info.p2m_list,
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
        image: Image::current(),
    };
    let report = mm::with(|tables| -> Result<Report, MmError> {
        *tables.machine_mut() = machine(info);
        let mut early = Initial::survey(tables, start)?.fixmap()?;
        // SAFETY: the frame is the one Xen shares with this domain, and this is its place.
        let page = unsafe {
            early.map_fixed(Fixed::SharedInfo, info.shared_info.frame(), mm::Flags::DATA)
        }?;
        if let Some(page) = NonNull::new(core::ptr::with_exposed_provenance_mut(page as usize)) {
            // SAFETY: mapped just now, for good.
            unsafe { shared::publish(page) };
        }
        if let Some((mfn, _)) = ring {
            // SAFETY: the frame is the console's; the ring is used through this mapping from now on.
            let page = unsafe { early.map_fixed(Fixed::Console, mfn, mm::Flags::DATA) }?;
            // SAFETY: mapped just now, for good; the page is all atomics.
            let page = unsafe { &*core::ptr::with_exposed_provenance(page as usize) };
            console::move_ring(page);
        }
        early.direct_map()
    })?;
    if let Some(vcpu) = shared::vcpu() {
        // SAFETY: this vCPU's part of the page that was mapped for good.
        unsafe { Xen::set_vcpu_info(vcpu.as_ptr()) };
    }
    log::info!(
        target: "mm",
        "took over {} tables and {} pages of the initial mapping, {} pages are free",
        report.initial_tables, report.initial_pages, report.reclaimed
    );
    if log::log_enabled!(target: "mm", log::Level::Info) {
        mm::with(|tables| mm::dump::lines(tables, &Image::current(), |line| println!("{line}")));
    }
    Ok(())
}

/// What a kernel without anything else to do does.
fn run(info: &BootInfo, options: &Options<'_>) -> ! {
    if let Some(kind) = options.provoke {
        super::provoke::provoke(kind);
    }
    if let Err(e) = event::init() {
        panic!("events: {e}");
    }
    let privileged = info.flags.contains(Flags::PRIVILEGED);
    let tested = match options.selftest {
        Selection::None => None,
        selection => Some(selftest::run(selection, privileged)),
    };
    let mut monitor = Monitor::new(privileged, tested);
    let leave = if options.monitor {
        monitor.run(info.console)
    } else {
        Leave::Poweroff
    };
    let counts = mm::with(|tables| tables.frames().counts());
    let facts = fmt::from_fn(|f| {
        write!(f, "via=\"{}\" pages={}", via(info), counts.total)?;
        write!(f, " mapped={} free={}", counts.mapped, counts.free)?;
        monitor
            .tested
            .map_or(Ok(()), |summary| write!(f, " {summary}"))
    });
    match monitor.tested {
        Some(summary) if !summary.is_good() => verdict::fail(summary.reason()),
        _ => verdict::pass(facts),
    }
    match leave {
        Leave::Poweroff => power::off(),
        Leave::Reboot => power::reboot(),
    }
}
