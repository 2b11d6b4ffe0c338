//! The kernel's page tables on the host: [`ModelMachine`] puts them on the model of Xen, [`World`]
//! is a domain whose tables were taken over, and `expect` says what must hold of it at any time.
#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod expect;
pub(crate) mod layout;
pub(crate) mod lists;
mod own;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use hypercall::{Hypervisor, Mfn, Op, Pfn};
use layout::Fixed;
use model::{Access, Kind, Layout, Mode as Cpu, Model, Order};
pub(crate) use own::Own;
use pagetable::fuzz::{Mode, Probe, mode, window};
use pagetable::machine::{Machine, Words};
use pagetable::spaces::AddressSpace;
use pagetable::tables::Fold;
use pagetable::takeover::{Initial, Segments, Start, Summary};
use pagetable::{Flags, MmError, Value};

pub(crate) const PAGE: u64 = 4096;
/// Where the fuzzer maps things.
pub(crate) const WINDOW: u64 = window::<layout::Regions>();
/// Where the tests map things: in the middle of nowhere, aligned to everything.
pub(crate) const BASE: u64 = layout::DYNAMIC.start + (3 << 30);

/// A handle on the model that answers hypercalls.
#[derive(Clone)]
pub(crate) struct Xen(pub(crate) Rc<Model>);

impl Hypervisor for Xen {
    unsafe fn call(&self, op: Op, args: [u64; 5]) -> i64 {
        // SAFETY: the caller's promise.
        unsafe { self.0.call(op, args) }
    }

    fn mask_upcalls(&self) -> bool {
        self.0.mask_upcalls()
    }

    fn restore_upcalls(&self, was: bool) {
        self.0.restore_upcalls(was);
    }
}

/// The machine that the model is: memory is reached by frame number, for a virtual address of the
/// guest means nothing to the host. What the window does not map is not reached.
pub(crate) struct ModelMachine {
    pub(crate) model: Rc<Model>,
    reach: Cell<u64>,
    direct: Cell<bool>,
    /// Look the window up at each use, rather than believe that it reaches what it says.
    strict: bool,
    /// Frames that are said to have no memory.
    holes: Vec<Range<u64>>,
    /// The pages of the p2m list.
    list: RefCell<Vec<Mfn>>,
    /// Where it is, and for how many pages.
    place: Cell<(u64, u64)>,
}

impl ModelMachine {
    fn sees(&self, pfn: Pfn, mfn: Mfn) -> bool {
        if !self.strict {
            return true;
        }
        let l4 = self.model.boot().l4;
        let page = self.model.walk(l4, self.window(pfn)).page;
        page.is_some_and(|(found, _)| found == mfn)
    }
}

impl Machine for ModelMachine {
    type Hv = Xen;
    type Lock = spin::Mutex<()>;
    type Layout = layout::Regions;

    fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        let is_hole = self.holes.iter().any(|hole| hole.contains(&pfn.as_u64()));
        let (page, index) = (pfn.as_u64() / 512, pfn.as_u64() as usize % 512);
        if is_hole || pfn.as_u64() >= self.place.get().1 {
            return None;
        }
        let page = *self.list.borrow().get(page as usize)?;
        // SAFETY: the model's memory, which only this thread changes, and not meanwhile.
        let word = unsafe { (&raw const (*self.model.frame_ptr(page))[index]).read() };
        (word != u64::MAX).then_some(Mfn::truncate(word))
    }

    fn list_entry(&self, pfn: Pfn) -> Option<u64> {
        let (list, pages) = self.place.get();
        // In the initial mapping it is left for the direct map.
        let list = match layout::IMAGE.contains(&list) {
            true => layout::DIRECT.start + (list - layout::IMAGE.start),
            false => list,
        };
        (pfn.as_u64() < pages).then(|| list + pfn.as_u64() * 8)
    }

    fn lengthen_list(&self, list: u64, pages: u64) {
        let l4 = self.model.boot().l4;
        let page = |at| self.model.walk(l4, list + at * PAGE).page;
        let all = (0..pages.div_ceil(512)).map(|at| page(at).expect("the list is mapped").0);
        self.list.replace(all.collect());
        self.place.set((list, pages));
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        let pfn = self.model.pfn(mfn)?;
        (self.mfn(pfn)? == mfn).then_some(pfn)
    }

    fn memory(&self, pfn: Pfn) -> *mut Words {
        match self.mfn(pfn) {
            Some(mfn) if pfn.as_u64() < self.reach.get() && self.sees(pfn, mfn) => {
                self.model.frame_ptr(mfn)
            }
            _ => std::ptr::null_mut(),
        }
    }

    fn window(&self, pfn: Pfn) -> u64 {
        let base = if self.direct.get() {
            layout::DIRECT.start
        } else {
            layout::IMAGE.start
        };
        base + pfn.as_u64() * PAGE
    }

    fn set_reach(&self, pages: u64) {
        self.reach.set(pages);
    }

    fn open_direct_map(&self) {
        self.direct.set(true);
    }

    fn direct_map_is_open(&self) -> bool {
        self.direct.get()
    }
}

