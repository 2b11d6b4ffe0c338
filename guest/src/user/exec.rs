//! A program is made from a file: its segments are mapped, and its stack is laid out as Linux does.
//!
//! The strings go to the very top of the address space first; then the pages that hold them move down
//! by a random distance, all in one lazy section, and what refers to them is written below
//! (`setup_arg_pages` and `create_elf_tables` do so in Linux' `fs/exec.c` and `fs/binfmt_elf.c`).
//!
//! All of it happens in a new memory, in which this vCPU runs meanwhile: what goes wrong leaves the old
//! one as it was.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::segment::{ProgramHeader, SegmentTable};
use linux_raw_sys::auxvec;

use super::access::User;
use super::errno::{ENOEXEC, Errno, Result, Room};
use super::memory::{Access, Backing, Content, Fixed, Memory};
use super::pages::PAGE;
use super::random;
use crate::areas::{self, Rights};
use crate::usermode::END;

/// Bytes of arguments and environment together, strings and pointers: a quarter of the stack, as Linux.
pub(crate) const ARGUMENTS: usize = 2 << 20;
/// Program headers that a file may have.
const HEADERS: usize = 64;
/// Bytes of a program header.
const HEADER: usize = 56;
/// Where a program is put that may be anywhere (`ELF_ET_DYN_BASE` in Linux).
const ANYWHERE: u64 = (END / 3 * 2) & !(PAGE - 1);
/// Pages that a stack is moved down by at most, if it is small.
const SHIFT: u64 = 1024;

/// Of `personality`: programs and stacks lie at no random addresses (`linux/personality.h`).
pub(crate) const ADDR_NO_RANDOMIZE: u32 = 0x4_0000;

/// What a program is started with.
pub(crate) struct Arguments {
    /// The file, as it was named.
    pub(crate) path: Vec<u8>,
    /// Arguments, the program's name first.
    pub(crate) arguments: Vec<Vec<u8>>,
    /// Variables.
    pub(crate) environment: Vec<Vec<u8>>,
}

/// Where a program begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// Its first instruction.
    pub(crate) rip: u64,
    /// Its stack.
    pub(crate) rsp: u64,
}

/// A file's headers, as far as they are of use.
struct Headers {
    file: FileHeader<LittleEndian>,
    segments: Vec<ProgramHeader>,
}

impl Headers {
    /// Reads them.
    ///
    /// # Errors
    /// `ENOEXEC` for what is no program for this processor.
    fn read(file: &dyn Content) -> Result<Headers> {
        let mut start = [0; 64];
        if file.read(0, &mut start)? < start.len() {
            return Err(ENOEXEC);
        }
        let (ident, tail) = start.split_at(abi::EI_NIDENT);
        let ident = parse_ident::<LittleEndian>(ident).map_err(|_| ENOEXEC)?;
        let header = FileHeader::parse_tail(ident, tail).map_err(|_| ENOEXEC)?;
        let count = usize::from(header.e_phnum);
        let fits = header.class == Class::ELF64
            && header.e_machine == abi::EM_X86_64
            && matches!(header.e_type, abi::ET_EXEC | abi::ET_DYN)
            && usize::from(header.e_phentsize) == HEADER
            && (1..=HEADERS).contains(&count);
        if !fits {
            return Err(ENOEXEC);
        }
        let mut table = [0; HEADERS * HEADER];
        let table = &mut table[..count * HEADER];
        if file.read(header.e_phoff, table)? < table.len() {
            return Err(ENOEXEC);
        }
        let mut segments = Vec::new();
        segments.room(count)?;
        segments.extend(SegmentTable::new(header.endianness, header.class, table).iter());
        Ok(Headers {
            file: header,
            segments,
        })
    }

    fn of(&self, kind: u32) -> impl Iterator<Item = &ProgramHeader> {
        self.segments.iter().filter(move |s| s.p_type == kind)
    }

    /// The addresses that its segments take, relative to where it is put.
    fn span(&self) -> Result<Range<u64>> {
        let mut span: Option<Range<u64>> = None;
        for segment in self.of(abi::PT_LOAD) {
            let range = areas::pages(segment.p_vaddr, 0)
                .zip(segment.p_vaddr.checked_add(segment.p_memsz))
                .map(|(start, end)| start.start..end)
                .filter(|range| range.end <= END && segment.p_filesz <= segment.p_memsz)
                .ok_or(ENOEXEC)?;
            span = Some(match span {
                Some(all) => all.start.min(range.start)..all.end.max(range.end),
                None => range,
            });
        }
        span.ok_or(ENOEXEC)
    }
}

/// The rights of a segment.
fn rights(segment: &ProgramHeader) -> Rights {
    let mut rights = Rights::empty();
    rights.set(Rights::READ, segment.p_flags & abi::PF_R != 0);
    rights.set(Rights::WRITE, segment.p_flags & abi::PF_W != 0);
    rights.set(Rights::EXECUTE, segment.p_flags & abi::PF_X != 0);
    rights
}

