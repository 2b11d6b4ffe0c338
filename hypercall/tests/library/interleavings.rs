//! Lazy mode under preemption: every interleaving of two contexts and of interrupt handlers, to
//! [`DEPTH`] events, none of them left out.
//!
//! A kernel's call is made of parts, between which an interrupt may come or another context run. Where
//! counting a section and entering it are two of them, a context can be preempted in between: the
//! switch back finds the section counted and enters it, and the context then enters it once more. So
//! Linux broke under Xen in February 2026 (7.0-rc1). Here a call is one part, as it borrows the [`Mmu`]
//! once, upcalls masked. What is explored is generic over who keeps the mode, so that ways which are
//! known to be wrong are shown to be found: Linux's among them.
//!
//! The specification counts what each context has done, and says:
//!
//! 1. a write waits if its context is in a section and in no pause, and never in a handler;
//! 2. where writes do not wait nothing does, once a call is over;
//! 3. nothing is entered twice or left twice.
//!
//! `lazy_model` goes deeper, with the queue itself, but takes each call as a whole.
//!
//! [`Mmu`]: hypercall::Mmu

use std::cell::{Cell, RefCell};
use std::panic::Location;

use hypercall::lazy::{Action, LazyMmu, SwitchOut};
use hypercall::{Access, Hypervisor, LazyGuard, Mmu, MmuError, Op, PauseGuard};

/// Events of the longest interleavings.
const DEPTH: usize = 10;
/// Events of those in which a fault is looked for.
const SHORT: usize = 8;
const CONTEXTS: usize = 2;
/// Interrupts nest up to here.
const INTERRUPTS: u8 = 2;

/// What a context does to its lazy mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    Enter,
    Leave,
    Pause,
    Resume,
}

const CALLS: [Call; 4] = [Call::Enter, Call::Leave, Call::Pause, Call::Resume];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    /// The first part of a call.
    Begin(Call),
    /// The next one.
    Continue,
    Write,
    Interrupt,
    /// A handler uses a function that has a section of its own.
    HandlerSection,
    Return,
    /// Another context gets the vCPU.
    Preempt(SwitchOut),
}

/// What stops a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    /// Lazy mode was entered where it was on.
    EnteredTwice,
    /// It was left where it was off.
    LeftTwice,
    /// A write waited that may not, or did not that may.
    Waits(bool),
    /// Something waits where nothing may.
    Queued,
}

/// Who keeps the lazy mode of contexts.
trait Keeper: Copy {
    const NEW: Self;
    /// Parts of a call, at each of which it is made one with what happens around it.
    const PARTS: u8;

    fn part(&mut self, context: usize, call: Call, part: u8) -> Result<Action, Wrong>;
    fn interrupt(&mut self, context: usize);
    fn end_interrupt(&mut self, context: usize);
    fn switch(&mut self, from: usize, to: usize, queue: SwitchOut) -> Result<Action, Wrong>;
    /// Whether a write of whoever runs now would wait.
    fn waits(&self, context: usize) -> bool;
}

/// The library: a state a context, each call one part.
#[derive(Clone, Copy)]
struct Library([LazyMmu; CONTEXTS]);

impl Keeper for Library {
    const NEW: Self = Library([LazyMmu::new(); CONTEXTS]);
    const PARTS: u8 = 1;

    fn part(&mut self, context: usize, call: Call, _: u8) -> Result<Action, Wrong> {
        let lazy = &mut self.0[context];
        let none = |()| Action::None;
        match call {
            Call::Enter => lazy.enable().map(none),
            Call::Leave => lazy.disable(),
            Call::Pause => lazy.pause(),
            Call::Resume => lazy.resume().map(none),
        }
        .map_err(|_| Wrong::LeftTwice)
    }

    fn interrupt(&mut self, context: usize) {
        self.0[context].enter_irq().expect("they nest this deep");
    }

    fn end_interrupt(&mut self, context: usize) {
        self.0[context].leave_irq().expect("one was entered");
    }

    fn switch(&mut self, from: usize, to: usize, queue: SwitchOut) -> Result<Action, Wrong> {
        let out = self.0[from]
            .switch_out(queue)
            .map_err(|_| Wrong::LeftTwice)?;
        Ok(match (out, self.0[to].switch_in()) {
            (Action::None, Action::None) => Action::None,
            _ => Action::Flush,
        })
    }

    fn waits(&self, context: usize) -> bool {
        self.0[context].is_lazy()
    }
}

/// How Linux kept it in 7.0-rc1: sections and pauses are counted by context, the mode itself is the
/// processor's. In two parts, the first counts and the second has the mode follow; in one, nothing
/// comes between them.
#[derive(Clone, Copy)]
struct Linux<const PARTS: u8> {
    sections: [u8; CONTEXTS],
    pauses: [u8; CONTEXTS],
    on: bool,
    interrupts: u8,
}

