//! A list of the fuzzer's operations in a fresh domain: what the tests shrink and what the
//! coverage-guided fuzzer mutates run alike.

use model::Kind;
use pagetable::fuzz::{Divergence, Fuzzer, Op};

use super::{MIB, WINDOW, World, expect, small};

/// 8 MiB: four tables.
pub(crate) const PAGES: usize = 2048;
/// Frames that are mapped in them.
pub(crate) const POOL: usize = 640;

/// The tests' fuzzer.
pub(crate) type Run = Fuzzer<PAGES, POOL>;

/// Carries out a list; Xen interrupts its own lists after each `preempt` requests, or never for 0.
#[expect(
    clippy::result_large_err,
    reason = "a divergence ends the run, as in the fuzzer"
)]
pub(crate) fn run(ops: impl IntoIterator<Item = Op>, preempt: u64) -> Result<(), Divergence> {
    let mut world = World::fast(&small(Kind::DomU, 16 * MIB)).populated();
    let mut probe = world.probe();
    let mut fuzzer = Box::new(Run::EMPTY);
    fuzzer.begin(&mut world.tables, WINDOW, 0).unwrap();
    fuzzer.spare_image(world.image.text.start);
    world.model.preempt_every((preempt > 0).then_some(preempt));
    for op in ops {
        fuzzer.apply(&mut world.tables, &mut probe, op)?;
    }
    fuzzer.end(&mut world.tables, &mut probe)?;
    expect::sound(&world);
    Ok(())
}