/// Opens a program, or the one that a script names in its first line, with the script as an argument.
///
/// # Errors
/// Those of `open`, `ELOOP` for scripts that name scripts, `ENOEXEC`.
pub(crate) fn interpret(
    mut with: Arguments,
    open: impl Fn(&[u8]) -> Result<Arc<dyn Content>>,
) -> Result<(Arc<dyn Content>, Arguments)> {
    /// Scripts that may name each other.
    const DEPTH: u32 = 5;
    /// Bytes of a first line that are looked at (`BINPRM_BUF_SIZE`).
    const LINE: usize = 256;
    let mut path = copy(&with.path)?;
    for _ in 0..DEPTH {
        let file = open(&path)?;
        let mut start = [0; LINE];
        let count = file.read(0, &mut start)?;
        let Some(line) = start[..count].strip_prefix(b"#!") else {
            return Ok((file, with));
        };
        let space = |byte: &u8| matches!(byte, b' ' | b'\t');
        let end = match line.iter().position(|byte| *byte == b'\n') {
            Some(end) => end,
            // The file ends here, or only its name of a program is known to be whole.
            None if count < LINE => line.len(),
            None if line.trim_ascii_start().iter().any(space) => line.len(),
            None => return Err(ENOEXEC),
        };
        let line = line[..end].trim_ascii();
        let (name, rest) = line.split_at(line.iter().position(space).unwrap_or(line.len()));
        if name.is_empty() {
            return Err(ENOEXEC);
        }
        let mut arguments = Vec::new();
        arguments.room(with.arguments.len() + 3)?;
        arguments.push(copy(name)?);
        if !rest.is_empty() {
            arguments.push(copy(rest.trim_ascii())?);
        }
        arguments.push(path);
        arguments.extend(with.arguments.drain(..).skip(1));
        with.arguments = arguments;
        path = copy(name)?;
    }
    Err(Errno::ELOOP)
}

