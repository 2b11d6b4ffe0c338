//! The image and what protects it: who may write, who may execute, at either of the two places
//! where its frames are mapped.

use linker::{Image, VIRT_BASE};

use super::context::{ABSENT_EXECUTE, ABSENT_READ, Context, NO_EXECUTE, PAGE, READ_ONLY};
use super::{TestResult, Trouble, expect_eq, expect_matches, selftest};
use crate::init_memory;
use crate::mm::state::Kind;
use crate::mm::{self, Flags, MmError, Value, layout};
use crate::probe::{self, Fault};
use crate::shared;

/// An x86 `ret`.
const RET: u8 = 0xc3;
static CONSTANT: [u8; 16] = [RET; 16];
static mut VARIABLE: [u8; 16] = [RET; 16];

/// The same frame in the direct map.
fn alias(va: u64) -> u64 {
    layout::DIRECT.start + (va - VIRT_BASE)
}

/// Where a function that does nothing lies.
fn code() -> u64 {
    #[unsafe(naked)]
    extern "C" fn nothing() {
        core::arch::naked_asm!("ret", "nop", "nop", "nop", "nop", "nop", "nop", "nop")
    }
    nothing as extern "C" fn() as usize as u64
}

/// Writes the word at `va` back to itself: harmless should it succeed.
fn rewrite(va: u64) -> Result<(), Fault> {
    let word = probe::read(va)?;
    // SAFETY: the word that is there already; nobody changes it meanwhile.
    unsafe { probe::write(va, word) }
}

/// Code can be executed and not written where it is linked; the direct map has none of it.
fn text(_: &mut Context) -> TestResult {
    let image = Image::current();
    let kept = image.kept_text.clone();
    for va in [
        kept.start,
        code() & !7,
        image.hypercall_page.start,
        kept.end - 8,
    ] {
        expect_eq!(rewrite(va), READ_ONLY, "write to code at {va:#x}");
        let alias = alias(va);
        expect_eq!(
            probe::read(alias),
            ABSENT_READ,
            "code in the direct map, at {alias:#x}"
        );
    }
    // SAFETY: a function that only returns.
    let (own, other) = unsafe { (probe::execute(code()), probe::execute(alias(code()))) };
    expect_eq!(own, Ok(()), "execution of a function");
    expect_eq!(
        other,
        ABSENT_EXECUTE,
        "execution of a function through its alias"
    );
    Ok(())
}
selftest!("image.text", text, needs EVERYWHERE);

/// Constants are read-only where they are linked, not in the direct map, and nowhere code.
fn rodata(_: &mut Context) -> TestResult {
    let image = Image::current();
    let constant = (&raw const CONSTANT).addr() as u64;
    for va in [constant & !7, image.rodata.end - 8] {
        expect_eq!(rewrite(va), READ_ONLY, "write to a constant at {va:#x}");
        let found = probe::read(alias(va));
        expect_eq!(found, ABSENT_READ, "the same in the direct map");
    }
    // SAFETY: the bytes there are `ret`.
    let found = unsafe { probe::execute(constant) };
    expect_eq!(found, NO_EXECUTE, "execution of a constant");
    Ok(())
}
selftest!("image.rodata", rodata, needs EVERYWHERE);

/// Variables and the stack are nowhere code.
fn data(_: &mut Context) -> TestResult {
    let local = [RET; 16];
    let variable = (&raw const VARIABLE).addr() as u64;
    let stack = core::hint::black_box(&local).as_ptr().addr() as u64;
    for va in [variable, alias(variable), stack, alias(stack)] {
        // SAFETY: the bytes there are `ret`.
        let found = unsafe { probe::execute(va) };
        expect_eq!(found, NO_EXECUTE, "execution of a variable at {va:#x}");
        expect_eq!(rewrite(va & !7), Ok(()), "write to a variable at {va:#x}");
    }
    Ok(())
}
selftest!("image.data", data, needs EVERYWHERE);

/// Below the stack there is nothing: an overflow faults instead of overwriting variables. The
/// same for the pages around the image.
fn guard(_: &mut Context) -> TestResult {
    let image = Image::current();
    let guard = image.stack_guard.clone();
    for va in [
        guard.start,
        guard.end - 8,
        image.text.start - 8,
        image.data.end,
    ] {
        let found = probe::read(va);
        expect_eq!(found, ABSENT_READ, "read at {va:#x}, where nothing is");
    }
    expect_eq!(guard.end, image.stack.start, "the guard ends at the stack");
    expect_eq!(rewrite(image.stack.start), Ok(()), "the stack's last word");
    Ok(())
}
selftest!("image.guard", guard, needs EVERYWHERE);

/// The p2m list, on which every entry that the kernel makes relies, cannot be written: where Xen
/// put it, nor through the direct map.
fn p2m(_: &mut Context) -> TestResult {
    let list = layout::P2M.start;
    expect_eq!(
        probe::read(list).is_ok(),
        true,
        "the list lies at {list:#x}"
    );
    let last = mm::with(|tables| tables.frames().counts().total) * 8 - 8;
    for va in [list, list + last] {
        expect_eq!(rewrite(va), READ_ONLY, "write to the p2m list at {va:#x}");
    }
    Ok(())
}
selftest!("image.p2m", p2m, needs XEN_TABLES);

