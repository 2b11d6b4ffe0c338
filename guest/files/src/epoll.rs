//! Sets of files that are watched: `epoll`.
//!
//! Each watched file has a waker of its own, which notes the file as one to look at. Waiting looks
//! only at those, so it costs by what happens and not by what is watched. What is still ready after
//! it was told is looked at again, unless the program asked to be told of changes only (`EPOLLET`).

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::task::Wake;
use alloc::vec::Vec;
use core::any::Any;
use core::task::{Poll, Waker};

use linux_raw_sys::general as linux;

use crate::errno::{Errno, Result};
use crate::file::{File, OpenFile};
use crate::lock::Mutex;
use crate::ready::{Ready, Watchers, look_twice};

/// How deep sets may watch sets (`EP_MAX_NESTS` in Linux' `fs/eventpoll.c`).
const MOST_NESTED: usize = 4;

/// Files that one set may watch.
const MOST: usize = 1 << 16;

/// How a file is watched, besides for what.
const WAYS: u32 = linux::EPOLLET | linux::EPOLLONESHOT | linux::EPOLLWAKEUP | linux::EPOLLEXCLUSIVE;

/// A set of watched files.
pub(crate) struct Epoll {
    state: Mutex<State>,
    watchers: Watchers,
    me: Weak<Epoll>,
    /// The sets that watch this one.
    outer: Mutex<Vec<Weak<Epoll>>>,
}

#[derive(Default)]
struct State {
    interests: BTreeMap<Key, Arc<Interest>>,
    /// Those to look at.
    noted: VecDeque<Arc<Interest>>,
}

/// A descriptor and its file: both, since the number may come to stand for another.
type Key = (i32, usize);

fn key(descriptor: i32, file: &Arc<OpenFile>) -> Key {
    (descriptor, Arc::as_ptr(file).addr())
}

/// A file that is watched.
struct Interest {
    epoll: Weak<Epoll>,
    file: Weak<OpenFile>,
    wish: Mutex<Wish>,
}

#[derive(Clone, Copy)]
struct Wish {
    events: u32,
    data: u64,
    is_noted: bool,
    is_removed: bool,
}

impl Wish {
    /// What of `ready` the program wants to know; nothing once a one-shot is spent.
    fn of(&self, ready: Ready) -> Ready {
        if self.is_removed || self.events & !WAYS == 0 {
            return Ready::empty();
        }
        ready & Ready::from_bits_retain(self.events & !WAYS)
    }
}

impl Wake for Interest {
    fn wake(self: Arc<Self>) {
        let Some(epoll) = self.epoll.upgrade() else {
            return;
        };
        epoll.note(self);
        epoll.watchers.wake();
    }
}

impl Interest {
    /// What it is ready for, and with a waker from now on noted when that changes.
    fn look(self: &Arc<Self>) -> Ready {
        match self.file.upgrade() {
            Some(file) => file.ready(Some(&Waker::from(self.clone()))),
            None => Ready::empty(),
        }
    }
}

/// What happened with a watched file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The bits of `epoll_event`.
    pub events: u32,
    /// What the program gave with the file.
    pub data: u64,
}

