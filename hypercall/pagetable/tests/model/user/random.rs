//! Operations by chance on spaces that come of each other, some of them refused by Xen halfway: each space
//! holds what a map of its pages says.

use std::collections::BTreeMap;

use hypercall::{Errno, Op};
use model::{Access, Injection, Kind, Mode as Cpu};
use pagetable::Flags;
use pagetable::entry::{L2, TableLevel};
use pagetable::fuzz::Rng;
use pagetable::spaces::AddressSpace;
use pagetable::state::Kind as Record;

use super::{STACK, VA, destroy, fork, map, read, sound, spare, unmap, write_despite};
use crate::common::{MIB, PAGE, World, small};

/// What a space should hold: the content of each page, and whether user mode may write to it.
type Reference = BTreeMap<u64, (u64, bool)>;

/// Three tables side by side and one far off.
fn page_number(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => STACK + rng.below(64) * PAGE,
        1 => VA + rng.below(3) * L2::SPAN,
        _ => VA + rng.below(3 * 512) * PAGE,
    }
}

struct Run {
    world: World,
    spaces: Vec<(AddressSpace, Reference)>,
    rng: Rng,
    next: u64,
}

impl Run {
    fn step(&mut self) {
        let Run {
            world,
            spaces,
            rng,
            next,
        } = self;
        let op = [Op::MmuUpdate, Op::MmuextOp, Op::UpdateVaMapping][rng.below(3) as usize];
        let refusal = Injection {
            nth: 1 + rng.below(3),
            ..Injection::request(op, rng.below(2) as u32, Errno::ENOMEM)
        };
        let refusal = (rng.below(4) == 0).then_some(refusal);
        if let Some(refusal) = refusal {
            world.model.inject(refusal);
        }
        let which = rng.below(spaces.len() as u64) as usize;
        let va = page_number(rng);
        let pages = 1 + match rng.below(3) {
            0 => rng.below(700),
            1 => 511,
            _ => rng.below(5),
        };
        let range = va..va + pages * PAGE;
        let count = spaces.len();
        let (space, reference) = &mut spaces[which];
        let mut changes: Vec<(u64, Option<(u64, bool)>)> = Vec::new();
        let result = match rng.below(8) {
            0 | 1 => {
                let first = *next;
                *next += pages;
                changes.extend((0..pages).map(|n| (va + n * PAGE, Some((first + n, true)))));
                let mapped = map(world, space, va, pages, first);
                if reference.range(range.clone()).next().is_some() {
                    assert!(mapped.is_err(), "occupied");
                }
                mapped
            }
            2 => {
                changes.extend((0..pages).map(|n| (va + n * PAGE, None)));
                unmap(world, space, va, pages)
            }
            3 => {
                let writable = rng.below(2) == 0;
                let flags = if writable { Flags::DATA } else { Flags::CONST };
                let pages_there = reference.range(range.clone());
                changes.extend(pages_there.map(|(va, page)| (*va, Some((page.0, writable)))));
                world
                    .tables
                    .in_space(space, |tables| tables.protect_user(va, pages, flags))
            }
            4 => {
                let to = page_number(rng);
                let there = reference.range(range.clone());
                let moved: Vec<_> = there
                    .map(|(at, page)| (*at, to + (at - va), *page))
                    .collect();
                for (from, to, page) in moved {
                    changes.push((from, None));
                    changes.push((to, Some(page)));
                }
                world
                    .tables
                    .in_space(space, |tables| tables.move_user(va, to, pages))
            }
            5 if count < 5 => {
                let forked = fork(world, space).map(|child| (child, reference.clone()));
                world.model.clear_injections();
                spaces.extend(forked.ok());
                return;
            }
            6 if count > 1 => {
                let (space, _) = spaces.swap_remove(which);
                match rng.below(4) {
                    0 => {
                        world.model.clear_injections();
                        destroy(world, space);
                    }
                    // What Xen refuses of the half it may refuse of the roots as well.
                    1 => drop(world.tables.spare_space(space)),
                    _ => {
                        world.model.clear_injections();
                        spare(world, space);
                    }
                }
                world.model.clear_injections();
                return;
            }
            _ => {
                let there = reference.range(va..).next().map(|(va, page)| (*va, *page));
                let Some((va, (_, true))) = there else {
                    world.model.clear_injections();
                    return;
                };
                *next += 1;
                changes.push((va, Some((*next, true))));
                world.model.clear_injections();
                write_despite(world, space, va, *next, refusal)
            }
        };
        world.model.clear_injections();
        // After an error each page is as it was before or as it was to be.
        for (va, after) in changes {
            let content = after.map(|page| page.0);
            if result.is_ok() || read(&mut self.world, &self.spaces[which].0, va) == content {
                let reference = &mut self.spaces[which].1;
                // Nobody knows which rights a change that failed has left.
                let was = result.is_err() && reference.get(&va).is_some_and(|page| page.1);
                match after {
                    Some((content, writable)) => {
                        reference.insert(va, (content, writable || was));
                    }
                    None => drop(reference.remove(&va)),
                }
            } else if result.is_err() && read(&mut self.world, &self.spaces[which].0, va).is_none()
            {
                self.spaces[which].1.remove(&va);
            }
        }
    }

    /// Everything is as the references say.
    fn check(&mut self) {
        sound(&mut self.world);
        for (space, reference) in &self.spaces {
            self.world.switch(space);
            for (&va, &(content, writable)) in reference {
                let found = self.world.model.access(va, Access::Read, Cpu::User);
                let (mfn, _) = found.unwrap_or_else(|e| panic!("{va:#x}: {e:?}"));
                // SAFETY: as in `read`.
                let value = unsafe { (*self.world.model.frame_ptr(mfn))[0] };
                assert_eq!(value, content, "{va:#x}");
                let writes = self
                    .world
                    .model
                    .access(va, Access::Write, Cpu::User)
                    .is_ok();
                assert!(writable || !writes, "{va:#x} is writable");
            }
            self.world.leave_space();
            let pages = self.world.tables.in_space(space, |tables| {
                let all = (0..3 * 512).map(|n| VA + n * PAGE);
                Ok(all.filter(|va| tables.user_page(*va).is_some()).count())
            });
            let known = reference.range(VA..VA + 3 * L2::SPAN).count();
            assert_eq!(pages.unwrap(), known, "pages mapped that nobody knows of");
        }
    }
}

/// Operations by chance on spaces that come of each other, some of them refused by Xen halfway.
#[test]
fn spaces_by_chance_hold_what_they_should() {
    for seed in 0..12 {
        let mut world = World::new(&small(Kind::DomU, 40 * MIB)).populated();
        let before = world.free();
        let first = world.tables.create_space().unwrap();
        let mut run = Run {
            world,
            spaces: vec![(first, Reference::new())],
            rng: Rng::new(seed),
            next: 1,
        };
        for step in 0..150 {
            run.step();
            if step % 10 == 0 {
                run.check();
            }
        }
        run.check();
        let Run {
            mut world, spaces, ..
        } = run;
        for (space, _) in spaces {
            destroy(&mut world, space);
        }
        world.tables.release_spares().unwrap();
        sound(&mut world);
        assert_eq!(world.free(), before, "seed {seed}: frames are lost");
        let frames = world.tables.frames();
        let mapped = (0..frames.counts().mapped).map(hypercall::Pfn::truncate);
        let left = mapped.filter(|pfn| frames.states(*pfn).unwrap().0.kind == Record::User);
        assert_eq!(left.count(), 0);
    }
}
