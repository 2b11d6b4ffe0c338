//! Two vCPUs' logs over one record of frames: each applies its own transitions, whatever the other
//! does.

use crate::common::{MIB, ModelMachine, World, small};
use hypercall::Pfn;
use model::Kind as Domain;
use pagetable::frames::{Frame, FrameError, Frames, Log};
use pagetable::state::{Kind, State, Transition};

/// A table with one link, of which both logs speak.
const TABLE: Pfn = Pfn::truncate(700);
const LINKED: State = State::table(1, 1, false);

#[derive(Clone, Copy, Debug)]
enum Act {
    Plan(Transition),
    /// The oldest request of the log comes true, or is refused.
    Answer(bool),
    Apply,
}

const ACTS: [Act; 6] = [
    Act::Plan(Transition::Link(1)),
    Act::Plan(Transition::Unlink),
    Act::Plan(Transition::Pin(1)),
    Act::Answer(true),
    Act::Answer(false),
    Act::Apply,
];

/// What is to be expected: by hand, without a record.
struct Expected {
    applied: State,
    /// For each log its requests that have no answer yet, and those that were refused.
    asked: [Vec<(u32, Transition)>; 2],
    refused: [Vec<Transition>; 2],
}

impl Expected {
    /// The links if everything in waiting comes true that can.
    fn planned_links(&self) -> i64 {
        let waiting = self
            .asked
            .iter()
            .flatten()
            .map(|(_, transition)| transition);
        let refused = self.refused.iter().flatten();
        let change = waiting.chain(refused).map(|transition| match transition {
            Transition::Link(_) => 1,
            Transition::Unlink => -1,
            _ => 0,
        });
        i64::from(self.applied.links) + change.sum::<i64>()
    }

