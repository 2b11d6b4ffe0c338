//! Reads linker tables out of memory that is not this program's: a linked image.
//!
//! The tables are statics full of pointers; the image is linked at fixed addresses, so the pointers
//! are in the file. Layouts are those of [`tables`](crate::tables), which this reads with the offsets that the
//! compiler gave them there. A slice or `str` is a pointer and a length, which the language does
//! not promise: the test below reads this program's own statics and fails if it is otherwise.

use core::mem::{offset_of, size_of};

use crate::order::Call;
use crate::subarch::Subarches;
use crate::tables::{Capability, Command, InitCall, Item, Level, SelfTest};

/// Memory by address.
pub trait Memory {
    /// The bytes there; `None` if there is nothing, or not so much.
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]>;
}

/// What cannot be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Address of the entry.
    pub entry: u64,
    /// What of it.
    pub what: &'static str,
}

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "the table entry at {:#x} has no {}",
            self.entry, self.what
        )
    }
}

/// A capability as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapabilityRead {
    /// Its name.
    pub name: String,
    /// What the others lack.
    pub because: String,
    /// Where it is.
    pub subarches: Subarches,
}

/// What every entry has, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemRead {
    /// Where the entry is.
    pub address: u64,
    /// Its name.
    pub name: String,
    /// What it needs.
    pub needs: CapabilityRead,
    /// Address of its function.
    pub run: u64,
}

/// An init call as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitCallRead {
    /// Name, needs, function.
    pub item: ItemRead,
    /// When it is made.
    pub level: Level,
    /// What comes before it.
    pub after: Vec<String>,
}

impl Call for InitCallRead {
    fn name(&self) -> &str {
        &self.item.name
    }

    fn level(&self) -> Level {
        self.level
    }

    fn subarches(&self) -> Subarches {
        self.item.needs.subarches
    }

    fn after(&self, index: usize) -> Option<&str> {
        self.after.get(index).map(String::as_str)
    }
}

/// A function pointer, of whatever kind.
type Run = fn();

/// A table in a range of addresses.
#[derive(Clone, Debug)]
pub struct Reader<'m, M> {
    memory: &'m M,
    at: core::ops::Range<u64>,
}

impl<'m, M: Memory> Reader<'m, M> {
    /// The table whose entries lie at these addresses.
    pub fn new(memory: &'m M, at: core::ops::Range<u64>) -> Self {
        Reader { memory, at }
    }

    /// Reads it as a table of capabilities.
    ///
    /// # Errors
    /// The first entry that cannot be right; the same for the functions below.
    pub fn capabilities(&self) -> Result<Vec<CapabilityRead>, Broken> {
        self.each(size_of::<Capability>(), |at| self.capability(at))
    }

    /// Reads it as a table of init calls.
    ///
    /// # Errors
    /// As above.
    pub fn init_calls(&self) -> Result<Vec<InitCallRead>, Broken> {
        self.each(size_of::<InitCall<Run>>(), |at| {
            let after = at + offset_of!(InitCall<Run>, after) as u64;
            let (names, count) = self.fat(after, at, "list of what comes before it")?;
            let names = (0..count)
                .map(|n| {
                    self.text(
                        names + n * size_of::<&str>() as u64,
                        at,
                        "dependency's name",
                    )
                })
                .collect::<Result<_, _>>()?;
            let level = self.byte(at + offset_of!(InitCall<Run>, level) as u64, at)?;
            let level = Level::ALL.into_iter().find(|known| *known as u8 == level);
            Ok(InitCallRead {
                item: self.item(at, offset_of!(InitCall<Run>, run))?,
                level: level.ok_or(Broken {
                    entry: at,
                    what: "level",
                })?,
                after: names,
            })
        })
    }

    /// Reads it as a table of self-tests.
    ///
    /// # Errors
    /// As above.
    pub fn self_tests(&self) -> Result<Vec<ItemRead>, Broken> {
        self.each(size_of::<SelfTest<Run>>(), |at| {
            self.item(at, offset_of!(SelfTest<Run>, run))
        })
    }

    /// Reads it as a table of commands.
    ///
    /// # Errors
    /// As above.
    pub fn commands(&self) -> Result<Vec<ItemRead>, Broken> {
        self.each(size_of::<Command<Run>>(), |at| {
            self.item(at, offset_of!(Command<Run>, run))
        })
    }

    fn each<T>(
        &self,
        size: usize,
        one: impl Fn(u64) -> Result<T, Broken>,
    ) -> Result<Vec<T>, Broken> {
        let size = size as u64;
        if !(self.at.end - self.at.start).is_multiple_of(size) {
            return Err(Broken {
                entry: self.at.end,
                what: "whole length",
            });
        }
        let count = (self.at.end - self.at.start) / size;
        (0..count).map(|n| one(self.at.start + n * size)).collect()
    }

    fn item(&self, at: u64, run: usize) -> Result<ItemRead, Broken> {
        let needs = self.word(at + offset_of!(Item, needs) as u64, at, "capability")?;
        let name = self.text(at + offset_of!(Item, name) as u64, at, "name")?;
        let needs = self.capability(needs)?;
        let run = self.word(at + run as u64, at, "function")?;
        Ok(ItemRead {
            address: at,
            name,
            needs,
            run,
        })
    }