impl Epoll {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            state: Mutex::default(),
            watchers: Watchers::new(),
            me: me.clone(),
            outer: Mutex::default(),
        })
    }

    /// The set that a file is.
    pub(crate) fn of(file: &OpenFile) -> Option<&Self> {
        (file.file() as &dyn Any).downcast_ref()
    }

    /// Has a file looked at by the next who waits.
    fn note(&self, interest: Arc<Interest>) {
        let mut state = self.state.lock();
        let mut wish = interest.wish.lock();
        if !wish.is_noted && !wish.is_removed {
            wish.is_noted = true;
            drop(wish);
            // There is room: it was made when the file was added.
            state.noted.push_back(interest);
        }
    }

    /// How many sets lie in one another in this one, it included; `None` if `outer` is among them.
    fn depth(&self, outer: &Self) -> Option<usize> {
        if core::ptr::eq(self, outer) {
            return None;
        }
        let interests: Vec<_> = self.state.lock().interests.values().cloned().collect();
        let mut deepest = 1;
        for interest in interests {
            if let Some(file) = interest.file.upgrade()
                && let Some(inner) = Self::of(&file)
            {
                deepest = deepest.max(1 + inner.depth(outer)?);
            }
        }
        Some(deepest)
    }

    /// How many sets lie around this one, it included.
    fn height(&self) -> usize {
        let outer: Vec<_> = self.outer.lock().iter().filter_map(Weak::upgrade).collect();
        1 + outer.iter().map(|outer| outer.height()).max().unwrap_or(0)
    }

    /// Whether this set may watch another; notes it there. The caller sees to it that nobody else
    /// does so at the same time, so sets are never deeper than this finds.
    fn nest(&self, inner: &Self) -> Result<()> {
        let depth = inner.depth(self).ok_or(Errno::ELOOP)?;
        if self.height() + depth > MOST_NESTED + 1 {
            return Err(Errno::ELOOP);
        }
        let mut outer = inner.outer.lock();
        outer.retain(|outer| outer.strong_count() > 0);
        outer.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        outer.push(self.me.clone());
        Ok(())
    }

    /// The set does not watch the other one any more.
    fn unnest(&self, inner: &Self) {
        let mut outer = inner.outer.lock();
        let here = outer.iter().position(|outer| Weak::ptr_eq(outer, &self.me));
        here.map(|here| outer.swap_remove(here));
    }

    /// Watches a file.
    pub(crate) fn add(
        &self,
        descriptor: i32,
        file: &Arc<OpenFile>,
        events: u32,
        data: u64,
        nesting: &Mutex<()>,
    ) -> Result<()> {
        let Some(inner) = Self::of(file) else {
            return self.insert(descriptor, file, events, data);
        };
        if events & linux::EPOLLEXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        let _nesting = nesting.lock();
        self.nest(inner)?;
        self.insert(descriptor, file, events, data)
            .inspect_err(|_| self.unnest(inner))
    }

    fn insert(&self, descriptor: i32, file: &Arc<OpenFile>, events: u32, data: u64) -> Result<()> {
        let interest = Arc::new(Interest {
            epoll: self.me.clone(),
            file: Arc::downgrade(file),
            wish: Mutex::new(Wish {
                events: events | Ready::ALWAYS.bits(),
                data,
                is_noted: false,
                is_removed: false,
            }),
        });
        let mut state = self.state.lock();
        state
            .interests
            .retain(|_, interest| interest.file.strong_count() > 0);
        let key = key(descriptor, file);
        if state.interests.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        if state.interests.len() >= MOST {
            return Err(Errno::ENOSPC);
        }
        // Removed ones may still be noted: there is room for them and for all that are watched.
        let room = state.interests.len() + 1;
        state.noted.try_reserve(room).map_err(|_| Errno::ENOMEM)?;
        state.interests.insert(key, interest.clone());
        drop(state);
        self.look_first(interest);
        Ok(())
    }

    /// Looks at a file that is watched anew or otherwise.
    fn look_first(&self, interest: Arc<Interest>) {
        let ready = interest.look();
        let found = interest.wish.lock().of(ready);
        if !found.is_empty() {
            interest.wake();
        }
    }

    fn interest(&self, descriptor: i32, file: &Arc<OpenFile>) -> Result<Arc<Interest>> {
        let state = self.state.lock();
        let found = state.interests.get(&key(descriptor, file));
        found.cloned().ok_or(Errno::ENOENT)
    }

    /// Watches a file for something else.
    pub(crate) fn change(
        &self,
        descriptor: i32,
        file: &Arc<OpenFile>,
        events: u32,
        data: u64,
    ) -> Result<()> {
        let interest = self.interest(descriptor, file)?;
        let mut wish = interest.wish.lock();
        if (wish.events | events) & linux::EPOLLEXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        wish.events = events | Ready::ALWAYS.bits();
        wish.data = data;
        drop(wish);
        self.look_first(interest);
        Ok(())
    }

    /// Watches a file no more.
    pub(crate) fn remove(&self, descriptor: i32, file: &Arc<OpenFile>) -> Result<()> {
        let interest = self.interest(descriptor, file)?;
        let mut state = self.state.lock();
        let removed = state.interests.remove(&key(descriptor, file));
        interest.wish.lock().is_removed = true;
        state.noted.retain(|noted| !Arc::ptr_eq(noted, &interest));
        drop(state);
        // Without the lock: a waker of this file may be dropped with it.
        drop(removed);
        if let Some(inner) = Self::of(file) {
            self.unnest(inner);
        }
        Ok(())
    }

    /// Tells of files that are ready, until `each` takes no more; returns how many.
    pub(crate) fn collect(&self, each: &mut dyn FnMut(Event) -> bool) -> usize {
        // Each is looked at once, also those that are noted again meanwhile.
        let noted = self.state.lock().noted.len();
        let mut told = 0;
        for _ in 0..noted {
            let Some(interest) = self.state.lock().noted.pop_front() else {
                break;
            };
            interest.wish.lock().is_noted = false;
            let ready = interest.look();
            let wish = *interest.wish.lock();
            let found = wish.of(ready);
            if found.is_empty() {
                continue;
            }
            if !each(Event {
                events: found.bits(),
                data: wish.data,
            }) {
                self.note(interest);
                break;
            }
            told += 1;
            if wish.events & linux::EPOLLONESHOT != 0 {
                interest.wish.lock().events &= WAYS;
            } else if wish.events & linux::EPOLLET == 0 {
                self.note(interest);
            }
        }
        told
    }

    /// Has a waker woken when something is noted.
    pub(crate) fn register(&self, waker: &Waker) {
        self.watchers.register(waker);
    }
}

