//! `start_info`, checked: from what Xen wrote into memory to a [`BootInfo`] the kernel may trust.
//!
//! Everything that later code uses as an address, a length or a frame number is checked here
//! against what the ABI promises (`xen/include/public/xen.h`, `struct start_info`) and against the
//! other fields, so that a corrupt field gives an error naming it and never a wild read. Three
//! fields are machine numbers (`shared_info`, `store_mfn`, `console.domU.mfn`); `mod_start` is a
//! pfn if and only if SIF_MOD_START_PFN is set. The command line may fill all its 1024 bytes
//! without a terminator; whether it is whole is for whoever
//! understands it to say.
//!
//! ```
//! use xen_pv_rt::hypercall::abi::start_info::start_info;
//! use xen_pv_rt::start_info::{BootInfo, Expect};
//!
//! // SAFETY: integers, arrays of them and a union of them.
//! let nothing: start_info = unsafe { core::mem::zeroed() };
//! let expect = Expect {
//!     virt_base: 0xffff_ffff_8000_0000,
//!     init_p2m: 0xffff_c000_0000_0000,
//!     start_info: 0xffff_ffff_8020_0000,
//! };
//! let error = BootInfo::parse(&nothing, expect).unwrap_err();
//! assert_eq!(error.field, "magic");
//! ```

use core::fmt;
use core::ops::Range;

use bitflags::bitflags;
use heapless::{String, Vec};
use hypercall::abi::start_info as abi;
use hypercall::{MachAddr, Mfn, Pfn};
use marks::init;

/// Bytes of `start_info.cmd_line`.
pub const CMDLINE: usize = 1024;
/// Size of a page in bytes.
const PAGE: u64 = 4096;
/// Smallest domain the kernel accepts, in pages (4 MiB).
const MIN_PAGES: u64 = 1024;
/// Largest domain a 64-bit PV guest can be, in pages: Xen's own limit of 16 TiB of machine memory.
const MAX_PAGES: u64 = 1 << 32;
/// Largest number of event channels (FIFO ABI).
const MAX_PORTS: u32 = 1 << 17;
/// A machine frame number has 40 bits (52-bit machine addresses).
const MAX_MFN: u64 = 1 << 40;

bitflags! {
    /// SIF_* flags of `start_info.flags`; bits 8 to 15 hold power-management options for dom0.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// Privileged domain.
        const PRIVILEGED = 1 << 0;
        /// Initial domain: started by Xen itself, as dom0 or by the PV shim.
        const INITDOMAIN = 1 << 1;
        /// `mod_start` lies inside a multiboot module list.
        const MULTIBOOT_MOD = 1 << 2;
        /// `mod_start` is a pfn, not an address.
        const MOD_START_PFN = 1 << 3;
        /// The tools find the p2m list by where it is mapped, and need no tree of its frames.
        const VIRT_P2M_4TOOLS = 1 << 4;
        /// Power-management options for dom0, not a flag of its own.
        const PM_MASK = 0xff << 8;
    }
}

/// How the domain writes to its console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleInfo {
    /// CONSOLEIO hypercalls: the domain was started without a console page (dom0).
    Hypervisor,
    /// The shared ring and the port that wakes the daemon.
    Ring {
        /// Machine frame of the ring page.
        mfn: Mfn,
        /// Event channel to notify.
        port: u32,
    },
}

/// Xenstore's ring, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// Machine frame of the ring page.
    pub mfn: Mfn,
    /// Event channel to notify.
    pub port: u32,
}

/// The module that was loaded with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// First pseudo-physical frame.
    pub pfn: Pfn,
    /// Length in bytes.
    pub bytes: u64,
}

