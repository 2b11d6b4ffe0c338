//! Frame numbers as a PV guest has them, and what it reads from `start_info`: on lists of the host's
//! own.

use std::cell::Cell;
use std::ops::Range;

use hypercall::abi::start_info::{SIF_INITDOMAIN, SIF_MOD_START_PFN, start_info};
use hypercall::{Mfn, Pfn};
use pagetable::layout::Layout;
use pagetable::machine::Machine;
use pagetable::pv::{FrameLists, Guest};
use pagetable::takeover::Segments;

const PAGE: u64 = 4096;
/// What the p2m list holds where there is no memory.
const INVALID: u64 = !0;

/// Everything lies low, since the host's memory does.
struct Low;

impl Layout for Low {
    const XEN: Range<u64> = 0x1000..0x2000;
    const DIRECT: Range<u64> = 1 << 40..1 << 41;
    const P2M: Range<u64> = 1 << 41..1 << 42;
    const IMAGE: Range<u64> = 3 * PAGE..1 << 39;
    const FIXMAP: Range<u64> = 1 << 42..1 << 43;
    const RUNTIME: &'static [Range<u64>] = &[];
}

fn address<T>(of: *const T) -> u64 {
    of.expose_provenance() as u64
}

/// The lists of a domain with memory behind pages 0, 2 and 3, and one entry more than it has pages.
fn lists() -> (FrameLists, Box<[u64; 5]>) {
    let list = Box::new([70, INVALID, 72, 9, 74]);
    // SAFETY: the list is there for as long as it is returned with what reads it.
    let lists = unsafe { FrameLists::new(address(&raw const *list), 4) };
    (lists, list)
}

#[test]
fn a_pfn_has_the_frame_that_the_list_says() {
    let (lists, _list) = lists();
    let mfn = |pfn| lists.mfn(Pfn::truncate(pfn)).map(|mfn| mfn.as_u64());
    assert_eq!([0, 1, 2, 3].map(mfn), [Some(70), None, Some(72), Some(9)]);
    assert_eq!([4, 5, 1 << 39].map(mfn), [None; 3], "beyond the domain");
    let ones = |pfn| lists.mfn_or_ones(Pfn::truncate(pfn));
    assert_eq!([0, 1, 3, 4].map(ones), [Some(70), Some(!0), Some(9), None]);
    assert!(!lists.is_empty());
    assert!(FrameLists::empty().is_empty());
    assert_eq!(FrameLists::empty().mfn(Pfn::truncate(0)), None);
    // A layout that names nothing has no names.
    assert_eq!(Low::name_of(Low::IMAGE.start), None);
}

/// The M2P table tells whose a frame is, and is believed only where the p2m list agrees.
#[test]
fn a_frame_has_the_pfn_on_which_both_lists_agree() {
    let (lists, _list) = lists();
    let read_at = Cell::new(0);
    let pfn = |mfn: u64, m2p: Option<u64>| {
        let read = |address| {
            read_at.set(address);
            m2p
        };
        let pfn = lists.pfn::<Low>(Mfn::truncate(mfn), read);
        assert_eq!(read_at.get(), Low::XEN.start + mfn * 8);
        pfn.map(|pfn| pfn.as_u64())
    };
    assert_eq!(pfn(72, Some(2)), Some(2));
    assert_eq!(pfn(9, Some(3)), Some(3));
    assert_eq!(pfn(72, Some(3)), None, "another's, by the p2m list");
    assert_eq!(pfn(74, Some(4)), None, "beyond the domain");
    assert_eq!(pfn(72, Some(INVALID)), None);
    assert_eq!(pfn(72, None), None, "no M2P table there");
}

/// What `start_info` says, of a domain with its image at [`Low::IMAGE`].
fn info(list: &[u64; 5]) -> Box<start_info> {
    // SAFETY: plain numbers, for which zeros will do.
    let mut info: Box<start_info> = Box::new(unsafe { std::mem::zeroed() });
    info.flags = SIF_INITDOMAIN;
    info.nr_pages = 4;
    info.mfn_list = address(list);
    info.pt_base = Low::IMAGE.start + 7 * PAGE;
    info.nr_pt_frames = 5;
    info.first_p2m_pfn = 100;
    info.nr_p2m_frames = 11;
    info
}

#[test]
fn a_window_reaches_what_it_is_said_to() {
    let list = [70, INVALID, 72, 9, 74];
    // SAFETY: nothing is read through it but the list.
    let guest = unsafe { Guest::<Low>::new(&info(&list)) };
    let at = |pfn| guest.memory(Pfn::truncate(pfn)).addr() as u64;
    assert_eq!(at(0), 0, "nothing yet");
    guest.set_reach(2);
    let image = Low::IMAGE.start;
    assert_eq!([0, 1, 2].map(at), [image, image + PAGE, 0]);
    assert_eq!(guest.window(Pfn::truncate(9)), image + 9 * PAGE);
    assert!(!guest.direct_map_is_open());
    guest.open_direct_map();
    assert!(guest.direct_map_is_open());
    guest.set_reach(3);
    let direct = Low::DIRECT.start;
    let all = [direct, direct + PAGE, direct + 2 * PAGE, 0];
    assert_eq!([0, 1, 2, 3].map(at), all);
    assert_eq!(guest.mfn(Pfn::truncate(2)), Some(Mfn::truncate(72)));
    assert_eq!(guest.mfn(Pfn::truncate(1)), None);
    assert_eq!(guest.mfn_or_ones(Pfn::truncate(1)), u64::MAX);
    // One that nobody told of a domain knows of no memory.
    let unknown = Guest::<Low>::unknown();
    assert_eq!(unknown.mfn(Pfn::truncate(0)), None);
    assert!(unknown.memory(Pfn::truncate(0)).is_null());
}

#[test]
fn the_takeover_starts_with_what_start_info_says() {
    let list = [70, INVALID, 72, 9, 74];
    let page = Low::IMAGE.start..Low::IMAGE.start + PAGE;
    let image = Segments {
        text: page.clone(),
        kept_text: page.clone(),
        rodata: page.clone(),
        data: page.clone(),
        guard: page,
    };
    // The stack's pointer is at its end when the kernel is entered.
    let stack = Low::IMAGE.start + 20 * PAGE;
    let mut info = info(&list);
    let start = |info: &start_info| {
        // SAFETY: nothing is read through it but the list.
        let guest = unsafe { Guest::<Low>::new(info) };
        guest.start(info, stack, image.clone())
    };
    let none = start(&info);
    assert_eq!((none.nr_pages, none.nr_pt_frames), (4, 5));
    assert_eq!(none.pt_base, Low::IMAGE.start + 7 * PAGE);
    assert_eq!(none.p2m_list, Some(address(&list)));
    assert_eq!(none.p2m_frames, 100..111);
    let page_of_info = (address(&raw const *info) - Low::IMAGE.start) / PAGE;
    assert_eq!(none.start_info, page_of_info);
    assert_eq!(none.boot_stack, 19);
    assert_eq!(none.shared, [None; 2], "dom0 has nobody to share with");
    assert!(none.module.is_empty());
    // A module that is mapped is told by its address, another by its frame.
    info.mod_start = Low::IMAGE.start + 40 * PAGE;
    info.mod_len = 2 * PAGE + 1;
    assert_eq!(start(&info).module, 40..43);
    info.flags |= SIF_MOD_START_PFN;
    info.mod_start = 900;
    assert_eq!(start(&info).module, 900..903);
    info.mod_len = PAGE;
    assert_eq!(start(&info).module, 900..901);
}