impl<const PARTS: u8> Linux<PARTS> {
    fn is_lazy(&self, context: usize) -> bool {
        self.sections[context] > 0 && self.pauses[context] == 0
    }

    fn enter(&mut self) -> Result<(), Wrong> {
        match std::mem::replace(&mut self.on, true) {
            true => Err(Wrong::EnteredTwice),
            false => Ok(()),
        }
    }

    fn leave(&mut self) -> Result<(), Wrong> {
        match std::mem::replace(&mut self.on, false) {
            true => Ok(()),
            false => Err(Wrong::LeftTwice),
        }
    }
}

impl<const PARTS: u8> Keeper for Linux<PARTS> {
    const NEW: Self = Linux {
        sections: [0; CONTEXTS],
        pauses: [0; CONTEXTS],
        on: false,
        interrupts: 0,
    };
    const PARTS: u8 = PARTS;

    fn part(&mut self, context: usize, call: Call, part: u8) -> Result<Action, Wrong> {
        let (sections, pauses) = (&mut self.sections[context], &mut self.pauses[context]);
        if self.interrupts > 0 {
            return Ok(Action::None);
        }
        if part == 0 {
            match call {
                Call::Enter => *sections += 1,
                Call::Leave => *sections -= 1,
                Call::Pause => *pauses += 1,
                Call::Resume => *pauses -= 1,
            }
        }
        if part + 1 < PARTS {
            return Ok(Action::None);
        }
        match (call, *sections, *pauses) {
            (Call::Enter, 1, 0) | (Call::Resume, 1.., 0) => self.enter().map(|()| Action::None),
            (Call::Leave, 0, 0) | (Call::Pause, 1.., 1) => self.leave().map(|()| Action::Flush),
            _ => Ok(Action::None),
        }
    }

    fn interrupt(&mut self, _: usize) {
        self.interrupts += 1;
    }

    fn end_interrupt(&mut self, _: usize) {
        self.interrupts -= 1;
    }

    fn switch(&mut self, _: usize, to: usize, _: SwitchOut) -> Result<Action, Wrong> {
        if self.on {
            self.leave()?;
        }
        if self.is_lazy(to) {
            self.enter()?;
        }
        // What was queued does not stay.
        Ok(Action::Flush)
    }

    fn waits(&self, _: usize) -> bool {
        self.on && self.interrupts == 0
    }
}

/// The library with a fault, each of its calls one part still.
#[derive(Clone, Copy)]
struct Faulty<const FAULT: u8>(Library);

/// The state is the vCPU's, as Linux's was from 2023 to 2025.
const OF_THE_VCPU: u8 = 0;
/// Handlers are as lazy as what they interrupt.
const LAZY_HANDLERS: u8 = 1;
/// Nobody asks whether the context that comes in is lazy.
const NOT_ASKED: u8 = 2;
/// Whoever comes in finds the mode off, and no section.
const FORGOTTEN: u8 = 3;

impl<const FAULT: u8> Faulty<FAULT> {
    fn of(context: usize) -> usize {
        if FAULT == OF_THE_VCPU { 0 } else { context }
    }
}

impl<const FAULT: u8> Keeper for Faulty<FAULT> {
    const NEW: Self = Faulty(Library::NEW);
    const PARTS: u8 = 1;

    fn part(&mut self, context: usize, call: Call, part: u8) -> Result<Action, Wrong> {
        self.0.part(Self::of(context), call, part)
    }

    fn interrupt(&mut self, context: usize) {
        if FAULT != LAZY_HANDLERS {
            self.0.interrupt(Self::of(context));
        }
    }

    fn end_interrupt(&mut self, context: usize) {
        if FAULT != LAZY_HANDLERS {
            self.0.end_interrupt(Self::of(context));
        }
    }

    fn switch(&mut self, from: usize, to: usize, queue: SwitchOut) -> Result<Action, Wrong> {
        let action = self.0.switch(Self::of(from), Self::of(to), queue)?;
        if FAULT == FORGOTTEN {
            self.0.0[to] = LazyMmu::new();
        }
        Ok(match (FAULT, queue) {
            (NOT_ASKED, SwitchOut::Carry) => Action::None,
            _ => action,
        })
    }

    fn waits(&self, context: usize) -> bool {
        self.0.waits(Self::of(context))
    }
}

/// What one context has done, by the specification.
#[derive(Clone, Copy, Default)]
struct Context {
    sections: u8,
    pauses: u8,
    /// The call that it is in, and how many of its parts are done.
    inside: Option<(Call, u8)>,
}

/// A vCPU and its contexts.
#[derive(Clone, Copy)]
struct World<K> {
    keeper: K,
    contexts: [Context; CONTEXTS],
    running: usize,
    interrupts: u8,
    queued: bool,
}