    fn capability(&self, at: u64) -> Result<CapabilityRead, Broken> {
        let offsets = Capability::OFFSETS;
        let bits = self.byte(at + offsets.subarches, at)?;
        let subarches = Subarches::from_bits(bits).filter(|set| !set.is_empty());
        Ok(CapabilityRead {
            name: self.text(at + offsets.name, at, "name of a capability")?,
            because: self.text(at + offsets.because, at, "reason")?,
            subarches: subarches.ok_or(Broken {
                entry: at,
                what: "subarches",
            })?,
        })
    }

    fn byte(&self, at: u64, entry: u64) -> Result<u8, Broken> {
        let what = "memory";
        let bytes = self.memory.bytes(at, 1).ok_or(Broken { entry, what })?;
        Ok(bytes[0])
    }

    fn word(&self, at: u64, entry: u64, what: &'static str) -> Result<u64, Broken> {
        let bytes = self.memory.bytes(at, 8);
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_le_bytes).ok_or(Broken { entry, what })
    }

    /// A slice or `str`: its address and length.
    fn fat(&self, at: u64, entry: u64, what: &'static str) -> Result<(u64, u64), Broken> {
        /// More is no table's.
        const MOST: u64 = 4096;
        let address = self.word(at, entry, what)?;
        let length = self.word(at + 8, entry, what)?;
        let sane = length <= MOST;
        sane.then_some((address, length))
            .ok_or(Broken { entry, what })
    }

    fn text(&self, at: u64, entry: u64, what: &'static str) -> Result<String, Broken> {
        let (address, length) = self.fat(at, entry, what)?;
        if length == 0 {
            return Ok(String::new());
        }
        let bytes = self.memory.bytes(address, length as usize);
        let text = bytes.and_then(|bytes| core::str::from_utf8(bytes).ok());
        text.map(str::to_owned).ok_or(Broken { entry, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static PV: Capability = Capability::only("pv", Subarches::XEN_PV, "nobody else has it");
    static ALL: Capability = Capability::everywhere("all");
    fn nothing() {}

    static CALLS: [InitCall<Run>; 2] = [
        InitCall {
            item: Item {
                name: "first",
                needs: &ALL,
            },
            after: &[],
            level: Level::Memory,
            run: nothing,
        },
        InitCall {
            item: Item {
                name: "second",
                needs: &PV,
            },
            after: &["first", "zeroth"],
            level: Level::Service,
            run: nothing,
        },
    ];

    /// This program's own memory: what the static tables above reach.
    struct Own(u64);

    impl Memory for Own {
        fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
            let start = core::ptr::with_exposed_provenance::<u8>(address as usize);
            let hidden = (self.0..self.0 + 8).contains(&address);
            // SAFETY: the tests read statics, and what these point to, by their own layout.
            (!hidden).then(|| unsafe { core::slice::from_raw_parts(start, length) })
        }
    }

    fn at<T>(table: &[T]) -> core::ops::Range<u64> {
        let start = table.as_ptr().expose_provenance() as u64;
        start..start + size_of_val(table) as u64
    }

    #[test]
    #[cfg_attr(
        miri,
        ignore = "follows addresses that nobody has exposed, as those in a file are"
    )]
    fn what_is_declared_is_what_is_read() {
        let own = Own(0);
        let calls = Reader::new(&own, at(&CALLS)).init_calls().unwrap();
        assert_eq!(calls[0].item.name, "first");
        assert_eq!(calls[0].item.needs.subarches, Subarches::all());
        assert_eq!(calls[0].after, [""; 0]);
        assert_eq!(
            (calls[0].level, calls[1].level),
            (Level::Memory, Level::Service)
        );
        assert_eq!(calls[1].after, ["first", "zeroth"]);
        assert_eq!(calls[1].item.needs.because, "nobody else has it");
        assert_eq!(calls[1].item.needs.subarches, Subarches::XEN_PV);
        assert_eq!(calls[1].item.run, nothing as *const () as u64);
    }

    #[test]
    #[cfg_attr(
        miri,
        ignore = "follows addresses that nobody has exposed, as those in a file are"
    )]
    fn self_tests_commands_and_capabilities_are_read() {
        let item = || Item {
            name: "a.b",
            needs: &PV,
        };
        let tests = [SelfTest {
            item: item(),
            pages: &[1, 2],
            file: file!(),
            line: line!(),
            run: nothing as Run,
        }];
        let commands = [Command {
            item: item(),
            argument: "",
            help: "",
            run: nothing as Run,
        }];
        let own = Own(0);
        let tests = Reader::new(&own, at(&tests)).self_tests().unwrap();
        let commands = Reader::new(&own, at(&commands)).commands().unwrap();
        for read in [&tests[0], &commands[0]] {
            assert_eq!(
                (read.name.as_str(), read.needs.name.as_str()),
                ("a.b", "pv")
            );
            assert_eq!(read.run, nothing as *const () as u64);
        }
        let capabilities = [Capability::everywhere("x")];
        let read = Reader::new(&own, at(&capabilities)).capabilities().unwrap();
        assert_eq!((read[0].name.as_str(), read[0].because.as_str()), ("x", ""));
    }

    #[test]
    #[cfg_attr(
        miri,
        ignore = "follows addresses that nobody has exposed, as those in a file are"
    )]
    fn what_cannot_be_right_is_named() {
        let range = at(&CALLS);
        let own = Own(range.start);
        let error = Reader::new(&own, range.clone()).init_calls().unwrap_err();
        assert_eq!((error.entry, error.what), (range.start, "name"));
        let short = range.start..range.end - 8;
        let error = Reader::new(&Own(0), short).init_calls().unwrap_err();
        assert_eq!(error.what, "whole length");
    }
}
