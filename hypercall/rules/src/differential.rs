//! Differential runs, the same random requests on two machines: what a rule book cannot think of.
//!
//! A seed stands for a sequence of raw requests on a dozen pages. Run on the model and on a real
//! Xen, every result and every word of every page must be the same, but for the machine frames,
//! which are replaced by the page's number, and the accessed and dirty bits, which Xen's own walks
//! set as well. All of it goes into a digest; where two differ, [`run`] with `trace` says at which
//! step.

use core::fmt;

use crate::{Kind, Machine, Outcome, Page, Summary, Text, test_bench::*};
use hypercall::{
    MachAddr, Mfn, Op,
    abi::mmu::{
        MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE, MMUEXT_NEW_USER_BASEPTR, MMUEXT_TLB_FLUSH_LOCAL,
        UVMF_INVLPG, mmu_update,
    },
};

/// Pages that take part.
const PAGES: usize = 12;
/// Slots of tables that are used: both ends of what is the guest's, and Xen's own. Not 0, where Xen
/// loses track of tables (R78) and the model does not.
const SLOTS: [usize; 8] = [1, 2, 3, 255, 256, 271, 272, 511];

/// What came of a seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest {
    /// Steps taken.
    pub steps: u32,
    /// Requests that Xen carried out, and that it refused.
    pub done: (u32, u32),
    /// Of all results and of all words at the end.
    pub digest: u64,
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ok, refused) = self.done;
        write!(
            f,
            "{} steps, {ok} done, {refused} refused, {:016x}",
            self.steps, self.digest
        )
    }
}

/// A small generator of random numbers (xorshift64*), the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

struct DifferentialRun<'m> {
    bench: TestBench<'m>,
    random: Random,
    pages: [Page; PAGES],
    /// Frames that are not the guest's to use: Xen's, a device.
    others: [Mfn; 2],
    digest: u64,
    done: (u32, u32),
    /// In words, if anybody wants to know: the step and what came of it.
    told: Option<Text>,
}

impl DifferentialRun<'_> {
    fn note(&mut self, value: u64) {
        for byte in value.to_le_bytes() {
            self.digest = (self.digest ^ byte as u64).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn note_result(&mut self, result: i64) {
        match result {
            0 => self.done.0 += 1,
            _ => self.done.1 += 1,
        }
        self.note(result as u64);
    }

    fn tell(&mut self, args: fmt::Arguments<'_>) {
        if let Some(told) = &mut self.told {
            let _ = fmt::write(told, args);
        }
    }

    /// An entry in words: `3+2:TABLE` is the third page with such flags.
    fn tell_value(&mut self, value: u64) {
        let value = self.normal(value);
        self.tell(format_args!(
            " {:x}+{:x}",
            value >> 12 & 0xff,
            value & !FRAME
        ));
    }

    fn page(&mut self) -> Page {
        self.pages[self.random.below(PAGES as u64) as usize]
    }

    fn target(&mut self) -> Mfn {
        // Rarely: Xen logs each attempt, at the speed of a serial line.
        match self.random.below(256) {
            0 => self.others[0],
            1 => self.others[1],
            _ => self.page().mfn,
        }
    }

    fn slot(&mut self) -> usize {
        SLOTS[self.random.below(SLOTS.len() as u64) as usize]
    }

    fn value(&mut self) -> u64 {
        let flags = match self.random.below(16) {
            0..5 => READ,
            5..8 => WRITE,
            8..12 => TABLE,
            12 => return 0,
            13 => return RW | U,
            14 => P | U | 1 << self.random.below(12),
            // Not bit 62, which depends on the build.
            _ => P | U | 1 << (52 + self.random.below(10)),
        };
        entry(self.target(), flags)
    }

    fn va(&mut self) -> u64 {
        let first = (1 << 30) + (1 << 21) + (1 << 12);
        let step = [0, 0, 0x1000, 0x20_0000, 0x4000_0000][self.random.below(5) as usize];
        self.bench.machine.scratch_va() + first + step
    }

    fn requests(&mut self) {
        let mut list = [mmu_update { ptr: 0, val: 0 }; 4];
        let len = self.random.below(4) as usize + 1;
        for request in &mut list[..len] {
            // 1 would write the M2P.
            let cmd = [0, 0, 2, 3, 4][self.random.below(5) as usize];
            let page = self.page();
            let slot = MachAddr::of_entry(page.mfn, self.slot());
            *request = mmu_update {
                ptr: slot.as_u64() | cmd,
                val: self.value(),
            };
            let (table, val) = (slot.frame().addr().as_u64(), request.val);
            let table = self.normal(table) >> 12;
            self.tell(format_args!(" {table:x}[{}]^{cmd}=", slot.entry_index()));
            self.tell_value(val);
        }
        let (result, done) = self.bench.updates(&list[..len]);
        self.note_result(result);
        self.note(done as u64);
        self.tell(format_args!(" -> {result} after {done}"));
    }

    fn ext(&mut self) {
        let (target, other) = (self.target().as_u64(), self.target().as_u64());
        let choice = self.random.below(12);
        self.tell(format_args!("ext {choice}"));
        self.tell_value(target << 12);
        self.tell_value(other << 12);
        let result = match choice {
            cmd @ 0..5 => self.bench.ext(cmd as u32, target, 0),
            5..8 => self.bench.ext(4, target, 0),
            8 => self.bench.ext(MMUEXT_CLEAR_PAGE, target, 0),
            9 => self.bench.ext(MMUEXT_COPY_PAGE, target, other),
            10 => self.bench.ext(MMUEXT_NEW_USER_BASEPTR, target, 0),
            _ => self.bench.ext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0),
        };
        self.tell(format_args!(" -> {result}"));
        self.note_result(result);
    }

    fn access(&mut self) {
        let va = self.va();
        // A TLB may or may not remember; after a flush both machines must see the same.
        self.bench.flush();
        let seen = match self.random.below(4) {
            0 => match self.bench.machine.write(va, 0) {
                Ok(()) => 0,
                Err(fault) => fault.code as u64,
            },
            _ => match self.bench.machine.read(va) {
                Ok(word) => self.normal(word),
                Err(fault) => fault.code as u64,
            },
        };
        self.tell(format_args!("access {va:x} -> {seen:x}"));
        self.note(seen);
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..7 => self.requests(),
            7..12 => self.ext(),
            12 => {
                let (va, value) = (self.va(), self.value());
                let result = self.bench.update_va(va, value, UVMF_INVLPG);
                self.tell(format_args!("va {va:x} -> {result}"));
                self.tell_value(value);
                self.note_result(result);
            }
            13 => {
                let value = match self.random.below(4) {
                    0 => 0,
                    _ => entry(self.target(), TABLE),
                };
                let result = self.bench.hang(value);
                self.tell(format_args!("root -> {result}"));
                self.tell_value(value);
                self.note_result(result);
            }
            14 => {
                let frames = [self.target().as_u64()];
                let args = [frames.as_ptr() as u64, self.random.below(2) * 512, 0, 0, 0];
                let result = self.bench.call(Op::SetGdt, args);
                self.tell(format_args!("gdt of {} -> {result}", args[1]));
                self.tell_value(frames[0] << 12);
                self.note_result(result);
            }
            _ => self.access(),
        }
    }

    /// A word without what differs between machines.
    fn normal(&self, word: u64) -> u64 {
        let frame = Mfn::truncate((word & FRAME) >> 12);
        let known = self.pages.iter().map(|page| page.mfn).chain(self.others);
        let number = known.zip(1u64..).find(|(mfn, _)| *mfn == frame);
        let frame = number.map_or(word & FRAME, |(_, number)| number << 12);
        frame | word & !FRAME & !AD
    }

    fn note_pages(&mut self) {
        for page in self.pages {
            // A former L4 has Xen's values in Xen's slots.
            for index in (0..256).chain(272..512) {
                let word = self.normal(word(&page, index));
                if word != 0 {
                    self.note(index as u64);
                    self.note(word);
                }
            }
        }
    }
}