/// Accesses through the model's TLB.
pub(crate) struct ModelProbe(pub(crate) Rc<Model>);

impl Probe for ModelProbe {
    fn load(&mut self, va: u64) -> Option<u64> {
        self.0.load(va).ok()
    }

    fn store(&mut self, va: u64, value: u64) -> bool {
        // Not `Model::store`: dom0's stores to tables are emulated, and would hide a fault.
        let Ok((mfn, offset)) = self.0.access(va, Access::Write, Cpu::Kernel) else {
            return false;
        };
        let words = self.0.frame_ptr(mfn);
        // SAFETY: the model's memory, which this thread alone uses, and an offset within a frame.
        unsafe { words.cast::<u64>().add(offset as usize / 8).write(value) };
        true
    }

    fn executes(&mut self, va: u64) -> Option<bool> {
        Some(self.0.access(va, Access::Execute, Cpu::Kernel).is_ok())
    }

    fn user_reads(&mut self, va: u64) -> Option<bool> {
        Some(self.0.access(va, Access::Read, Cpu::User).is_ok())
    }
}

/// A domain and its page tables.
pub(crate) struct World {
    pub(crate) model: Rc<Model>,
    pub(crate) tables: Own<ModelMachine>,
    pub(crate) report: Summary,
    pub(crate) image: Segments,
    /// A space that a test made, for those that pass the world around.
    pub(crate) space: Option<AddressSpace>,
}

pub(crate) const MIB: u64 = (1 << 20) / PAGE;

pub(crate) fn image(layout: &Layout) -> Segments {
    let (start, end) = layout.kernel;
    // Not on 2 MiB boundaries, so that segments share L1 tables. What is beyond 2 MiB is code.
    let more = (end - start).saturating_sub(2 << 20);
    let text = start..start + more + 0x7_9000;
    let rodata = text.end..text.end + 0x5_8000;
    let guard = end - 0x1_1000;
    Segments {
        kept_text: start..text.end - 0x9000,
        text,
        data: rodata.end..end,
        rodata,
        guard: guard..guard + PAGE,
    }
}

/// The machine on a model, before anything was taken over.
pub(crate) fn machine(model: &Rc<Model>, strict: bool) -> ModelMachine {
    let boot = model.boot();
    let list = (0..(boot.nr_pages * 8).div_ceil(PAGE)).map(|page| boot.mfn_list + page * PAGE);
    let list = list.map(|va| model.walk(boot.l4, va).page.expect("the list is mapped").0);
    ModelMachine {
        model: Rc::clone(model),
        reach: Cell::new(0),
        direct: Cell::new(false),
        strict,
        holes: Vec::new(),
        list: RefCell::new(list.collect()),
        place: Cell::new((boot.mfn_list, boot.nr_pages)),
    }
}

/// The same, with frames that have no memory.
pub(crate) fn with_holes(model: &Rc<Model>, holes: Vec<Range<u64>>) -> ModelMachine {
    ModelMachine {
        holes,
        ..machine(model, false)
    }
}

/// The list that holds one hole.
pub(crate) fn one(hole: Range<u64>) -> Vec<Range<u64>> {
    vec![hole]
}