/// What Xen told the kernel at start, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootInfo {
    /// `xen-MAJOR.MINOR-ARCH`.
    pub magic: String<32>,
    /// Pages given to the domain: pfns from 0 up to this.
    pub nr_pages: u64,
    /// Machine address of `shared_info`; its frame is not in the p2m.
    pub shared_info: MachAddr,
    /// Flags.
    pub flags: Flags,
    /// Console.
    pub console: ConsoleInfo,
    /// Xenstore.
    pub store: Option<StoreInfo>,
    /// Virtual address of the L4 table.
    pub pt_base: u64,
    /// Frames used for the initial page tables.
    pub nr_pt_frames: u64,
    /// Virtual address of the p2m list, one machine frame number (u64) a page.
    pub p2m_list: u64,
    /// Frames that hold the p2m list and the tables that map it, if they are outside the initial
    /// mapping.
    pub p2m_frames: Range<u64>,
    /// The module, if one was loaded.
    pub module: Option<Module>,
    /// The command line, as it was left by whoever may have cut it off.
    pub cmdline: Vec<u8, CMDLINE>,
}

/// A field of `start_info` that cannot be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootError {
    /// The field, as Xen's header spells it.
    pub field: &'static str,
    /// The value found (for text, the offset of the first bad byte).
    pub value: u64,
    /// What it should have been.
    pub expected: &'static str,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "start_info.{}: {:#x}: expected {}",
            self.field, self.value, self.expected
        )
    }
}

/// What the kernel knows about its own place without asking Xen.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// VIRT_BASE note.
    pub virt_base: u64,
    /// INIT_P2M note.
    pub init_p2m: u64,
    /// Address of `start_info` itself.
    pub start_info: u64,
}

#[init]
fn check(
    ok: bool,
    field: &'static str,
    value: u64,
    expected: &'static str,
) -> Result<(), BootError> {
    if ok {
        Ok(())
    } else {
        Err(BootError {
            field,
            value,
            expected,
        })
    }
}

/// Checks the address in RSI before anything is read through it.
///
/// # Errors
/// It is not a page inside the initial mapping.
#[init]
pub fn check_pointer(address: u64, virt_base: u64) -> Result<(), BootError> {
    let inside = address > virt_base && address <= u64::MAX - 2 * PAGE;
    check(
        inside && address.is_multiple_of(PAGE),
        "(address in RSI)",
        address,
        "a page-aligned address above VIRT_BASE",
    )
}

/// What Xen wrote, at the address in RSI.
///
/// # Errors
/// See [`check_pointer`].
///
/// # Safety
/// The address is what Xen passed, and what is returned is not used once its page is something else.
#[init]
pub unsafe fn read(address: u64, virt_base: u64) -> Result<&'static abi::start_info, BootError> {
    check_pointer(address, virt_base)?;
    // SAFETY: Xen passes a page-aligned address in the initial mapping, checked as far as can be; the
    // structure is integers and shorter than the page, which stays what it is as the caller says.
    Ok(unsafe { &*core::ptr::with_exposed_provenance(address as usize) })
}

