//! The model as a [`Machine`].

use std::{cell::RefCell, rc::Rc, vec::Vec};

use hypercall::{
    Hypervisor, MachAddr, Mfn, Pfn,
    abi::{
        shared_info::{shared_info, vcpu_info},
        start_info::start_info,
    },
    mmu::Level,
};
use model::{Access, Layout, Mode, Model};

use crate::{About, Fault, Kind, Machine, Observed, Page};

/// A model with a kernel that does nothing of its own.
pub struct OnModel {
    model: Model,
    about: About,
    free: RefCell<Vec<Page>>,
    initial_flags: u64,
}

impl OnModel {
    /// Builds the domain; its spare pages are the padding of the initial mapping.
    pub fn new(layout: &Layout) -> Self {
        let model = Model::build(layout);
        let boot = model.boot();
        let first = (boot.stack_top - boot.virt_base) >> 12;
        let last = (boot.virt_end - boot.virt_base) >> 12;
        let free = (first..last)
            .rev()
            .filter_map(|pfn| {
                let pfn = Pfn::truncate(pfn);
                let mfn = model.mfn(pfn)?;
                Some(Page {
                    pfn,
                    mfn,
                    va: boot.virt_base + pfn.addr().as_u64(),
                    ptr: model.frame_ptr(mfn).cast(),
                })
            })
            .collect();
        let initial = model.walk(boot.l4, boot.stack_top).entry(Level::L1);
        let initial_flags = initial.map_or(0, |(_, value)| value & !hypercall::addr::ADDR_MASK);
        let about = About {
            kind: match layout.kind {
                model::Kind::DomU => Kind::DomU,
                model::Kind::Dom0 => Kind::Dom0,
                model::Kind::Shim => Kind::Shim,
            },
            model: true,
            version: (layout.version.major, layout.version.minor),
            debug: layout.debug,
            vcpus: layout.vcpus as u32,
        };
        Self {
            model,
            about,
            free: RefCell::new(free),
            initial_flags,
        }
    }

    /// The model itself.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// How many pages are free.
    pub fn free_pages(&self) -> usize {
        self.free.borrow().len()
    }
}

impl Machine for OnModel {
    fn hv(&self) -> &dyn Hypervisor {
        &self.model
    }

    fn about(&self) -> About {
        self.about
    }

    fn alloc(&self) -> Option<Page> {
        let page = self.free.borrow_mut().pop()?;
        // SAFETY: the page is free, so nobody else uses its 512 words.
        unsafe { page.ptr.write_bytes(0, 512) };
        Some(page)
    }

    fn free(&self, page: Page) {
        self.free.borrow_mut().push(page);
    }

    fn set_writable(&self, page: &Page, writable: bool) -> bool {
        let flags = self.initial_flags & !crate::test_bench::RW;
        let value = crate::test_bench::entry(
            page.mfn,
            flags | if writable { crate::test_bench::RW } else { 0 },
        );
        let va = hypercall::VirtAddr::new(page.va);
        let flush = hypercall::mmu::VaFlush::Page(hypercall::mmu::Scope::All);
        // SAFETY: the page is free or a test's, which knows what it does to it.
        unsafe { hypercall::mmu::update_va_mapping(&self.model, va, value, flush) }.is_ok()
    }

    fn entry_of(&self, page: &Page) -> Option<MachAddr> {
        let walk = self.model.walk(self.l4(), page.va);
        walk.entry(Level::L1).map(|(slot, _)| slot)
    }

    fn l4(&self) -> Mfn {
        self.model.l4(Mode::Kernel).unwrap_or_default()
    }

    fn table_word(&self, slot: MachAddr) -> Option<u64> {
        self.model.frame(slot.frame())?;
        let frame = self.model.frame_ptr(slot.frame()).cast::<u64>();
        // SAFETY: the frame is 512 words of the model's memory, and the index below 512.
        Some(unsafe { frame.add(slot.entry_index()).read_volatile() })
    }

    fn scratch_va(&self) -> u64 {
        0x1000_0000_0000
    }

    fn read(&self, va: u64) -> Result<u64, Fault> {
        self.model.load(va).map_err(|f| Fault { code: f.code })
    }

    fn write(&self, va: u64, value: u64) -> Result<(), Fault> {
        let result = self.model.store(va, value);
        result.map_err(|f| Fault { code: f.code })
    }

    fn shared_info(&self) -> *mut shared_info {
        self.model.frame_ptr(self.model.boot().shared_info).cast()
    }

    fn vcpu_info(&self) -> *mut vcpu_info {
        self.model.vcpu_info()
    }

    fn start_info(&self) -> Option<&start_info> {
        let mfn = self.model.mfn(self.model.boot().start_info_pfn)?;
        // SAFETY: the builder wrote a `start_info` there, and nobody writes it while this lives.
        Some(unsafe { &*self.model.frame_ptr(mfn).cast() })
    }

    fn initial_flags(&self) -> Option<u64> {
        Some(self.initial_flags)
    }

    fn execute(&self, va: u64) -> Option<Result<(), Fault>> {
        let result = self.model.access(va, Access::Execute, Mode::Kernel);
        Some(result.map(drop).map_err(|f| Fault { code: f.code }))
    }

    fn observe_upcall(&self, watch: &Page, work: &mut dyn FnMut()) -> Option<Observed> {
        let seen = Rc::new(RefCell::new(Observed {
            upcalls: 0,
            word: 0,
        }));
        let handler = {
            let (seen, shared, word) = (seen.clone(), self.shared_info(), watch.ptr);
            move |model: &Model| {
                let mut seen = seen.borrow_mut();
                if seen.upcalls == 0 {
                    // SAFETY: the page is the caller's, who waits for this function.
                    seen.word = unsafe { word.read_volatile() };
                }
                seen.upcalls += 1;
                let info = model.vcpu_info();
                // SAFETY: both structures are in the model's memory, which this thread alone uses.
                unsafe {
                    (&raw mut (*info).evtchn_upcall_pending).write_volatile(0);
                    (&raw mut (*info).evtchn_pending_sel).write_volatile(0);
                    (&raw mut (*shared).evtchn_pending).write_volatile([0; 64]);
                }
            }
        };
        self.model.set_upcall(Some(Rc::new(handler)));
        let was = self.model.mask_upcalls();
        self.model.restore_upcalls(false);
        work();
        self.model.mask_upcalls();
        self.model.set_upcall(None);
        self.model.restore_upcalls(was);
        let seen = *seen.borrow();
        Some(seen)
    }
}