/// What the kernel would read from `start_info`.
pub(crate) fn start(model: &Model, layout: &Layout) -> Start {
    let boot = model.boot();
    let known = |mfn: Mfn| model.pfn(mfn).map(|pfn| pfn.as_u64());
    let shared = |mfn: Mfn| (mfn.as_u64() != 0).then(|| known(mfn)).flatten();
    let pages = boot.mod_len.div_ceil(PAGE);
    let module = match (boot.mod_len, layout.unmapped_initrd) {
        (0, _) => 0..0,
        (_, true) => boot.mod_start..boot.mod_start + pages,
        (_, false) => {
            let first = (boot.mod_start - boot.virt_base) / PAGE;
            first..first + pages
        }
    };
    Start {
        nr_pages: boot.nr_pages,
        pt_base: boot.pt_base,
        nr_pt_frames: boot.nr_pt_frames,
        p2m_list: Some(boot.mfn_list),
        fold: Fold::FourLevels,

        p2m_frames: boot.first_p2m_pfn..boot.first_p2m_pfn + boot.nr_p2m_frames,
        start_info: boot.start_info_pfn.as_u64(),
        shared: [shared(boot.console_mfn), shared(boot.store_mfn)],
        module,
        boot_stack: (boot.stack_top - 1 - boot.virt_base) / PAGE,
        image: image(layout),
    }
}

impl World {
    /// A domain with its tables taken over.
    pub(crate) fn new(layout: &Layout) -> World {
        Self::build(layout).unwrap_or_else(|e| panic!("takeover of {layout:?}: {e}"))
    }

    /// An ordinary guest of 16 MiB that meets every trap laid out: scattered memory, a debug Xen,
    /// a processor with L1TF.
    pub(crate) fn small() -> World {
        Self::new(&small(Kind::DomU, 16 * MIB))
    }

    pub(crate) fn build(layout: &Layout) -> Result<World, MmError> {
        Self::build_with(layout, true, Vec::new())
    }

    /// As [`World::new`], but without looking the window up at each use.
    pub(crate) fn fast(layout: &Layout) -> World {
        Self::with_holes(layout, Vec::new())
    }

    /// As [`World::fast`], with frames that have no memory.
    pub(crate) fn with_holes(layout: &Layout, holes: Vec<Range<u64>>) -> World {
        Self::build_with(layout, false, holes)
            .unwrap_or_else(|e| panic!("takeover of {layout:?}: {e}"))
    }

    fn build_with(layout: &Layout, strict: bool, holes: Vec<Range<u64>>) -> Result<World, MmError> {
        let model = Rc::new(Model::build(layout));
        // Rights that grow must be flushed as well.
        model.fault_from_tlb(true);
        let machine = ModelMachine {
            holes,
            ..machine(&model, strict)
        };
        let mut tables = Own::new(Xen(Rc::clone(&model)), machine);
        let start = start(&model, layout);
        let image = start.image.clone();
        let console = start.shared[0].and_then(|pfn| model.mfn(Pfn::truncate(pfn)));
        let mut early = Initial::survey(&mut tables, start)?.fixmap()?;
        // SAFETY: shared pages have this one place; nothing of the host's is behind it.
        unsafe {
            early.map_fixed(
                Fixed::SharedInfo.address(),
                model.boot().shared_info,
                Flags::DATA,
            )?;
            if let Some(mfn) = console {
                early.map_fixed(Fixed::Console.address(), mfn, Flags::DATA)?;
            }
        }
        let report = early.direct_map()?;
        Ok(World {
            model,
            tables,
            report,
            image,
            space: None,
        })
    }

    /// Every frame that the domain can have is in the direct map.
    pub(crate) fn populated(mut self) -> World {
        self.tables.populate_all().unwrap();
        self
    }

    /// How many frames are free, once those that refusals left over are back: they come with the next one
    /// that is asked for.
    pub(crate) fn free(&mut self) -> u64 {
        let frame = self.tables.alloc_frame().unwrap();
        self.tables.free_frame(frame).unwrap();
        self.tables.frames().counts().free
    }