#[init]
impl BootInfo {
    /// Checks `si`.
    ///
    /// # Errors
    /// The first field that cannot be right.
    pub fn parse(si: &abi::start_info, expect: Expect) -> Result<BootInfo, BootError> {
        let magic = text("magic", &si.magic, "printable text")?;
        let versioned = magic.starts_with("xen-") && magic.ends_with("-x86_64");
        let first = u64::from_le_bytes(si.magic.map(|c| c as u8)[..8].try_into().unwrap_or([0; 8]));
        check(versioned, "magic", first, "\"xen-VERSION-x86_64\"")?;

        let nr_pages = si.nr_pages;
        check(
            (MIN_PAGES..=MAX_PAGES).contains(&nr_pages),
            "nr_pages",
            nr_pages,
            "between 4 MiB and 16 TiB of pages",
        )?;
        let shared = si.shared_info;
        let frame = shared / PAGE;
        check(
            shared.is_multiple_of(PAGE) && (1..MAX_MFN).contains(&frame),
            "shared_info",
            shared,
            "a page-aligned machine address",
        )?;

        // Flags that a later Xen may add are no reason to refuse; those known are kept.
        let flags = Flags::from_bits_truncate(si.flags);
        let console = console(si)?;
        let store = store(si, flags)?;

        // The initial mapping is linear: VIRT_BASE + n pages is pfn n.
        let mapped = |address: u64, pages: u64| {
            address.is_multiple_of(PAGE)
                && address >= expect.virt_base
                && (address - expect.virt_base) / PAGE + pages <= nr_pages
        };
        check(
            mapped(expect.start_info, 1),
            "(address in RSI)",
            expect.start_info,
            "an address whose pfn is below nr_pages",
        )?;
        let nr_pt_frames = si.nr_pt_frames;
        check(
            (4..nr_pages).contains(&nr_pt_frames),
            "nr_pt_frames",
            nr_pt_frames,
            "at least one table a level, fewer than nr_pages",
        )?;
        check(
            mapped(si.pt_base, 1),
            "pt_base",
            si.pt_base,
            "a page-aligned address in the initial mapping",
        )?;

        let list_pages = (nr_pages * 8).div_ceil(PAGE);
        let p2m_list = si.mfn_list;
        check(
            p2m_list == expect.init_p2m || mapped(p2m_list, list_pages),
            "mfn_list",
            p2m_list,
            "INIT_P2M or a page-aligned address in the initial mapping",
        )?;
        let p2m_frames = if p2m_list == expect.init_p2m {
            let (first, count) = (si.first_p2m_pfn, si.nr_p2m_frames);
            check(
                first > 0 && first < nr_pages,
                "first_p2m_pfn",
                first,
                "a pfn below nr_pages",
            )?;
            check(
                count >= list_pages && count <= nr_pages - first,
                "nr_p2m_frames",
                count,
                "enough frames for nr_pages entries, all below nr_pages",
            )?;
            first..first + count
        } else {
            0..0
        };

        let module = module(si, flags, nr_pages, expect.virt_base)?;
        let cmdline = (si.cmd_line.iter())
            .map(|byte| *byte as u8)
            .take_while(|byte| *byte != 0)
            .collect();
        Ok(BootInfo {
            magic,
            nr_pages,
            shared_info: MachAddr::truncate(shared),
            flags,
            console,
            store,
            pt_base: si.pt_base,
            nr_pt_frames,
            p2m_list,
            p2m_frames,
            module,
            cmdline,
        })
    }
}

/// The console that the domain was given: looked at before the rest, to have somewhere to report to.
///
/// # Errors
/// A field of it cannot be right.
#[init]
pub fn console(si: &abi::start_info) -> Result<ConsoleInfo, BootError> {
    // SAFETY: a union of plain integers, all of whose bytes are initialised.
    let domu = unsafe { si.console.domU };
    if Flags::from_bits_truncate(si.flags).contains(Flags::PRIVILEGED) || domu.mfn == 0 {
        // dom0's variant locates VGA information, which this kernel has no use for.
        return Ok(ConsoleInfo::Hypervisor);
    }
    check(
        domu.mfn < MAX_MFN,
        "console.domU.mfn",
        domu.mfn,
        "a machine frame number",
    )?;
    let port = domu.evtchn;
    check(
        (1..MAX_PORTS).contains(&port),
        "console.domU.evtchn",
        port.into(),
        "an event channel",
    )?;
    Ok(ConsoleInfo::Ring {
        mfn: Mfn::truncate(domu.mfn),
        port,
    })
}

#[init]
fn store(si: &abi::start_info, flags: Flags) -> Result<Option<StoreInfo>, BootError> {
    if flags.contains(Flags::PRIVILEGED) || si.store_mfn == 0 {
        return Ok(None);
    }
    check(
        si.store_mfn < MAX_MFN,
        "store_mfn",
        si.store_mfn,
        "a machine frame number",
    )?;
    let port = si.store_evtchn;
    check(
        (1..MAX_PORTS).contains(&port),
        "store_evtchn",
        port.into(),
        "an event channel",
    )?;
    Ok(Some(StoreInfo {
        mfn: Mfn::truncate(si.store_mfn),
        port,
    }))
}

