//! The types of what modules register: capabilities, init calls, self-tests, monitor commands.
//!
//! Any module declares an entry as a static in the table's section; the linker puts them side by
//! side. Whoever walks a table asks each entry's [`Capability`] whether it has a meaning on the
//! running subarch, and there is no entry without one, so that nothing can be added without
//! saying where it works.
//!
//! Beside its static every entry leaves a line of text in the image ([`record`](crate::record)),
//! from which the build learns what is registered, and refuses what could not boot.

use crate::subarch::{Subarch, Subarches};

/// Something that the kernel can do on some ways of running, and why not on the others.
#[derive(Debug)]
pub struct Capability {
    name: &'static str,
    because: &'static str,
    subarches: Subarches,
}

impl Capability {
    /// What is there on every way of running.
    #[must_use]
    pub const fn everywhere(name: &'static str) -> Capability {
        assert!(!name.is_empty(), "a capability has a name");
        Capability {
            name,
            because: "",
            subarches: Subarches::all(),
        }
    }

    /// What is there on some ways of running only, and why not on the others, in a sentence.
    #[must_use]
    pub const fn only(
        name: &'static str,
        subarches: Subarches,
        because: &'static str,
    ) -> Capability {
        assert!(!name.is_empty(), "a capability has a name");
        assert!(!because.is_empty(), "what some lack has a reason");
        assert!(!subarches.is_empty(), "what nobody can do is none");
        assert!(!subarches.is_all(), "nobody lacks it: `everywhere`");
        Capability {
            name,
            because,
            subarches,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Where it is.
    #[must_use]
    pub const fn subarches(&self) -> Subarches {
        self.subarches
    }

    /// Why the others lack it, in a sentence; empty if there are no others.
    #[must_use]
    pub const fn because(&self) -> &'static str {
        self.because
    }

    /// Whether it is there on `subarch`.
    #[must_use]
    pub const fn is_on(&self, subarch: Subarch) -> bool {
        self.subarches.has(subarch)
    }
}

/// What every entry of a table has.
#[derive(Debug)]
pub struct Item {
    /// Its name, which no other entry of the table has.
    pub name: &'static str,
    /// What it needs: it is used where that is, and nowhere else.
    pub needs: &'static Capability,
}

/// The entries of a table by name, which no two share: the linker puts them in no order.
pub fn by_name<T>(table: &[T], name: fn(&T) -> &str) -> impl Iterator<Item = &T> {
    let after = move |last: &str| {
        let rest = table.iter().filter(|entry| name(entry) > last);
        rest.min_by_key(|entry| name(entry))
    };
    core::iter::successors(after(""), move |last| after(name(last)))
}

/// How far the boot has come when an init call is made. All calls of a level are made before the
/// next level's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// The kernel has just taken over its memory; nothing interrupts.
    Memory,
    /// What others wait for: events, interrupts, timers.
    Core,
    /// What is built on that.
    Service,
}

impl Level {
    /// All of them, in order.
    pub const ALL: [Level; 3] = [Level::Memory, Level::Core, Level::Service];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Level::Memory => "memory",
            Level::Core => "core",
            Level::Service => "service",
        }
    }
}

/// A step of the boot. `F` is a function pointer.
#[derive(Debug)]
pub struct InitCall<F: 'static> {
    /// Name and needs.
    pub item: Item,
    /// Names of the calls that must have been made before, each on every way of running that this
    /// one is made on.
    pub after: &'static [&'static str],
    /// When it is made.
    pub level: Level,
    /// What it does.
    pub run: F,
}

/// A test that the kernel makes of itself. `F` is a function pointer.
#[derive(Debug)]
pub struct SelfTest<F: 'static> {
    /// Its name, `group.name`, and needs.
    pub item: Item,
    /// Sizes in pages to run it with; none for a test that has no size.
    pub pages: &'static [u64],
    /// Where it is registered: tests of a group run in this order.
    pub file: &'static str,
    /// As above: the line.
    pub line: u32,
    /// What it does.
    pub run: F,
}

impl<F> SelfTest<F> {
    /// The part of the name before the first dot.
    #[must_use]
    pub fn group(&self) -> &'static str {
        let name = self.item.name;
        name.split('.').next().unwrap_or(name)
    }
}

/// A command of the monitor. `F` is a function pointer.
#[derive(Debug)]
pub struct Command<F: 'static> {
    /// The word that is typed, and needs.
    pub item: Item,
    /// What it takes, as help shows it; empty if nothing.
    pub argument: &'static str,
    /// What it does, in words.
    pub help: &'static str,
    /// What it does.
    pub run: F,
}

/// Leaves a line for the build in the section `.registry`, which is no part of the loaded image: what
/// kind of entry it is and its parts, all literals, with a tab between them.
#[macro_export]
macro_rules! record {
    ($kind:literal $(, $part:expr)*) => {
        const _: () = {
            const LINE: &str = concat!($kind, $("\t", $part,)* "\n");
            // SAFETY: the linker script has the section for lines like this one and keeps them all.
            #[used]
            #[unsafe(link_section = ".registry")]
            static RECORD: [u8; LINE.len()] = match LINE.as_bytes().first_chunk() {
                Some(bytes) => *bytes,
                None => [0; LINE.len()],
            };
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_by_name_however_they_lie() {
        let table = ["c", "a", "b"];
        assert!(by_name(&table, |name| name).eq(&["a", "b", "c"]));
        assert!(by_name(&table[..0], |name| name).next().is_none());
    }
}