/// What Xen's tools go by when they dump the domain leads to the p2m list: as many entries as there
/// are pages, at the address that is said, mapped by the table that is said, in the list itself.
fn p2m_for_tools(_: &mut Context) -> TestResult {
    let told = shared::p2m().ok_or(Trouble::error("no shared_info"))?;
    let (total, root) = mm::with(|tables| (tables.frames().counts().total, tables.root()));
    expect_eq!(told.pages, total, "max_pfn");
    expect_eq!(
        told.generation % 2,
        0,
        "p2m_generation, odd during a change,"
    );
    let listed = probe::read(told.list + root.as_u64() * 8);
    let known = mm::with(|tables| tables.mfn(root))?.as_u64();
    expect_eq!(listed, Ok(known), "the root's entry in the list");
    expect_eq!(told.root, known << 12, "p2m_cr3");
    let slot = layout::DIRECT.start + root.as_u64() * PAGE + (told.list >> 39 & 511) * 8;
    let present = probe::read(slot).map(|entry| entry & 1);
    expect_eq!(present, Ok(1), "the list's entry in that table");
    let last = probe::read(told.list + (total - 1) * 8);
    expect_eq!(last.is_ok(), true, "the list has its last entry");
    Ok(())
}
selftest!("image.p2m_for_tools", p2m_for_tools, needs XEN_TABLES);

/// What the running kernel does not need of the image is not there any more: nothing is mapped where
/// it was linked, and its frames are memory like other memory.
fn given_back(context: &mut Context) -> TestResult {
    let image = Image::current();
    let mut bytes = 0;
    for part in init_memory::parts(&image).filter(|part| !part.range.is_empty()) {
        bytes += part.range.end - part.range.start;
        for va in [part.range.start, part.range.end - 8] {
            let found = probe::read(va);
            expect_eq!(found, ABSENT_READ, "read at {va:#x}, which was given back");
            let pfn = hypercall::Pfn::truncate((va - VIRT_BASE) / PAGE);
            let (state, _) =
                mm::with(|tables| tables.frames().states(pfn)).map_err(MmError::from)?;
            let usual = matches!(state.kind, Kind::Free | Kind::Owned | Kind::Table);
            expect_eq!(
                usual,
                true,
                "the frame {pfn:?} is {state}; its being usual memory"
            );
        }
    }
    context.note(format_args!("({}K)", bytes / 1024));
    Ok(())
}
selftest!("image.given_back", given_back, needs EVERYWHERE);

/// Nobody can have a page of the image writable and executable, or make code or constants writable;
/// asking is an error and changes nothing. Another mapping of code is no way round it.
fn rights(context: &mut Context) -> TestResult {
    let image = Image::current();
    let (code, constant) = (
        code() & !(PAGE - 1),
        (&raw const CONSTANT).addr() as u64 & !(PAGE - 1),
    );
    let give = |va, add, remove| {
        // SAFETY: refused; it would only add rights.
        mm::with(|tables| unsafe { tables.protect(va, 1, add, remove) }.map(|_| ()))
    };
    let none = Flags::empty();
    expect_matches!(
        give(code, Flags::WRITABLE, none),
        Err(MmError::WriteAndExecute { .. } | MmError::MustStayReadOnly { .. }),
        "writable code"
    );
    expect_matches!(
        give(image.data.start, none, Flags::NO_EXECUTE),
        Err(MmError::WriteAndExecute { .. }),
        "executable variables"
    );
    expect_matches!(
        give(constant, Flags::WRITABLE, none),
        Err(MmError::MustStayReadOnly { .. }),
        "writable constants"
    );
    expect_matches!(
        give(alias(code), Flags::WRITABLE, none),
        Err(MmError::NotMapped { .. }),
        "code in the direct map, writable"
    );
    let va = context.area(0);
    mm::with(|tables| {
        let pfn = hypercall::Pfn::truncate((code - VIRT_BASE) / PAGE);
        tables.ensure_pte_table(va)?;
        // SAFETY: code is only read there.
        unsafe { tables.set_ptes(va, Value::new(pfn, Flags::CONST), 1) }?.commit(tables)
    })?;
    expect_matches!(
        give(va, Flags::WRITABLE, none),
        Err(MmError::MustStayReadOnly { .. }),
        "another mapping of code, writable"
    );
    expect_eq!(rewrite(code), READ_ONLY, "write to code afterwards");
    Ok(())
}
selftest!("image.rights", rights, needs EVERYWHERE);