    /// Whether a log may plan a transition that is legal as such: what is not counted only if the
    /// other has nothing in waiting, and a link is dropped only if it is there whatever comes true
    /// of the other's.
    fn may_plan(&self, who: usize, transition: Transition) -> bool {
        let of = |log: usize| {
            let asked = self.asked[log].iter().map(|&(_, transition)| transition);
            asked.chain(self.refused[log].iter().copied())
        };
        let links = |log| of(log).filter(|s| matches!(s, Transition::Link(_))).count() as i64;
        let unlinks = |log| of(log).filter(|s| *s == Transition::Unlink).count() as i64;
        let other = 1 - who;
        match transition {
            _ if of(other).next().is_none() => true,
            Transition::Link(_) => true,
            Transition::Unlink => {
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
            Act::Plan(transition) => {
                let legal = frames.states(TABLE).unwrap().1.after(transition).is_ok();
                let may = expected.may_plan(who, transition);
                match logs[who].plan(frames, &[(TABLE, transition)]) {
                    Ok(tag) => {
                        assert!(may, "{acts:?}");
                        expected.asked[who].push((tag, transition));
                    }
                    Err(FrameError::Illegal(..)) if !legal => done = false,
                    Err(FrameError::Busy(_)) if !may => done = false,
                    Err(e) => panic!("{acts:?}: {e}"),
                }
            }
            Act::Answer(true) => match expected.asked[who].first().copied() {
                // What Xen would not do, as its count says; and a link that was refused is not
                // there to be dropped: who plans a transition sees to it that it is of what stands,
                // see `links.rs`.
                Some((_, transition)) if expected.applied.after(transition).is_err() => {
                    done = false
                }
                Some((_, Transition::Unlink))
                    if expected.refused[who].contains(&Transition::Link(1)) =>
                {
                    done = false;
                }
                Some((tag, transition)) => {
                    expected.asked[who].remove(0);
                    logs[who].applied(frames, tag);
                    expected.applied = expected.applied.after(transition).unwrap();
                }
                None => done = false,
            },
            Act::Answer(false) if expected.asked[who].is_empty() => done = false,
            Act::Answer(false) => {
                let (_, transition) = expected.asked[who].remove(0);
                expected.refused[who].push(transition);
            }
            Act::Apply if expected.asked[who].is_empty() => {
                logs[who].apply(frames, machine);
                expected.refused[who].clear();
            }
            Act::Apply => done = false,
        }
        let (applied, planned) = frames.states(TABLE).unwrap();
        assert_eq!(applied, expected.applied, "{acts:?}");
        assert_eq!(
            i64::from(planned.links),
            expected.planned_links(),
            "{acts:?}"
        );
        let idle = logs.iter().all(|log| !log.is_waiting());
        assert!(
            !idle || applied == planned,
            "{acts:?}: {applied}, {planned}"
        );
    }
    // Nothing of this sequence waits in the record when the next one begins.
    for mut log in logs {
        log.apply(frames, machine);
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

/// All sequences of two logs to a depth: planned, carried out, refused and applied in any order.
#[test]
fn a_log_applies_its_own_transitions_in_every_order() {
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
        for (state, theirs, transition) in [
            // It was linked and is unlinked again: the counts alone would let it go.
            (
                LINKED,
                &[Transition::Link(1), Transition::Unlink, Transition::Unlink][..],
                Transition::Unseal,
            ),
            (unlinked, &[Transition::Pin(1)], Transition::Unseal),
            (unlinked, &[Transition::Pin(1)], Transition::Unpin),
            (owned, &[Transition::Seal(1)], Transition::Link(1)),
            (owned, &[Transition::Freeze], Transition::Thaw),
            (unlinked, &[Transition::Unseal], Transition::Seal(1)),
        ] {
            frames.set(TABLE, state).unwrap();
            for &transition in theirs {
                others.plan(frames, &[(TABLE, transition)]).unwrap();
            }
            let planned = mine.plan(frames, &[(TABLE, transition)]);
            assert!(planned.is_err(), "{theirs:?}, then {transition}");
            // The one that speaks of it alone may.
            let same = others.plan(frames, &[(TABLE, transition)]);
            assert_ne!(
                same,
                Err(FrameError::Busy(TABLE)),
                "{theirs:?}, then {transition}"
            );
            others.apply(frames, machine);
            assert_eq!(frames.states(TABLE).unwrap(), (state, state), "{theirs:?}");
            assert_eq!(
                mine.plan(frames, &[(TABLE, transition)]).is_ok(),
                state.after(transition).is_ok()
            );
            mine.apply(frames, machine);
        }
    });
}

/// A link that is planned by one is not another's to drop.
#[test]
fn a_link_that_is_only_planned_is_dropped_by_nobody_else() {
    with_frames(|frames, machine| {
        let (mine, others) = (&mut Log::new(), &mut Log::new());
        frames.set(TABLE, State::table(1, 0, false)).unwrap();
        let link = others
            .plan(frames, &[(TABLE, Transition::Link(1))])
            .unwrap();
        let drop = [(TABLE, Transition::Unlink)];
        assert_eq!(mine.plan(frames, &drop), Err(FrameError::Busy(TABLE)));
        others.applied(frames, link);
        mine.plan(frames, &drop).unwrap();
        others.apply(frames, machine);
        mine.apply(frames, machine);
        assert_eq!(frames.states(TABLE).unwrap(), (LINKED, LINKED));
    });
}

/// There is room for exactly what can still be planned, and what can still wait.
#[test]
fn a_log_has_the_room_that_it_says() {
    with_frames(|frames, _| {
        let fill = |log: &mut Log, transition: bool| {
            if transition {
                log.plan(frames, &[(TABLE, Transition::Link(1))])
                    .map(|_| ())
            } else {
                // SAFETY: the log is dropped before it frees anything.
                log.free_after_flush(unsafe { Frame::from_pfn(TABLE) })
            }
        };
        frames.set(TABLE, LINKED).unwrap();
        for (transition, n) in [(true, [1, 0]), (false, [0, 1])] {
            let mut log = Log::new();
            let mut most = 0;
            while fill(&mut log, transition).is_ok() {
                most += 1;
            }
            frames.set(TABLE, LINKED).unwrap();
            let mut log = Log::new();
            for filled in 0..=most {
                let has_room = |count: usize| log.has_room(n[0] * count, n[1] * count);
                let left = most - filled;
                assert!(has_room(left), "{filled} of {most}");
                assert!(!has_room(left + 1), "{filled} of {most}");
                assert_eq!(fill(&mut log, transition).is_ok(), left > 0);
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
        let link = log.plan(frames, &[(TABLE, Transition::Link(1))]).unwrap();
        assert!(!frames.has_frozen(), "a link");
        log.applied(frames, link);
        log.apply(frames, machine);
        assert!(!frames.has_frozen());
        for (transition, before) in [(Transition::Freeze, false), (Transition::Thaw, true)] {
            for comes_true in [false, true] {
                let tag = log.plan(frames, &[(code, transition)]).unwrap();
                assert!(
                    frames.has_frozen(),
                    "{transition:?}: planned, or frozen still"
                );
                if comes_true {
                    log.applied(frames, tag);
                }
                log.apply(frames, machine);
                assert_eq!(frames.has_frozen(), before != comes_true, "{transition:?}");
            }
        }
    });
}