/// The same bytes.
fn copy(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut copy = Vec::new();
    copy.room(bytes.len())?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// Says why a program is refused that another puts together when it starts, and which other: from the error
/// nobody would know.
#[cold]
fn refuse_dynamic(file: &dyn Content, interpreter: &ProgramHeader, path: &[u8]) {
    /// Bytes of its name that are shown.
    const SHOWN: usize = 80;
    let mut bytes = [0; SHOWN];
    let count = file.read(interpreter.p_offset, &mut bytes).unwrap_or(0);
    let count = count.min(usize::try_from(interpreter.p_filesz).unwrap_or(SHOWN));
    let name = bytes[..count]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or(&[]);
    log::warn!(
        target: "user",
        "{}: a dynamic program, which {} would put together: only static ones are run",
        path.escape_ascii(),
        name.escape_ascii()
    );
}

/// Makes the memory of a program and enters it; where things lie in it is `random` or always the same.
///
/// # Errors
/// `ENOEXEC`, `ENOENT` for a dynamic program, `E2BIG`, `ENOMEM`. The vCPU may then be in a space that is gone: the caller enters
/// another.
pub(crate) fn load(
    file: &Arc<dyn Content>,
    with: &Arguments,
    random: bool,
) -> Result<(Memory, Start)> {
    let headers = Headers::read(&**file)?;
    if let Some(interpreter) = headers.of(abi::PT_INTERP).next() {
        refuse_dynamic(&**file, interpreter, &with.path);
        // As Linux where there is none.
        return Err(Errno::ENOENT);
    }
    let memory = Memory::new()?;
    memory.enter()?;
    let below = |most: u64| if random { random::below(most) } else { 0 };
    let anywhere = ANYWHERE + below(1 << 20) * PAGE;
    let loaded = map(&memory, file, &headers, anywhere).and_then(|base| {
        let rsp = stack(&memory, &headers, base, with, below(SHIFT))?;
        let rip = headers.file.e_entry.wrapping_add(base);
        Ok(Start { rip, rsp })
    });
    match loaded {
        Ok(start) => Ok((memory, start)),
        Err(e) => {
            // A space that a vCPU runs in is not given back.
            Memory::leave();
            Err(e)
        }
    }
}

/// Maps the segments, at `anywhere` if the file lets them be; returns what is to be added to its addresses.
fn map(memory: &Memory, file: &Arc<dyn Content>, headers: &Headers, anywhere: u64) -> Result<u64> {
    let span = headers.span()?;
    let base = match headers.file.e_type {
        abi::ET_EXEC => 0,
        _ => anywhere.wrapping_sub(span.start),
    };
    for segment in headers.of(abi::PT_LOAD) {
        map_segment(memory, file, segment, base)?;
    }
    let heap = span
        .end
        .wrapping_add(base)
        .checked_next_multiple_of(PAGE)
        .filter(|end| *end < END)
        .ok_or(ENOEXEC)?;
    memory.set_heap(heap);
    Ok(base)
}

/// Maps a segment: what the file has, and zeros behind it.
fn map_segment(
    memory: &Memory,
    file: &Arc<dyn Content>,
    segment: &ProgramHeader,
    base: u64,
) -> Result<()> {
    if segment.p_memsz == 0 {
        return Ok(());
    }
    let (rights, start) = (rights(segment), segment.p_vaddr.wrapping_add(base));
    let within = start % PAGE;
    if segment.p_offset % PAGE != within {
        return Err(ENOEXEC);
    }
    let (file_end, end) = (start + segment.p_filesz, start + segment.p_memsz);
    if segment.p_filesz > 0 {
        let backing = Backing::File(file.clone(), segment.p_offset - within);
        let bytes = segment.p_filesz + within;
        memory.map(start - within, bytes, rights, backing, Fixed::Free)?;
    }
    let zeros = if segment.p_filesz > 0 {
        file_end.next_multiple_of(PAGE)
    } else {
        start - within
    };
    if zeros < end {
        memory.map(zeros, end - zeros, rights, Backing::Zeros, Fixed::Free)?;
    }
    // Behind the file's part the rest of its last page is zeros as well.
    if segment.p_filesz > 0 && segment.p_memsz > segment.p_filesz && rights.contains(Rights::WRITE)
    {
        let rest = (zeros.min(end) - file_end) as usize;
        User(memory).write_bytes(file_end, &[0; PAGE as usize][..rest])?;
    }
    Ok(())
}

/// Lays out the stack, so many pages further down than it must be; returns where it begins.
fn stack(
    memory: &Memory,
    headers: &Headers,
    base: u64,
    with: &Arguments,
    further: u64,
) -> Result<u64> {
    let user = User(memory);
    let strings = with.arguments.iter().chain(&with.environment);
    let count: usize = strings.map(|string| string.len() + 1 + 8).sum();
    // Two strings of the kernel's, and the random bytes, are there as well.
    let room = (count + with.path.len() + 64) as u64;
    if room > ARGUMENTS as u64 {
        return Err(Errno::E2BIG);
    }
    let built = END - room.next_multiple_of(PAGE)..END;
    memory.map_stack(built.clone())?;
    let pages = (built.end - built.start) / PAGE;
    let down = (pages + further) * PAGE;
    let mut top = END;
    let mut push = |bytes: &[u8]| {
        top -= bytes.len() as u64 + 1;
        user.write_bytes(top, bytes)?;
        Ok(top - down)
    };
    let name = push(&with.path)?;
    let platform = push(b"x86_64")?;
    let mut seed = [0; 16];
    random::fill(&mut seed);
    let seed = push(&seed)?;
    let mut words = Vec::new();
    words.room(with.arguments.len() + with.environment.len() + 64)?;
    words.push(with.arguments.len() as u64);
    for list in [&with.arguments, &with.environment] {
        for string in list {
            words.push(push(string)?);
        }
        words.push(0);
    }
    memory.shift_stack(built, down)?;
    let segments = headers
        .of(abi::PT_LOAD)
        .find(|s| (s.p_offset..s.p_offset + s.p_filesz).contains(&headers.file.e_phoff));
    let table = segments.map_or(0, |s| {
        s.p_vaddr + (headers.file.e_phoff - s.p_offset) + base
    });
    let features = core::arch::x86_64::__cpuid(1).edx;
    let vector = [
        (auxvec::AT_HWCAP, features.into()),
        (auxvec::AT_PAGESZ, PAGE),
        (auxvec::AT_CLKTCK, 100),
        (auxvec::AT_PHDR, table),
        (auxvec::AT_PHENT, HEADER as u64),
        (auxvec::AT_PHNUM, headers.segments.len() as u64),
        (auxvec::AT_BASE, 0),
        (auxvec::AT_FLAGS, 0),
        (auxvec::AT_ENTRY, headers.file.e_entry.wrapping_add(base)),
        (auxvec::AT_UID, 0),
        (auxvec::AT_EUID, 0),
        (auxvec::AT_GID, 0),
        (auxvec::AT_EGID, 0),
        (auxvec::AT_SECURE, 0),
        (auxvec::AT_RANDOM, seed),
        (auxvec::AT_HWCAP2, 0),
        (auxvec::AT_EXECFN, name),
        (auxvec::AT_PLATFORM, platform),
        (auxvec::AT_NULL, 0),
    ];
    words.extend(
        vector
            .into_iter()
            .flat_map(|(kind, value)| [u64::from(kind), value]),
    );
    let rsp = (top - down - words.len() as u64 * 8) & !15;
    for (place, word) in (rsp..).step_by(8).zip(&words) {
        user.write(place, word)?;
    }
    debug_assert!(user.has(rsp, Access::Write));
    Ok(rsp)
}
