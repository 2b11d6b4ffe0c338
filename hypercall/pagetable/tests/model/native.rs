//! Requests that no Xen is there to answer, one by one, on a few words of memory. What a kernel makes
//! of them its own tests say.

use std::cell::{Cell, RefCell};

use hypercall::abi::mmu::{
    MMU_MACHPHYS_UPDATE, MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_PRESERVE_AD, mmu_update,
};
use hypercall::instead::{PageTables, Refused};
use hypercall::mmu::Scope;
use hypercall::{Errno, ExtOp, Level, Mfn, VirtAddr};
use pagetable::native::{Cpu, OwnTables};
use pagetable::tables::Fold;

/// A processor with one page of memory, from address 0 on.
#[derive(Default)]
struct Page {
    words: RefCell<Vec<u64>>,
    root: Cell<u64>,
    unprotected: Cell<bool>,
    /// Whether the page is a table that maps others.
    is_upper: Cell<bool>,
    forgotten: RefCell<Vec<(Scope, Option<u64>)>>,
}

impl Cpu for &Page {
    fn entry(&self, address: u64) -> *mut u64 {
        let mut words = self.words.borrow_mut();
        match words.get_mut(address as usize / 8) {
            Some(word) => word,
            None => std::ptr::null_mut(),
        }
    }

    fn root(&self) -> u64 {
        self.root.get()
    }

    unsafe fn set_root(&self, address: u64) {
        self.root.set(address);
    }

    fn fold(&self) -> Fold {
        Fold::FourLevels
    }

    fn invalidate(&self, scope: Scope, address: Option<u64>) {
        self.forgotten.borrow_mut().push((scope, address));
    }

    fn maps_page(&self, _: u64) -> bool {
        !self.is_upper.get()
    }

    fn unprotected<R>(&self, f: impl FnOnce() -> R) -> R {
        assert!(!self.unprotected.replace(true));
        let result = f();
        self.unprotected.set(false);
        result
    }
}

const MAPPED: u64 = 0x30_0063;
const OTHER: u64 = 0x40_0001;

fn page(words: [u64; 4]) -> Page {
    Page {
        words: RefCell::new(words.to_vec()),
        ..Page::default()
    }
}

/// Carries out requests for the entries: what comes of them, what is in memory, and what is forgotten.
fn update(page: &Page, requests: &[(u32, u64, u64)]) -> (Result<(), Refused>, Vec<u64>, usize) {
    let list: Vec<_> = requests
        .iter()
        .map(|&(kind, index, val)| mmu_update {
            ptr: (index * 8) | u64::from(kind),
            val,
        })
        .collect();
    page.forgotten.borrow_mut().clear();
    // SAFETY: nothing is mapped by these words.
    let result = unsafe { OwnTables(page).update(&list) };
    let forgotten = page.forgotten.borrow();
    let scope = match page.is_upper.get() {
        true => Scope::All,
        false => Scope::Local,
    };
    assert!(
        forgotten.iter().all(|what| *what == (scope, None)),
        "all or nothing"
    );
    (result, page.words.borrow().clone(), forgotten.len())
}

const SET: u32 = MMU_NORMAL_PT_UPDATE;
const KEEP: u32 = MMU_PT_UPDATE_PRESERVE_AD;

