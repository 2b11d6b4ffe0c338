//! A batch, the stand-in for Xen it is sent to, and the record of what was applied.
#![allow(dead_code, reason = "each test uses its part")]

use hypercall::batch::Write;
use hypercall::{Batch, Completion, ExtOp, FlushError, FlushReason, Level, MachAddr, Mfn, Update};

use proptest::prelude::ProptestConfig;

use super::{Double, Request};

/// So many random cases; what fails is not written into the source tree.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// What a run is written with: these values, where nothing was.
pub(crate) fn each_of<const N: usize>(
    values: Vec<u64>,
) -> impl FnMut(&Batch<N>, usize) -> Result<Option<Write>, FlushError> {
    move |_, at| {
        Ok(Some(Write {
            old: 0,
            value: values[at],
        }))
    }
}

const REASON: FlushReason = FlushReason::Explicit;

#[derive(Default, PartialEq, Eq, Debug)]
pub(crate) struct Log(pub(crate) Vec<(u32, bool)>);

impl Completion for Log {
    fn applied(&mut self, tag: u32) {
        self.0.push((tag, true));
    }
    fn dropped(&mut self, tag: u32) {
        self.0.push((tag, false));
    }
}

pub(crate) fn slot(n: u64) -> MachAddr {
    MachAddr::truncate(0x10_0000 + 8 * n)
}

pub(crate) fn mfn(n: u64) -> Mfn {
    Mfn::truncate(n)
}

#[track_caller]
pub(crate) fn update(n: u64, value: u64) -> Update {
    Update::new(Level::L1, slot(n), value)
}

pub(crate) struct Rig<const N: usize = 512> {
    pub(crate) xen: Double,
    pub(crate) batch: Box<Batch<N>>,
    pub(crate) log: Log,
}

impl<const N: usize> Rig<N> {
    pub(crate) fn new() -> Self {
        Self {
            xen: Double::default(),
            batch: Box::new(Batch::new()),
            log: Log::default(),
        }
    }

    #[track_caller]
    pub(crate) fn queue(&mut self, update: Update) {
        // SAFETY: nothing here is a page table.
        unsafe { self.batch.queue(&self.xen, &mut self.log, update) }.unwrap();
    }

    /// Queues consecutive updates from `first` on, with these values.
    #[track_caller]
    pub(crate) fn queue_run(&mut self, first: Update, values: impl IntoIterator<Item = u64>) {
        let (xen, log) = (&self.xen, &mut self.log);
        let values: Vec<u64> = values.into_iter().collect();
        let count = values.len();
        // SAFETY: nothing here is a page table.
        unsafe {
            self.batch
                .queue_run(xen, log, first, count, None, each_of(values))
        }
        .unwrap();
    }

    pub(crate) fn ext(&mut self, op: ExtOp, tag: u32) {
        // SAFETY: nothing here is a page table.
        unsafe { self.batch.queue_ext(&self.xen, &mut self.log, op, tag) }.unwrap();
    }

    pub(crate) fn flush(&mut self) -> Result<(), FlushError> {
        let result = self.batch.flush(&self.xen, REASON, &mut self.log);
        assert!(self.batch.is_empty());
        assert!(!self.xen.masked.get());
        assert_eq!(self.xen.unmasked_requests.get(), 0);
        result
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.xen
            .requests
            .borrow()
            .iter()
            .map(|(request, _)| *request)
            .collect()
    }
}

pub(crate) fn sent(ptr: MachAddr, val: u64) -> Request {
    Request::Update {
        ptr: ptr.as_u64(),
        val,
    }
}

pub(crate) fn ext(cmd: u32, arg1: u64) -> Request {
    Request::Ext { cmd, arg1 }
}