#[init]
fn module(
    si: &abi::start_info,
    flags: Flags,
    nr_pages: u64,
    virt_base: u64,
) -> Result<Option<Module>, BootError> {
    let (start, bytes) = (si.mod_start, si.mod_len);
    if bytes == 0 {
        return Ok(None);
    }
    let pfn = if flags.contains(Flags::MOD_START_PFN) {
        start
    } else {
        check(
            start.is_multiple_of(PAGE) && start >= virt_base,
            "mod_start",
            start,
            "a page-aligned address in the initial mapping",
        )?;
        (start - virt_base) / PAGE
    };
    check(pfn < nr_pages, "mod_start", start, "a frame below nr_pages")?;
    let pages = bytes.div_ceil(PAGE);
    check(
        pages <= nr_pages - pfn,
        "mod_len",
        bytes,
        "a length that ends below nr_pages",
    )?;
    Ok(Some(Module {
        pfn: Pfn::truncate(pfn),
        bytes,
    }))
}

/// Bytes up to the first NUL, or all of them, as text.
#[init]
fn text<const N: usize>(
    field: &'static str,
    bytes: &[i8; N],
    expected: &'static str,
) -> Result<String<N>, BootError> {
    let mut copy = heapless::Vec::<u8, N>::new();
    // The vector has room for all N bytes.
    let _ = copy.extend_from_slice(&bytes.map(|c| c as u8));
    copy.truncate(copy.iter().position(|b| *b == 0).unwrap_or(N));
    let bad = |offset: usize| BootError {
        field,
        value: offset as u64,
        expected,
    };
    let text = core::str::from_utf8(&copy).map_err(|e| bad(e.valid_up_to()))?;
    String::try_from(text).map_err(|_| bad(N))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXPECT: Expect = Expect {
        virt_base: 0xffff_ffff_8000_0000,
        init_p2m: 0xffff_c000_0000_0000,
        start_info: 0xffff_ffff_8020_0000,
    };

    fn zero() -> abi::start_info {
        // SAFETY: start_info is integers, arrays of them and a union of them.
        unsafe { core::mem::zeroed() }
    }

    fn set(field: &mut [i8], value: &[u8]) {
        for (to, from) in field.iter_mut().zip(value) {
            *to = *from as i8;
        }
    }

    /// What xl gives a 64 MiB domU.
    fn good() -> abi::start_info {
        let mut si = zero();
        set(&mut si.magic, b"xen-3.0-x86_64");
        si.nr_pages = 0x4000;
        si.shared_info = 0x7_f000;
        si.flags = Flags::MOD_START_PFN.bits();
        si.store_mfn = 0x1234;
        si.store_evtchn = 1;
        si.console.domU = abi::start_info_console_domU {
            mfn: 0x1235,
            evtchn: 2,
        };
        si.pt_base = EXPECT.virt_base + 0x21_0000;
        si.nr_pt_frames = 9;
        si.mfn_list = EXPECT.init_p2m;
        si.first_p2m_pfn = 0x400;
        si.nr_p2m_frames = 35;
        set(&mut si.cmd_line, b"selftest log=warn");
        si
    }

    fn parse(si: &abi::start_info) -> Result<BootInfo, BootError> {
        BootInfo::parse(si, EXPECT)
    }

    #[test]
    fn a_good_domu_is_understood() {
        let info = parse(&good()).unwrap();
        assert_eq!(info.cmdline, b"selftest log=warn");
        assert_eq!(
            info.console,
            ConsoleInfo::Ring {
                mfn: Mfn::truncate(0x1235),
                port: 2
            }
        );
        assert_eq!(info.p2m_frames, 0x400..0x423);
        assert_eq!(info.module, None);
    }

    #[test]
    fn dom0_has_neither_ring() {
        let mut si = good();
        si.flags = 0x103;
        let info = parse(&si).unwrap();
        assert_eq!((info.console, info.store), (ConsoleInfo::Hypervisor, None));
        assert!(info.flags.contains(Flags::PRIVILEGED | Flags::INITDOMAIN));
    }

    #[test]
    fn a_command_line_may_fill_its_space() {
        let mut si = good();
        si.cmd_line = [b'a' as i8; CMDLINE];
        assert_eq!(parse(&si).unwrap().cmdline.len(), CMDLINE);
        si.cmd_line[700] = -1;
        assert_eq!(parse(&si).unwrap().cmdline[700], 0xff);
    }

    #[test]
    fn each_corrupt_field_is_named() {
        type Damage = fn(&mut abi::start_info);
        let cases: &[(&str, Damage)] = &[
            ("magic", |si| set(&mut si.magic, b"nex")),
            ("magic", |si| si.magic[3] = -128),
            ("nr_pages", |si| si.nr_pages = 0),
            ("nr_pages", |si| si.nr_pages = u64::MAX),
            ("shared_info", |si| si.shared_info += 8),
            ("shared_info", |si| si.shared_info = 0),
            ("console.domU.mfn", |si| si.console.domU.mfn = u64::MAX),
            ("console.domU.evtchn", |si| si.console.domU.evtchn = 0),
            ("store_mfn", |si| si.store_mfn = MAX_MFN),
            ("store_evtchn", |si| si.store_evtchn = u32::MAX),
            ("pt_base", |si| si.pt_base = 0x1000),
            ("pt_base", |si| si.pt_base += 1),
            ("pt_base", |si| si.pt_base = 0xffff_ffff_f000_0000),
            ("nr_pt_frames", |si| si.nr_pt_frames = 3),
            ("nr_pt_frames", |si| si.nr_pt_frames = u64::MAX),
            ("mfn_list", |si| si.mfn_list = 0xdead_0000),
            ("first_p2m_pfn", |si| si.first_p2m_pfn = u64::MAX),
            ("nr_p2m_frames", |si| si.nr_p2m_frames = 1),
            ("nr_p2m_frames", |si| si.nr_p2m_frames = u64::MAX),
            ("mod_start", |si| (si.mod_start, si.mod_len) = (0x4000, 1)),
            ("mod_len", |si| (si.mod_start, si.mod_len) = (0x3fff, 4097)),
            ("mod_len", |si| (si.mod_start, si.mod_len) = (1, u64::MAX)),
            ("mod_start", |si| {
                (si.flags, si.mod_start, si.mod_len) = (0, 0x1000, 1)
            }),
        ];
        for (field, damage) in cases {
            let mut si = good();
            damage(&mut si);
            let error = parse(&si).expect_err(field);
            assert_eq!(error.field, *field, "{error}");
        }
    }

    #[test]
    fn the_pointer_is_checked_before_it_is_used() {
        for bad in [
            0,
            0x1000,
            EXPECT.virt_base,
            EXPECT.start_info + 8,
            u64::MAX - 0xfff,
        ] {
            assert!(check_pointer(bad, EXPECT.virt_base).is_err(), "{bad:#x}");
        }
        assert!(check_pointer(EXPECT.start_info, EXPECT.virt_base).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..160),
                                      at in 0_usize..1200) {
            let mut si = good();
            let size = core::mem::size_of::<abi::start_info>();
            // SAFETY: the struct is plain integers; it is viewed as its own bytes.
            let raw = unsafe { core::slice::from_raw_parts_mut((&raw mut si).cast::<u8>(), size) };
            for (to, from) in raw.iter_mut().skip(at).zip(bytes) {
                *to = from;
            }
            let _ = parse(&si);
        }
    }
}
