//! Two vCPUs' logs over one record of frames: each settles its own steps, whatever the other does.

mod common;

use common::{MIB, ModelMachine, World, small};
use hypercall::Pfn;
use model::Kind as Domain;
use pagetable::frames::{Frame, FrameError, Frames, Log};
use pagetable::state::{Kind, State, Step};

/// A table with one link, of which both logs speak.
const TABLE: Pfn = Pfn::truncate(700);
const LINKED: State = State::table(1, 1, false);

#[derive(Clone, Copy, Debug)]
enum Act {
    Plan(Step),
    /// The oldest request of the log comes true, or is refused.
    Answer(bool),
    Settle,
}

const ACTS: [Act; 6] = [
    Act::Plan(Step::Link(1)),
    Act::Plan(Step::Unlink),
    Act::Plan(Step::Pin(1)),
    Act::Answer(true),
    Act::Answer(false),
    Act::Settle,
];

/// What is to be expected: by hand, without a record.
struct Expected {
    applied: State,
    /// For each log its requests that have no answer yet, and those that were refused.
    asked: [Vec<(u32, Step)>; 2],
    refused: [Vec<Step>; 2],
}

impl Expected {
    /// The links if everything in waiting comes true that can.
    fn planned_links(&self) -> i64 {
        let waiting = self.asked.iter().flatten().map(|(_, step)| step);
        let refused = self.refused.iter().flatten();
        let change = waiting.chain(refused).map(|step| match step {
            Step::Link(_) => 1,
            Step::Unlink => -1,
            _ => 0,
        });
        i64::from(self.applied.links) + change.sum::<i64>()
    }

    /// Whether a log may plan a step that is legal as such: what is not counted only if the other has
    /// nothing in waiting, and a link is dropped only if it is there whatever comes true of the other's.
    fn may_plan(&self, who: usize, step: Step) -> bool {
        let of = |log: usize| {
            let asked = self.asked[log].iter().map(|&(_, step)| step);
            asked.chain(self.refused[log].iter().copied())
        };
        let links = |log| of(log).filter(|s| matches!(s, Step::Link(_))).count() as i64;
        let unlinks = |log| of(log).filter(|s| *s == Step::Unlink).count() as i64;
        let other = 1 - who;
        match step {
            _ if of(other).next().is_none() => true,
            Step::Link(_) => true,
            Step::Unlink => {
                let mine = links(who) - unlinks(who);
                i64::from(self.applied.links) + mine - unlinks(other) > 0
            }
            _ => false,
        }
    }
}

/// Carries out a sequence of acts, and says whether its last one could be done at all.
fn run(frames: &Frames, machine: &ModelMachine, acts: &[(usize, Act)]) -> bool {
    frames.set(TABLE, LINKED).unwrap();
    let mut logs = [Log::new(), Log::new()];
    let mut expected = Expected {
        applied: LINKED,
        asked: [vec![], vec![]],
        refused: [vec![], vec![]],
    };
    let mut done = false;
    for &(who, act) in acts {
        done = true;
        match act {
            Act::Plan(step) => {
                let legal = frames.states(TABLE).unwrap().1.after(step).is_ok();
                let may = expected.may_plan(who, step);
                match logs[who].plan(frames, &[(TABLE, step)]) {
                    Ok(tag) => {
                        assert!(may, "{acts:?}");
                        expected.asked[who].push((tag, step));
                    }
                    Err(FrameError::Illegal(..)) if !legal => done = false,
                    Err(FrameError::Busy(_)) if !may => done = false,
                    Err(e) => panic!("{acts:?}: {e}"),
                }
            }
            Act::Answer(true) => match expected.asked[who].first().copied() {
                // What Xen would not do, as its count says; and a link that was refused is not there
                // to be dropped: who plans a step sees to it that it is of what stands, see `links.rs`.
                Some((_, step)) if expected.applied.after(step).is_err() => done = false,
                Some((_, Step::Unlink)) if expected.refused[who].contains(&Step::Link(1)) => {
                    done = false;
                }
                Some((tag, step)) => {
                    expected.asked[who].remove(0);
                    logs[who].applied(frames, tag);
                    expected.applied = expected.applied.after(step).unwrap();
                }
                None => done = false,
            },
            Act::Answer(false) if expected.asked[who].is_empty() => done = false,
            Act::Answer(false) => {
                let (_, step) = expected.asked[who].remove(0);
                expected.refused[who].push(step);
            }
            Act::Settle if expected.asked[who].is_empty() => {
                logs[who].settle(frames, machine);
                expected.refused[who].clear();
            }
            Act::Settle => done = false,
        }
        let (applied, planned) = frames.states(TABLE).unwrap();
        assert_eq!(applied, expected.applied, "{acts:?}");
        assert_eq!(
            i64::from(planned.links),
            expected.planned_links(),
            "{acts:?}"
        );
        let settled = logs.iter().all(|log| !log.unsettled());
        assert!(
            !settled || applied == planned,
            "{acts:?}: {applied}, {planned}"
        );
    }
    // Nothing of this sequence waits in the record when the next one begins.
    for mut log in logs {
        log.settle(frames, machine);
    }
    let applied = expected.applied;
    let states = frames.states(TABLE).unwrap();
    assert_eq!(states, (applied, applied), "{acts:?}");
    done
}

fn all(frames: &Frames, machine: &ModelMachine, acts: &mut Vec<(usize, Act)>, depth: usize) -> u64 {
    let mut sequences = 0;
    for who in 0..2 {
        for act in ACTS {
            acts.push((who, act));
            if run(frames, machine, acts) {
                sequences += 1;
                if acts.len() < depth {
                    sequences += all(frames, machine, acts, depth);
                }
            }
            acts.pop();
        }
    }
    sequences
}