/// Memory becomes code and data again: filled while writable, sealed, executed, and back. While it
/// is code it cannot be written, not through the direct map either.
fn executable(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let va = context.area(0);
        context.map(va, pile, Flags::DATA)?;
        // SAFETY: the page is the test's.
        let (filled, early) = unsafe {
            let filled = probe::write(va, u64::from_ne_bytes([RET; 8]));
            (filled, probe::execute(va))
        };
        expect_eq!(
            (filled, early),
            (Ok(()), NO_EXECUTE),
            "filling, and executing too early"
        );
        mm::with_all(|tables| {
            // SAFETY: nobody writes the page any more; it holds `ret`.
            unsafe {
                tables.set_memory_ro(va, 1)?.commit(tables)?;
                tables.set_memory_x(va, 1)?.commit(tables)
            }
        })?;
        // SAFETY: nobody writes the page any more; it holds `ret`.
        expect_eq!(unsafe { probe::execute(va) }, Ok(()), "execution");
        let window = mm::with(|tables| {
            use crate::mm::machine::Machine;
            pile.pfns()
                .next()
                .map_or(0, |pfn| tables.machine().window(pfn))
        });
        expect_eq!(rewrite(va), READ_ONLY, "write while it is code");
        expect_eq!(
            rewrite(window),
            READ_ONLY,
            "write through the direct map while it is code"
        );
        mm::with_all(|tables| {
            // SAFETY: nobody executes the page any more.
            unsafe {
                tables.set_memory_nx(va, 1)?.commit(tables)?;
                tables.set_memory_rw(va, 1)?.commit(tables)
            }
        })?;
        // SAFETY: nobody executes the page any more.
        let late = unsafe { probe::execute(va) };
        expect_eq!(late, NO_EXECUTE, "execution when it is data again");
        expect_eq!(
            rewrite(window),
            Ok(()),
            "write through the direct map, at the end"
        );
        Ok(())
    })
}
selftest!("image.executable", executable, &[1], needs EVERYWHERE);

/// What is executable by one mapping is writable by no other: whichever of both is asked for second
/// is refused.
fn code_aliases(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let (data, code) = (context.area(0), context.area(1));
        context.map(data, pile, Flags::DATA)?;
        context.map(code, pile, Flags::CONST)?;
        // SAFETY: refused, or the test's to execute.
        let second = mm::with_all(|tables| unsafe { tables.set_memory_x(code, 1) }.map(drop));
        expect_matches!(second, Err(MmError::WriteAndExecute { va }) if va == data, "code that is writable elsewhere");
        // SAFETY: the page is the test's, and not executable.
        let write = unsafe { probe::write(data, u64::from_ne_bytes([RET; 8])) };
        expect_eq!(write, Ok(()), "a write after the refusal");
        mm::with_all(|tables| {
            // SAFETY: the areas are the test's; nobody writes the page any more, it holds `ret`.
            unsafe {
                tables.unmap(data, 1)?.commit(tables)?;
                tables.set_memory_x(code, 1)?.commit(tables)
            }
        })?;
        // SAFETY: the page holds `ret`.
        expect_eq!(unsafe { probe::execute(code) }, Ok(()), "execution");
        // SAFETY: refused.
        let first = mm::with(|tables| unsafe { tables.map(data, pile.pfns(), Flags::DATA) }.map(drop));
        expect_matches!(first, Err(MmError::MustStayReadOnly { .. }), "a writable mapping of code");
        mm::with_all(|tables| {
            // SAFETY: nobody executes the page any more.
            unsafe { tables.set_memory_nx(code, 1)?.commit(tables) }
        })?;
        context.map(data, pile, Flags::DATA)?;
        context.expect_writes(data, 1, Ok(()), "when it is data again")
    })
}
selftest!("image.code_aliases", code_aliases, &[1], needs EVERYWHERE);

/// A store to a page table faults: there is no way to an entry but by asking Xen. This holds for a
/// domain with the writable-pagetables assist off, as it is here: so a run of an ordinary domain
/// that ends well has made no such store. For dom0 Xen emulates stores to L1 tables whatever the
/// assist says (`fixup_page_fault`, `xen/arch/x86/mm.c`): there the store, of the value that is
/// there already, may succeed, and proves nothing.
fn store_to_table(context: &mut Context) -> TestResult {
    let va = context.area(0);
    let word = mm::with(|tables| {
        use crate::mm::machine::Machine;
        tables.ensure_pte_table(va)?;
        let slot = tables.pte_slot(va)?;
        let table = tables.machine().pfn(slot.machine().frame());
        Ok::<_, MmError>(table.map_or(0, |pfn| tables.machine().window(pfn)))
    })?;
    let before = probe::read(word)
        .map_err(|fault| Trouble::error(format_args!("the table cannot be read: {fault:x?}")))?;
    let found = rewrite(word);
    if !context.is_privileged() {
        expect_eq!(found, READ_ONLY, "store to an L1 table");
    } else if found.is_ok() {
        context.note("(dom0: emulated by Xen)");
    } else {
        expect_eq!(found, READ_ONLY, "store to an L1 table, as dom0");
    }
    expect_eq!(probe::read(word), Ok(before), "the entry afterwards");
    let root = mm::with(|tables| {
        use crate::mm::machine::Machine;
        tables.machine().window(tables.root())
    });
    expect_eq!(rewrite(root), READ_ONLY, "store to the root table");
    if before != 0 {
        return Err(Trouble::error("the fresh table is not empty"));
    }
    Ok(())
}
selftest!("image.store_to_table", store_to_table, needs EVERYWHERE);