impl<K: Keeper> World<K> {
    fn new() -> Self {
        World {
            keeper: K::NEW,
            contexts: Default::default(),
            running: 0,
            interrupts: 0,
            queued: false,
        }
    }

    fn may_wait(&self) -> bool {
        let context = &self.contexts[self.running];
        context.sections > 0 && context.pauses == 0 && self.interrupts == 0
    }

    /// Calls `each` with whatever can happen now.
    fn possible(&self, mut each: impl FnMut(Event)) {
        let context = &self.contexts[self.running];
        if self.interrupts < INTERRUPTS {
            each(Event::Interrupt);
        }
        if self.interrupts > 0 {
            for event in [Event::Write, Event::HandlerSection, Event::Return] {
                each(event);
            }
            return;
        }
        for queue in [SwitchOut::Flush, SwitchOut::Carry] {
            each(Event::Preempt(queue));
        }
        if context.inside.is_some() {
            return each(Event::Continue);
        }
        each(Event::Write);
        for call in CALLS {
            let fits = match call {
                Call::Enter | Call::Pause => true,
                Call::Leave => context.sections > 0,
                Call::Resume => context.pauses > 0,
            };
            if fits {
                each(Event::Begin(call));
            }
        }
    }

    fn act(&mut self, action: Action) {
        self.queued &= action == Action::None;
    }

    fn happens(&mut self, event: Event) -> Result<(), Wrong> {
        let running = self.running;
        match event {
            Event::Begin(call) => self.part(call, 0)?,
            Event::Continue => {
                if let Some((call, done)) = self.contexts[running].inside {
                    self.part(call, done)?;
                }
            }
            Event::Write => self.write()?,
            Event::Interrupt => {
                self.keeper.interrupt(running);
                self.interrupts += 1;
            }
            Event::HandlerSection => {
                for call in [Call::Enter, Call::Leave] {
                    for part in 0..K::PARTS {
                        let action = self.keeper.part(running, call, part)?;
                        self.act(action);
                    }
                    if call == Call::Enter {
                        self.write()?;
                    }
                }
            }
            Event::Return => {
                self.keeper.end_interrupt(running);
                self.interrupts -= 1;
            }
            Event::Preempt(queue) => {
                let to = (running + 1) % CONTEXTS;
                let action = self.keeper.switch(running, to, queue)?;
                self.act(action);
                self.running = to;
            }
        }
        self.check()
    }

