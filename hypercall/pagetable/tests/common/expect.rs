//! What must hold of a domain at any time: checked by walking everything, with nothing taken from
//! the kernel but the claims that are to be proved.

use std::collections::HashMap;

use crate::common::layout;
use hypercall::{Mfn, Pfn, mmu::Level};
use model::{Mode, Type, entry};
use pagetable::frames::Frames;
use pagetable::machine::Machine;
use pagetable::state::Kind;

use super::{PAGE, World};

/// A page that the tables map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf {
    pub(crate) va: u64,
    pub(crate) mfn: Mfn,
    /// RW and NX as they are after all levels.
    pub(crate) writable: bool,
    pub(crate) executable: bool,
}

/// Every page below `table`, large ones taken apart.
fn leaves(world: &World, table: Mfn, level: u32, base: u64, up: (bool, bool), out: &mut Vec<Leaf>) {
    // SAFETY: the model's memory, which only this thread changes, and not meanwhile.
    let words = unsafe { &*world.model.frame_ptr(table) };
    for (index, &word) in words.iter().enumerate() {
        let xens = level == 4 && entry::is_xen_slot(index);
        if word & entry::P == 0 || xens {
            continue;
        }
        let shift = 12 + 9 * (level - 1);
        let va = base + ((index as u64) << shift);
        let va = if level == 4 && index >= 256 {
            va | 0xffff_0000_0000_0000
        } else {
            va
        };
        let rights = (up.0 && word & entry::RW != 0, up.1 && word & entry::NX == 0);
        let mfn = entry::frame(word);
        if level == 1 || word & entry::PSE != 0 {
            out.extend((0..1 << (shift - 12)).map(|page| Leaf {
                va: va + page * PAGE,
                mfn: mfn.add(page),
                writable: rights.0,
                executable: rights.1,
            }));
        } else {
            leaves(world, mfn, level - 1, va, rights, out);
        }
    }
}

/// Every page that the kernel's tables map, but for Xen's own.
pub(crate) fn all_leaves(world: &World) -> Vec<Leaf> {
    let mut out = Vec::new();
    let root = world.model.l4(Mode::Kernel).unwrap();
    leaves(world, root, 4, 0, (true, true), &mut out);
    out
}

fn number(level: Level) -> u8 {
    level as u8
}

/// Tables that are to be given back have nobody who refers to them, who would do so as well.
fn orphans(frames: &Frames) {
    let orphans: Vec<Pfn> = std::iter::from_fn(|| frames.next_orphan()).collect();
    for pfn in orphans {
        let (_, planned) = frames.states(pfn).unwrap();
        assert_eq!(planned.links, 0, "pfn {pfn} is orphaned: {planned}");
        frames.orphan(pfn);
    }
}

/// The record of each frame agrees with what Xen knows of it, and the counts with the records.
pub(crate) fn records(world: &World) {
    let frames = world.tables.frames();
    orphans(frames);
    let machine = world.tables.machine();
    let counts = frames.counts();
    let mut free = 0;
    for pfn in (0..counts.mapped).map(Pfn::truncate) {
        let (applied, planned) = frames.states(pfn).unwrap();
        assert_eq!(applied, planned, "pfn {pfn}: nothing is queued");
        let Some(mfn) = machine.mfn(pfn) else {
            assert!(matches!(applied.kind, Kind::Hole | Kind::Given));
            assert_eq!(world.mapped(machine.window(pfn)), None, "pfn {pfn}");
            continue;
        };
        let frame = world.model.frame(mfn).unwrap();
        let used = frame.type_count > 0;
        let table = match frame.kind {
            Type::Table(level) if used => Some(number(level)),
            _ => None,
        };
        match applied.kind {
            Kind::Table => {
                let uses = u32::from(applied.links) + u32::from(applied.pinned);
                let level = (uses > 0).then_some(applied.level);
                let found = if used { frame.type_count } else { 0 };
                assert_eq!((table, found), (level, uses), "pfn {pfn}: {applied}");
                assert_eq!(frame.pinned, applied.pinned, "pfn {pfn}: {applied}");
            }
            // The p2m list's own mapping loses the right to write further up, which Xen's count
            // does not show; `rights` looks at that. Its tables are tables.
            Kind::P2m => {}
            // The same is true of code that fills a table.
            Kind::ImageConst => {
                let chunk = layout::IMAGE.start + pfn.as_u64() / 512 * 512 * PAGE;
                let kept = &world.image.kept_text;
                let above = kept.start <= chunk && chunk + 512 * PAGE <= kept.end;
                let writable = used && frame.kind == Type::Writable;
                assert_eq!(writable, above, "pfn {pfn}: {applied}");
            }
            _ => assert_eq!(table, None, "pfn {pfn}: {applied}"),
        }
        if applied.kind == Kind::Free {
            free += 1;
            let window_only = frame.kind == Type::Writable && frame.type_count == 1;
            assert!(
                window_only && frame.count == 2,
                "pfn {pfn} is free, yet {frame:?}"
            );
        }
        let in_window = world.mapped(machine.window(pfn));
        if applied.kind == Kind::ImageConst {
            assert_eq!(in_window, None, "pfn {pfn}: {applied}");
            continue;
        }
        let (found, rights) = in_window
            .unwrap_or_else(|| panic!("pfn {pfn} has a record, and the window does not map it"));
        assert_eq!(found, pfn, "the window is the direct map");
        assert_eq!(
            rights & entry::RW != 0,
            applied.may_be_writable(),
            "pfn {pfn}: {applied}"
        );
        assert_ne!(rights & entry::NX, 0, "the direct map is no code");
    }
    assert_eq!(counts.free, free, "the allocator and the records agree");
}

