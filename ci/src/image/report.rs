//! What is in an image, for people: what modules registered, in which order init calls are made,
//! what is given back after boot.

use std::collections::BTreeMap;
use std::fmt;

use linker::Group;
use linker::subarch::Subarch;
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SectionKind, elf};

use super::references::{Part, part};
use super::tables::Tables;

/// The groups of what is given back, as they are called.
const GROUPS: [(Group, &str); 2] = [
    (Group::Init, "only booting"),
    (Group::Native, "only with page tables of its own"),
];

/// What an image takes in memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sizes {
    code: u64,
    constants: u64,
    variables: u64,
    /// What of it a PV domain has back when it has booted.
    given_back: u64,
}

impl Sizes {
    /// Those of an image.
    pub(super) fn new(file: &object::File<'_>) -> Self {
        let mut sizes = Sizes::default();
        for segment in file.segments() {
            let object::SegmentFlags::Elf { p_flags, .. } = segment.flags() else {
                continue;
            };
            let kind = match (p_flags.0 & elf::PF_X.0 != 0, p_flags.0 & elf::PF_W.0 != 0) {
                (true, _) => &mut sizes.code,
                (false, false) => &mut sizes.constants,
                (false, true) => &mut sizes.variables,
            };
            *kind += segment.size();
        }
        // No part of the image, see the linker script, but of its last segment.
        let place = |name| file.symbol_by_name(name).map(|symbol| symbol.address());
        if let (Some(tables), Some(end)) = (place("__early_tables"), place("__image_end")) {
            sizes.variables -= end - tables;
        }
        let marked = file.sections().filter(|section| {
            let name = section.name().ok().map(part);
            section.address() != 0 && matches!(name, Some(Part::Marked(_)))
        });
        sizes.given_back = marked.map(|section| section.size()).sum();
        sizes
    }

    /// What stays in a PV domain that has booted, in KiB.
    pub(crate) fn stays(&self) -> u64 {
        (self.code + self.constants + self.variables - self.given_back).div_ceil(1024)
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [code, constants, variables] =
            [self.code, self.constants, self.variables].map(|bytes| bytes.div_ceil(1024));
        write!(
            f,
            "size: {code}K of code, {constants}K of constants, {variables}K of variables; {}K of it stay \
             in a PV domain that has booted",
            self.stays()
        )
    }
}

/// A report of an image.
pub(super) struct Report<'a> {
    tables: &'a Tables,
    /// All of it.
    whole: Sizes,
    /// Bytes by group and kind.
    sizes: BTreeMap<(&'static str, &'static str), u64>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &object::File<'_>, tables: &'a Tables) -> Self {
        let mut sizes = BTreeMap::new();
        for section in file.sections().filter(|section| section.address() != 0) {
            let Some(Part::Marked(group)) = section.name().ok().map(part) else {
                continue;
            };
            let name = GROUPS.iter().find(|(known, _)| *known == group);
            let kind = match section.kind() {
                SectionKind::Text => "code",
                SectionKind::UninitializedData => "variables",
                _ => "constants",
            };
            if let Some((_, name)) = name {
                *sizes.entry((*name, kind)).or_insert(0) += section.size();
            }
        }
        Report {
            tables,
            whole: Sizes::new(file),
            sizes,
        }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "capabilities:")?;
        for capability in &self.tables.capabilities {
            let (name, subarches) = (&capability.name, capability.subarches);
            match capability.because.as_str() {
                "" => writeln!(f, "  {name}: everywhere")?,
                because => writeln!(f, "  {name}: {subarches}; {because}")?,
            }
        }
        writeln!(f, "init calls, in order:")?;
        for subarch in Subarch::ALL {
            writeln!(f, "  {subarch}: {}", self.tables.order(subarch).join(", "))?;
        }
        let [tests, commands] = ["self-test", "command"].map(|kind| self.tables.count(kind));
        writeln!(f, "{tests} self-tests, {commands} commands of the monitor")?;
        writeln!(f, "{}", self.whole)?;
        writeln!(f, "given back after boot where it is needed no more:")?;
        for ((group, kind), bytes) in &self.sizes {
            writeln!(f, "  {group}: {}K of {kind}", bytes / 1024)?;
        }
        Ok(())
    }
}