/// Carries out what `seed` stands for, and says what came of it. With `trace`, each step is written
/// there, with the digest after it, and all pages are digested at every step.
///
/// # Errors
/// The machine has too few pages, or cannot read its L4.
pub fn run(
    machine: &dyn Machine,
    seed: u64,
    steps: u32,
    mut trace: Option<&mut dyn fmt::Write>,
) -> Result<Digest, Outcome> {
    let bench = TestBench::new(machine);
    let mut pages = [bench.table()?; PAGES];
    for page in &mut pages[1..] {
        *page = bench.table()?;
    }
    // One of them is mapped writable, and so cannot be a table.
    bench.set_writable(&pages[PAGES - 1], true)?;
    let xen = machine
        .table_word(MachAddr::of_entry(machine.l4(), 261))
        .ok_or_else(|| error("the kernel cannot read its L4"))?;
    // Dom0 may map devices; a frame of Xen's is refused to it as to anybody.
    let xen = Mfn::truncate((xen & FRAME) >> 12);
    let device = match bench.kind() {
        Kind::Dom0 => xen,
        Kind::DomU | Kind::Shim => Mfn::truncate(0xa0),
    };
    let mut state = DifferentialRun {
        bench,
        random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        pages,
        others: [xen, device],
        digest: 0xcbf2_9ce4_8422_2325,
        done: (0, 0),
        told: None,
    };
    for step in 0..steps {
        state.told = trace.is_some().then(Text::empty);
        state.step();
        if let Some(trace) = &mut trace {
            let before = state.digest;
            state.note_pages();
            let after = core::mem::replace(&mut state.digest, before);
            // A sink that fails cannot be told so.
            let told = state.told.unwrap_or(Text::empty());
            let told = told.as_str();
            let _ = writeln!(
                trace,
                "differential seed {seed} step {step} {after:016x} {told}"
            );
        }
    }
    state.note_pages();
    // What the test bench does not know about.
    state.bench.call(Op::SetGdt, [0; 5]);
    Ok(Digest {
        steps,
        done: state.done,
        digest: state.digest,
    })
}

/// Carries out several seeds, a line each: `differential seed 7 pass "..."` with the [`Digest`] in it.
pub fn run_many(
    machine: &dyn Machine,
    seeds: core::ops::Range<u64>,
    steps: u32,
    sink: &mut dyn fmt::Write,
) -> Summary {
    let mut summary = Summary::default();
    for seed in seeds {
        let (word, text) = match run(machine, seed, steps, None) {
            Ok(digest) => {
                summary.pass += 1;
                ("pass", Text::new(format_args!("{digest}")))
            }
            Err(outcome) => {
                summary.error += 1;
                ("error", Text::new(format_args!("{}", outcome.message())))
            }
        };
        let _ = writeln!(
            sink,
            "differential seed {seed} {word} \"{}\"",
            text.as_str()
        );
    }
    summary
}