#[test]
fn an_update_is_a_store_and_one_flush_a_list_where_something_was_mapped() {
    let done = |words, requests: &[_]| {
        let (result, found, flushes) = update(&page(words), requests);
        assert_eq!(result, Ok(()));
        (found, flushes)
    };
    let is = |words: [u64; 4], flushes| (words.to_vec(), flushes);
    let nothing = [0; 4];
    assert_eq!(done(nothing, &[(SET, 1, OTHER)]), is([0, OTHER, 0, 0], 0));
    assert_eq!(done([MAPPED; 4], &[(SET, 2, 0)]).1, 1);
    let two = [(SET, 0, OTHER), (SET, 1, 0), (SET, 3, OTHER)];
    let found = done([MAPPED, OTHER, 0, 0], &two);
    assert_eq!(found, is([OTHER, 0, 0, OTHER], 1));
    // A and D bits that the processor has set stay, whether the new entry has them or not.
    for value in [0x30_0001, 0x30_0021, 0x30_0041, 0x30_0061] {
        let found = done([MAPPED, 0, 0, 0], &[(KEEP, 0, value)]);
        assert_eq!(found, is([0x30_0061, 0, 0, 0], 1), "{value:#x}");
        let found = done([0x30_0003, 0, 0, 0], &[(KEEP, 0, value)]);
        assert_eq!(found, is([value, 0, 0, 0], 1), "{value:#x}");
    }
    // A frame's two numbers are one: there is nothing to do.
    let frames = [(MMU_MACHPHYS_UPDATE, 2, 77)];
    assert_eq!(done([MAPPED; 4], &frames), is([MAPPED; 4], 0));
}

/// What led through a table is forgotten everywhere: nobody asks for more than the change itself.
#[test]
fn an_entry_of_an_upper_table_is_forgotten_on_all_processors() {
    let page = page([MAPPED; 4]);
    page.is_upper.set(true);
    let (result, _, flushes) = update(&page, &[(SET, 0, 0), (SET, 1, OTHER)]);
    assert_eq!((result, flushes), (Ok(()), 1));
}

#[test]
fn a_list_ends_with_what_is_refused_and_what_went_before_is_in_force() {
    let first = (SET, 0, OTHER);
    for (bad, errno) in [
        ((SET, 1, MAPPED | 1 << 7), Errno::EINVAL),
        ((SET, 1, 0x30_0000), Errno::EINVAL),
        ((SET, 1, 1 << 63), Errno::EINVAL),
        ((SET, 4, OTHER), Errno::EINVAL),
        ((3, 1, OTHER), Errno::ENOSYS),
    ] {
        let page = page([MAPPED, MAPPED, MAPPED, 0]);
        let (result, words, flushes) = update(&page, &[first, bad, (SET, 2, 0)]);
        assert_eq!(result, Err(Refused { errno, done: 1 }), "{bad:x?}");
        assert_eq!(words, [OTHER, MAPPED, MAPPED, 0]);
        assert_eq!(flushes, 1);
    }
    // PSE in what is not present is nothing but a bit of what is no entry.
    let (result, ..) = update(&page([0; 4]), &[(SET, 0, 1 << 7)]);
    assert!(result.is_err());
}

#[test]
fn operations_are_flushes_and_the_root() {
    let page = page([0; 4]);
    let ext = |op| {
        page.forgotten.borrow_mut().clear();
        // SAFETY: nothing is mapped by this memory.
        let result = unsafe { OwnTables(&page).ext(op) };
        (result, page.forgotten.borrow().clone())
    };
    let va = VirtAddr::new_truncate(0x1234_5000);
    assert_eq!(
        ext(ExtOp::TlbFlush(Scope::Local)),
        (Ok(()), vec![(Scope::Local, None)])
    );
    let one = ext(ExtOp::Invlpg(Scope::All, va));
    assert_eq!(one, (Ok(()), vec![(Scope::All, Some(va.as_u64()))]));
    let frame = Mfn::truncate(9);
    for op in [
        ExtOp::Pin(Level::L4, frame),
        ExtOp::Unpin(frame),
        ExtOp::NewUserBaseptr(Some(frame)),
    ] {
        assert_eq!(ext(op), (Ok(()), vec![]));
    }
    assert_eq!(page.root.get(), 0);
    assert_eq!(ext(ExtOp::NewBaseptr(frame)).0, Ok(()));
    assert_eq!(page.root.get(), 9 << 12);
    assert_eq!(ext(ExtOp::FlushCache), (Err(Errno::ENOSYS), vec![]));
}