impl File for Epoll {
    fn ready(&self, waker: Option<&Waker>) -> Ready {
        if let Some(waker) = waker {
            self.watchers.register(waker);
        }
        let noted: Vec<_> = self.state.lock().noted.iter().cloned().collect();
        let any = noted.into_iter().any(|interest| {
            let ready = interest.look();
            let found = interest.wish.lock().of(ready);
            !found.is_empty()
        });
        match any {
            true => Ready::READ,
            false => Ready::empty(),
        }
    }
}

impl crate::calls::Calls<'_> {
    /// Makes a set of watched files, and returns its descriptor.
    ///
    /// # Errors
    /// `EINVAL` for flags that there are not, `EMFILE`.
    pub fn epoll_create1(&self, flags: u32) -> Result<i32> {
        if flags & !linux::EPOLL_CLOEXEC != 0 {
            return Err(Errno::EINVAL);
        }
        self.add_anonymous(Epoll::new(), "eventpoll", linux::O_RDWR, flags != 0)
    }

    /// Changes what a set watches.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn epoll_ctl(
        &self,
        epoll: i32,
        operation: u32,
        descriptor: i32,
        events: u32,
        data: u64,
    ) -> Result<()> {
        let set = self.descriptors.get(epoll)?;
        let file = self.descriptors.get(descriptor)?;
        if !file.file().can_be_watched() {
            return Err(Errno::EPERM);
        }
        let (Some(watching), false) = (Epoll::of(&set), Arc::ptr_eq(&set, &file)) else {
            return Err(Errno::EINVAL);
        };
        match operation {
            linux::EPOLL_CTL_ADD => {
                watching.add(descriptor, &file, events, data, &self.system.nesting)
            }
            linux::EPOLL_CTL_MOD => watching.change(descriptor, &file, events, data),
            linux::EPOLL_CTL_DEL => watching.remove(descriptor, &file),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Waits until a watched file is ready, at most `timeout` nanoseconds; gives `each` what
    /// happened until that is `most` times or `each` takes no more, and returns how often.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL`.
    pub fn epoll_wait(
        &self,
        epoll: i32,
        most: usize,
        timeout: Option<u64>,
        each: &mut dyn FnMut(Event) -> bool,
    ) -> Poll<Result<usize>> {
        let set = match self.descriptors.get(epoll) {
            Ok(set) => set,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let (Some(watching), 1..) = (Epoll::of(&set), most) else {
            return Poll::Ready(Err(Errno::EINVAL));
        };
        let mut left = most;
        let mut limited = |event| {
            let takes = left > 0 && each(event);
            left -= usize::from(takes);
            takes
        };
        look_twice(
            || watching.register(self.waker),
            || match watching.collect(&mut limited) {
                0 if !self.is_timed_out(timeout) => None,
                told => Some(Ok(told)),
            },
        )
    }
}