    /// So many frames.
    pub(crate) fn frames(&mut self, count: usize) -> Vec<Pfn> {
        (0..count)
            .map(|_| self.tables.alloc_frame().unwrap().pfn())
            .collect()
    }

    /// The first of so many consecutive frames that are nobody's.
    pub(crate) fn consecutive(&mut self, count: u64) -> u64 {
        let mut spare: Vec<u64> = self.frames(1500).iter().map(|pfn| pfn.as_u64()).collect();
        spare.sort_unstable();
        let mut runs = spare.windows(count as usize);
        runs.find(|run| run[run.len() - 1] - run[0] == count - 1)
            .unwrap()[0]
    }

    /// So many frames, each full of its own number.
    pub(crate) fn named_frames(&mut self, count: usize) -> Vec<Pfn> {
        let mut frames = Vec::new();
        for _ in 0..count {
            let mut frame = self.tables.alloc_frame().unwrap();
            let pfn = frame.pfn();
            self.tables.frame_memory(&mut frame).fill(pfn.as_u64());
            frames.push(pfn);
        }
        frames
    }

    pub(crate) fn map(&mut self, va: u64, frames: &[Pfn], flags: Flags) -> Result<(), MmError> {
        // SAFETY: the model's frames, which the tests alone use.
        unsafe { self.tables.map(va, frames.iter().copied(), flags) }?.commit(&mut self.tables)
    }

    pub(crate) fn unmap(&mut self, va: u64, pages: u64) -> Result<(), MmError> {
        // SAFETY: as in `map`.
        unsafe { self.tables.unmap(va, pages) }?.commit(&mut self.tables)
    }

    pub(crate) fn protect(
        &mut self,
        va: u64,
        pages: u64,
        add: Flags,
        remove: Flags,
    ) -> Result<(), MmError> {
        // SAFETY: as in `map`.
        unsafe { self.tables.protect(va, pages, add, remove) }?.commit(&mut self.tables)
    }

    pub(crate) fn move_pages(&mut self, from: u64, to: u64, pages: u64) -> Result<(), MmError> {
        // SAFETY: as in `map`.
        unsafe { self.tables.move_pages(from, to, pages) }?.commit(&mut self.tables)
    }

    pub(crate) fn release(&mut self, va: u64, pages: u64) -> Result<(), MmError> {
        // SAFETY: nobody runs the model's image.
        unsafe { self.tables.release(va, pages) }
    }

    /// Makes a space the current one, and expects no trouble.
    pub(crate) fn switch(&mut self, to: &AddressSpace) {
        // SAFETY: nobody uses the user half of the model.
        unsafe { self.tables.switch_space(to) }.unwrap();
    }

    /// Makes the space that boot ran in the current one.
    pub(crate) fn leave_space(&mut self) {
        let boot = self.tables.boot_space();
        self.switch(&boot);
    }

    pub(crate) fn set_ptes(
        &mut self,
        va: u64,
        first: Pfn,
        pages: u64,
        flags: Flags,
    ) -> Result<(), MmError> {
        // SAFETY: as in `map`.
        unsafe { self.tables.set_ptes(va, Value::new(first, flags), pages) }?
            .commit(&mut self.tables)
    }

    /// Changes the mode of the context, and expects no trouble.
    pub(crate) fn mode(&mut self, to: Mode) {
        mode(&mut self.tables, to).unwrap_or_else(|e| panic!("{to:?}: {e}"));
    }

    pub(crate) fn probe(&self) -> ModelProbe {
        ModelProbe(Rc::clone(&self.model))
    }

    /// What the tables map at an address: the frame and the rights that remain of all levels.
    pub(crate) fn mapped(&self, va: u64) -> Option<(Pfn, u64)> {
        let l4 = self.model.l4(Cpu::Kernel)?;
        let (mfn, rights) = self.model.walk(l4, va).page?;
        Some((self.model.pfn(mfn)?, rights))
    }
}

pub(crate) fn small(kind: Kind, pages: u64) -> Layout {
    Layout {
        order: Order::Scattered,
        debug: true,
        l1tf: true,
        ..Layout::new(kind, pages)
    }
}