    /// A part of a call; the last one makes it count.
    fn part(&mut self, call: Call, part: u8) -> Result<(), Wrong> {
        let action = self.keeper.part(self.running, call, part)?;
        self.act(action);
        let context = &mut self.contexts[self.running];
        context.inside = (part + 1 < K::PARTS).then_some((call, part + 1));
        if context.inside.is_none() {
            match call {
                Call::Enter => context.sections += 1,
                Call::Leave => context.sections -= 1,
                Call::Pause => context.pauses += 1,
                Call::Resume => context.pauses -= 1,
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Wrong> {
        let waits = self.keeper.waits(self.running);
        // Whoever interrupts a call interrupts no section.
        if waits != self.may_wait() {
            return Err(Wrong::Waits(waits));
        }
        // What does not wait goes after what does.
        self.queued = waits;
        Ok(())
    }

    fn check(&self) -> Result<(), Wrong> {
        if self.contexts[self.running].inside.is_some() || self.interrupts > 0 {
            return Ok(());
        }
        let waits = self.keeper.waits(self.running);
        if waits != self.may_wait() {
            return Err(Wrong::Waits(waits));
        }
        match self.queued && !waits {
            true => Err(Wrong::Queued),
            false => Ok(()),
        }
    }
}

/// Plays every interleaving of so many events, and says how many there are; or the first in which
/// something is wrong.
fn explore<K: Keeper>(
    world: World<K>,
    left: usize,
    path: &mut Vec<Event>,
) -> Result<u64, (Vec<Event>, Wrong)> {
    if left == 0 {
        return Ok(1);
    }
    let mut events = [None; 9];
    let mut count = 0;
    world.possible(|event| {
        events[count] = Some(event);
        count += 1;
    });
    let mut played = 0;
    for event in events.into_iter().flatten() {
        let mut next = world;
        path.push(event);
        next.happens(event).map_err(|wrong| (path.clone(), wrong))?;
        played += explore(next, left - 1, path)?;
        path.pop();
    }
    Ok(played)
}

/// The shortest interleaving in which something is wrong.
fn shortest<K: Keeper>() -> Option<(Vec<Event>, Wrong)> {
    let mut lengths = 1..=SHORT;
    lengths.find_map(|length| explore(World::<K>::new(), length, &mut Vec::new()).err())
}

#[test]
fn no_interleaving_goes_wrong() {
    let played = explore(World::<Library>::new(), DEPTH, &mut Vec::new());
    let played = played.unwrap_or_else(|(path, wrong)| panic!("{wrong:?} after {path:?}"));
    println!("{played} interleavings of {DEPTH} events");
    assert!(played > 1_000_000, "it has to be all of them: {played}");
}

/// The race of February 2026: a section is counted, its context preempted before it is entered, the
/// switch back enters it, and then so does the context.
#[test]
fn the_race_that_broke_linux_is_found() {
    let (path, wrong) = shortest::<Linux<2>>().expect("it is there");
    println!("{wrong:?} after {path:?}");
    assert_eq!(wrong, Wrong::EnteredTwice);
    let preempt = |event: &Event| matches!(event, Event::Preempt(_));
    assert_eq!(path[0], Event::Begin(Call::Enter));
    assert!(preempt(&path[1]) && preempt(&path[2]), "{path:?}");
    assert_eq!(path[3..], [Event::Continue]);
    // It is the moment in between that does it.
    let whole = shortest::<Linux<1>>();
    assert!(whole.is_none(), "{whole:?}");
}

#[test]
fn other_faults_are_found() {
    for (found, expected) in [
        (shortest::<Faulty<OF_THE_VCPU>>(), Wrong::Waits(true)),
        (shortest::<Faulty<LAZY_HANDLERS>>(), Wrong::Waits(true)),
        (shortest::<Faulty<NOT_ASKED>>(), Wrong::Queued),
        (shortest::<Faulty<FORGOTTEN>>(), Wrong::Waits(false)),
    ] {
        let (path, wrong) = found.expect("it is there");
        println!("{wrong:?} after {path:?}");
        assert_eq!(wrong, expected, "{path:?}");
    }
}

/// Agrees to everything, and has upcalls masked or not.
#[derive(Default)]
struct Agreeable {
    masked: Cell<bool>,
}

impl Hypervisor for &Agreeable {
    unsafe fn call(&self, _: Op, _: [u64; 5]) -> i64 {
        0
    }

    fn mask_upcalls(&self) -> bool {
        self.masked.replace(true)
    }

    fn restore_upcalls(&self, was: bool) {
        self.masked.set(was);
    }
}

/// A vCPU that counts how often it is borrowed, each time with upcalls masked.
struct Cpu<'a> {
    hv: &'a Agreeable,
    mmu: RefCell<Mmu<&'a Agreeable>>,
    borrows: Cell<u32>,
}

impl<'a> Access for Cpu<'a> {
    type Hv = &'a Agreeable;
    type Completion = ();

    fn with<R>(&self, f: impl FnOnce(&mut Mmu<&'a Agreeable>) -> R) -> R {
        self.borrows.set(self.borrows.get() + 1);
        let was = self.hv.mask_upcalls();
        let result = f(&mut self.mmu.borrow_mut());
        self.hv.restore_upcalls(was);
        result
    }

    fn failed(&self, error: MmuError, at: &'static Location<'static>) {
        panic!("{error}, begun at {at}");
    }
}

/// What makes a call one part: whatever changes the mode borrows the vCPU's `Mmu` once, and there is no
/// moment between counting and entering in which upcalls are not masked.
#[test]
fn a_guard_borrows_once() {
    let hv = Agreeable::default();
    let cpu = Cpu {
        hv: &hv,
        mmu: RefCell::new(Mmu::new(&hv, ())),
        borrows: Cell::new(0),
    };
    let borrows = |what: &dyn Fn()| {
        let before = cpu.borrows.get();
        what();
        assert!(!hv.masked.get());
        cpu.borrows.get() - before
    };
    let guards = RefCell::new((Vec::new(), Vec::new()));
    let enter = || guards.borrow_mut().0.push(LazyGuard::begin(&cpu).unwrap());
    let pause = || guards.borrow_mut().1.push(PauseGuard::begin(&cpu).unwrap());
    let leave = || guards.borrow_mut().0.pop().map(LazyGuard::end);
    let resume = || guards.borrow_mut().1.pop().map(PauseGuard::end);
    for _ in 0..2 {
        assert_eq!(borrows(&enter), 1);
        assert_eq!(borrows(&pause), 1);
    }
    for _ in 0..2 {
        assert_eq!(borrows(&|| resume().unwrap().unwrap()), 1);
        assert_eq!(borrows(&|| leave().unwrap().unwrap()), 1);
    }
    assert_eq!(borrows(&|| drop(LazyGuard::begin(&cpu).unwrap())), 2);
    assert_eq!(borrows(&|| drop(PauseGuard::begin(&cpu).unwrap())), 2);
    assert!(!cpu.mmu.borrow().lazy().is_lazy());
}
