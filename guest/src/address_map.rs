//! The memory layout as one aligned table: what is mapped, with which rights, for what.

use core::fmt;

use linker::Image;
use pagetable::entry::Flags;
use pagetable::machine::Machine;
use pagetable::tables::Tables;
use pagetable::walk::MappedRange;

use crate::mm::layout::{self, Fixed, Line, Region, Size};
use crate::mm::levels::Levels;

/// Calls `line` for each line of the table.
pub fn lines<M: Machine>(
    tables: &Tables<M>,
    image: &Image,
    levels: &Levels,
    mut line: impl FnMut(fmt::Arguments<'_>),
) {
    let counts = tables.frames().counts();
    line(format_args!("page tables of {levels}"));
    line(format_args!(
        "{:<33} {:>6} {:<4} {}",
        "addresses", "size", "", "purpose"
    ));
    for Region {
        name,
        range,
        purpose,
    } in layout::REGIONS
    {
        match *name {
            "xen" if upper(tables, range.start).is_none() => {}
            "xen" => line(format_args!("{}", row(range.clone(), "", purpose))),
            "direct map" => {
                let end = range.start + counts.mapped * 4096;
                line(format_args!("{}", row(range.start..end, "rw-", purpose)));
                let (mapped, total) = (Size(counts.mapped * 4096), Size(counts.total * 4096));
                line(format_args!(
                    "{:45}{mapped} of {total} mapped, {} pages free",
                    "", counts.free
                ));
            }
            "p2m" => {
                let end = range.start + (counts.total * 8).next_multiple_of(4096);
                if let Some(flags) = upper(tables, range.start) {
                    line(format_args!(
                        "{}",
                        row(range.start..end, rights(flags), purpose)
                    ));
                }
            }
            "image" => parts(image, |range, what| runs(tables, range, what, &mut line)),
            "fixmap" => {
                for place in Fixed::ALL {
                    let page = place.address()..place.address() + 4096;
                    runs(tables, page, place.purpose(), &mut line);
                }
            }
            _ => runs(tables, range.clone(), purpose, &mut line),
        }
    }
}

/// Prints the table of the running kernel.
#[cfg(target_os = "none")]
pub(crate) fn print() {
    let levels = Levels::current();
    crate::mm::with(|tables| {
        lines(tables, &Image::current(), &levels, |line| {
            crate::println!("{line}");
        });
    });
}

/// Rights of the L4 entry for an address, if it is present.
fn upper<M: Machine>(tables: &Tables<M>, va: u64) -> Option<Flags> {
    let p4d = tables.p4d_offset(tables.pgd_offset(va)?, va)?;
    let flags = tables.get(p4d).flags();
    flags.contains(Flags::PRESENT).then_some(flags)
}

fn row<'a>(range: core::ops::Range<u64>, rights: &'a str, purpose: &'a str) -> Line<'a> {
    Line {
        range,
        rights,
        purpose,
    }
}

/// The parts of the image in order of address.
fn parts(image: &Image, mut each: impl FnMut(core::ops::Range<u64>, &'static str)) {
    let Image {
        text,
        rodata,
        data,
        stack,
        ..
    } = image;
    each(text.clone(), "kernel code");
    each(rodata.clone(), "kernel constants, notes and linker tables");
    each(data.start..image.stack_guard.start, "kernel variables");
    each(stack.clone(), "boot stack, above its guard page");
    each(stack.end..data.end, "kernel variables");
}

fn runs<M: Machine>(
    tables: &Tables<M>,
    range: core::ops::Range<u64>,
    purpose: &str,
    line: &mut impl FnMut(fmt::Arguments<'_>),
) {
    tables.for_each_mapped(range, |MappedRange { va, bytes, flags }| {
        line(format_args!(
            "{}",
            row(va..va + bytes, rights(flags), purpose)
        ));
    });
}

/// Rights as three letters.
fn rights(flags: Flags) -> &'static str {
    match (
        flags.contains(Flags::WRITABLE),
        flags.contains(Flags::NO_EXECUTE),
    ) {
        (false, false) => "r-x",
        (false, true) => "r--",
        (true, true) => "rw-",
        (true, false) => "rwx",
    }
}