fn with_frames(f: impl FnOnce(&Frames, &ModelMachine)) {
    let mut world = World::fast(&small(Domain::DomU, 16 * MIB)).populated();
    let first = world.consecutive(40);
    let machine: &ModelMachine = world.tables.machine();
    let frames = Frames::new();
    frames
        .init(machine, 16 * MIB, 16 * MIB, &mut (first..first + 40))
        .unwrap();
    f(&frames, machine);
}

/// All sequences of two logs to a depth: planned, carried out, refused and settled in any order.
#[test]
fn a_log_settles_its_own_steps_in_every_order() {
    with_frames(|frames, machine| {
        let sequences = all(frames, machine, &mut vec![], 6);
        assert!(sequences > 132_000, "{sequences}");
    });
}

/// What a frame is one log decides while no other speaks of it.
#[test]
fn a_frame_that_another_log_speaks_of_does_not_change_its_kind() {
    with_frames(|frames, machine| {
        let (mine, others) = (&mut Log::new(), &mut Log::new());
        let unlinked = State::table(1, 0, false);
        let owned = State::of(Kind::Owned);
        for (state, theirs, step) in [
            // It was linked and is unlinked again: the counts alone would let it go.
            (
                LINKED,
                &[Step::Link(1), Step::Unlink, Step::Unlink][..],
                Step::Unseal,
            ),
            (unlinked, &[Step::Pin(1)], Step::Unseal),
            (unlinked, &[Step::Pin(1)], Step::Unpin),
            (owned, &[Step::Seal(1)], Step::Link(1)),
            (owned, &[Step::Freeze], Step::Thaw),
            (unlinked, &[Step::Unseal], Step::Seal(1)),
        ] {
            frames.set(TABLE, state).unwrap();
            for &step in theirs {
                others.plan(frames, &[(TABLE, step)]).unwrap();
            }
            let planned = mine.plan(frames, &[(TABLE, step)]);
            assert!(planned.is_err(), "{theirs:?}, then {step}");
            // The one that speaks of it alone may.
            let same = others.plan(frames, &[(TABLE, step)]);
            assert_ne!(
                same,
                Err(FrameError::Busy(TABLE)),
                "{theirs:?}, then {step}"
            );
            others.settle(frames, machine);
            assert_eq!(frames.states(TABLE).unwrap(), (state, state), "{theirs:?}");
            assert_eq!(
                mine.plan(frames, &[(TABLE, step)]).is_ok(),
                state.after(step).is_ok()
            );
            mine.settle(frames, machine);
        }
    });
}

/// A link that is planned by one is not another's to drop.
#[test]
fn a_link_that_is_only_planned_is_dropped_by_nobody_else() {
    with_frames(|frames, machine| {
        let (mine, others) = (&mut Log::new(), &mut Log::new());
        frames.set(TABLE, State::table(1, 0, false)).unwrap();
        let link = others.plan(frames, &[(TABLE, Step::Link(1))]).unwrap();
        let drop = [(TABLE, Step::Unlink)];
        assert_eq!(mine.plan(frames, &drop), Err(FrameError::Busy(TABLE)));
        others.applied(frames, link);
        mine.plan(frames, &drop).unwrap();
        others.settle(frames, machine);
        mine.settle(frames, machine);
        assert_eq!(frames.states(TABLE).unwrap(), (LINKED, LINKED));
    });
}

/// There is room for exactly what can still be planned, and what can still wait.
#[test]
fn a_log_has_the_room_that_it_says() {
    with_frames(|frames, _| {
        let fill = |log: &mut Log, step: bool| {
            if step {
                log.plan(frames, &[(TABLE, Step::Link(1))]).map(|_| ())
            } else {
                // SAFETY: the log is dropped before it frees anything.
                log.free_after_flush(unsafe { Frame::from_pfn(TABLE) })
            }
        };
        frames.set(TABLE, LINKED).unwrap();
        for (step, n) in [(true, [1, 0]), (false, [0, 1])] {
            let mut log = Log::new();
            let mut most = 0;
            while fill(&mut log, step).is_ok() {
                most += 1;
            }
            frames.set(TABLE, LINKED).unwrap();
            let mut log = Log::new();
            for filled in 0..=most {
                let has_room = |count: usize| log.has_room(n[0] * count, n[1] * count);
                let left = most - filled;
                assert!(has_room(left), "{filled} of {most}");
                assert!(!has_room(left + 1), "{filled} of {most}");
                assert_eq!(fill(&mut log, step).is_ok(), left > 0);
            }
            assert!(log.has_room(n[1], n[0]), "for the other, all is left");
        }
    });
}

/// Frames count as frozen from the plan on until they are thawed, and nothing else does.
#[test]
fn frames_are_frozen_from_the_plan_until_they_are_thawed() {
    with_frames(|frames, machine| {
        let log = &mut Log::new();
        let code = Pfn::truncate(701);
        frames.set(code, State::of(Kind::Owned)).unwrap();
        frames.set(TABLE, LINKED).unwrap();
        let link = log.plan(frames, &[(TABLE, Step::Link(1))]).unwrap();
        assert!(!frames.has_frozen(), "a link");
        log.applied(frames, link);
        log.settle(frames, machine);
        assert!(!frames.has_frozen());
        for (step, before) in [(Step::Freeze, false), (Step::Thaw, true)] {
            for comes_true in [false, true] {
                let tag = log.plan(frames, &[(code, step)]).unwrap();
                assert!(frames.has_frozen(), "{step:?}: planned, or frozen still");
                if comes_true {
                    log.applied(frames, tag);
                }
                log.settle(frames, machine);
                assert_eq!(frames.has_frozen(), before != comes_true, "{step:?}");
            }
        }
    });
}