/// Nothing is planned that was not applied: what holds as soon as nothing is queued.
pub(crate) fn no_plans(world: &World) {
    let frames = world.tables.frames();
    for pfn in (0..frames.counts().mapped).map(Pfn::truncate) {
        let (applied, planned) = frames.states(pfn).unwrap();
        assert_eq!(applied, planned, "pfn {pfn}: nothing is queued");
    }
}

/// The base registers refer to the roots that the kernel believes to be in use.
pub(crate) fn bases(world: &World) {
    let mfn = |pfn| world.tables.mfn(pfn).unwrap();
    let kernel = mfn(world.tables.root());
    let user = world.tables.user_root().map(mfn);
    assert_eq!(world.model.l4(Mode::Kernel), Some(kernel));
    assert_eq!(world.model.l4(Mode::User), user);
}

/// No table and no part of the p2m list is writable, and nothing is writable and executable, by
/// whatever way it is reached. `code` says which frames may have executable aliases for all that.
pub(crate) fn rights(world: &World, mut code: impl FnMut(Pfn) -> bool) {
    let boot = world.model.boot();
    let list = (0..(boot.nr_pages * 8).div_ceil(PAGE)).map(|page| boot.mfn_list + page * PAGE);
    let mut ways: HashMap<Mfn, Leaf> = HashMap::new();
    for leaf in all_leaves(world) {
        assert!(!(leaf.writable && leaf.executable), "W^X: {leaf:x?}");
        if let Some(frame) = world.model.frame(leaf.mfn) {
            let table = frame.type_count > 0 && matches!(frame.kind, Type::Table(_));
            assert!(!(table && leaf.writable), "a writable table: {leaf:x?}");
        }
        let all = ways.entry(leaf.mfn).or_insert(leaf);
        all.writable |= leaf.writable;
        all.executable |= leaf.executable;
        if all.writable && all.executable && !world.model.pfn(leaf.mfn).is_some_and(&mut code) {
            panic!("W^X by an alias: {leaf:x?}");
        }
    }
    let l4 = world.model.l4(Mode::Kernel).unwrap();
    for va in list {
        // Where the list lay in the initial window it is in the direct map now.
        let va = if layout::IMAGE.contains(&va) {
            layout::DIRECT.start + (va - layout::IMAGE.start)
        } else {
            va
        };
        let (mfn, _) = world.model.walk(l4, va).page.expect("the list is mapped");
        assert!(!ways[&mfn].writable, "the p2m list at {va:#x} is writable");
    }
}

/// Everything that holds whenever nothing is queued.
pub(crate) fn sound(world: &World) {
    if let Err(wrong) = world.model.check_invariants() {
        panic!("{wrong}");
    }
    records(world);
}

/// [`sound`], and [`rights`] without exceptions.
pub(crate) fn clean(world: &World) {
    sound(world);
    rights(world, |_| false);
}

/// Every frame of the domain by the record: how many are free, handed out, tables, the rest.
pub(crate) fn census(world: &World) -> HashMap<String, u64> {
    let frames = world.tables.frames();
    let mut census = HashMap::new();
    for pfn in (0..frames.counts().mapped).map(Pfn::truncate) {
        let (state, _) = frames.states(pfn).unwrap();
        *census.entry(format!("{state}")).or_default() += 1;
    }
    census
}
