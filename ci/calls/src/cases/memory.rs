//! What is mapped, and what becomes of it.

use linux_raw_sys::general as linux;

use super::{BAD, CLOSED, PAGE, bad, calls, child, file, mmap, open, pipe, read, say, show, write};
use crate::system::{at, call, fork, to, wait};

calls! {
    munmap __NR_munmap,
    mprotect __NR_mprotect,
    mremap __NR_mremap,
    madvise __NR_madvise,
    brk __NR_brk,
    msync __NR_msync,
    mlock __NR_mlock,
    munlock __NR_munlock,
    mlockall __NR_mlockall,
    mincore __NR_mincore,
}

const NONE: u64 = 0;
const READ: u64 = linux::PROT_READ as u64;
const BOTH: u64 = (linux::PROT_READ | linux::PROT_WRITE) as u64;
const PRIVATE: u64 = (linux::MAP_PRIVATE | linux::MAP_ANONYMOUS) as u64;
const FIXED: u64 = linux::MAP_FIXED as u64;
const NO_FILE: u64 = u64::MAX;

/// So many pages of zeros.
fn pages(count: u64) -> u64 {
    // SAFETY: as the list says.
    unsafe { mmap([0, count * PAGE, BOTH, PRIVATE, NO_FILE, 0]) as u64 }
}

/// Writes a byte.
///
/// # Safety
/// It is mapped for the case alone, or the case is to die of it.
unsafe fn put(address: u64, byte: u8) {
    // SAFETY: as the caller promises.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(address as usize).write_volatile(byte) }
}

/// Reads a byte.
///
/// # Safety
/// It is mapped for the case alone, or the case is to die of it.
unsafe fn get(address: u64) -> u8 {
    // SAFETY: as the caller promises.
    unsafe { core::ptr::with_exposed_provenance::<u8>(address as usize).read_volatile() }
}

/// An address, as whether it is one.
fn place(result: i64) -> i64 {
    if (-4095..0).contains(&result) {
        result
    } else {
        0
    }
}

pub(super) fn run() {
    mapping();
    unmapping();
    protecting();
    remapping();
    advising();
    heap();
    files();
    faults();
    copies();
}

fn mapping() {
    // SAFETY: as the list says.
    unsafe {
        say("mmap", place(mmap([0, PAGE, BOTH, PRIVATE, NO_FILE, 0])));
        say("mmap nothing", mmap([0, 0, BOTH, PRIVATE, NO_FILE, 0]));
        say(
            "mmap too much",
            mmap([0, 1 << 60, BOTH, PRIVATE, NO_FILE, 0]),
        );
        say("mmap all", mmap([0, u64::MAX, BOTH, PRIVATE, NO_FILE, 0]));
        say(
            "mmap a byte",
            place(mmap([0, 1, BOTH, PRIVATE, NO_FILE, 0])),
        );
        say(
            "mmap of no type",
            mmap([0, PAGE, BOTH, linux::MAP_ANONYMOUS.into(), NO_FILE, 0]),
        );
        say(
            "mmap at an odd place",
            mmap([0x10_0001, PAGE, BOTH, PRIVATE | FIXED, NO_FILE, 0]),
        );
        say(
            "mmap of an odd offset",
            mmap([0, PAGE, BOTH, PRIVATE, NO_FILE, 1]),
        );
        say(
            "mmap at the end",
            mmap([BAD[1], PAGE, BOTH, PRIVATE | FIXED, NO_FILE, 0]),
        );
        say(
            "mmap beyond the end",
            mmap([BAD[2], PAGE, BOTH, PRIVATE | FIXED, NO_FILE, 0]),
        );
        say(
            "mmap in the kernel",
            mmap([BAD[3], PAGE, BOTH, PRIVATE | FIXED, NO_FILE, 0]),
        );
        say(
            "a hint in the kernel",
            place(mmap([BAD[3], PAGE, BOTH, PRIVATE, NO_FILE, 0])),
        );
        say(
            "mmap no descriptor",
            mmap([0, PAGE, READ, linux::MAP_PRIVATE.into(), CLOSED, 0]),
        );
        let start = pages(4);
        say(
            "mmap at a place",
            i64::from(mmap([start, PAGE, BOTH, PRIVATE | FIXED, NO_FILE, 0]) as u64 == start),
        );
        say(
            "mmap where nothing may be",
            mmap([
                start,
                PAGE,
                BOTH,
                PRIVATE | u64::from(linux::MAP_FIXED_NOREPLACE),
                NO_FILE,
                0,
            ]),
        );
        munmap([start, 4 * PAGE]);
        let again = mmap([
            start,
            PAGE,
            BOTH,
            PRIVATE | u64::from(linux::MAP_FIXED_NOREPLACE),
            NO_FILE,
            0,
        ]);
        say("mmap where nothing is", i64::from(again as u64 == start));
        let hinted = mmap([start + PAGE, PAGE, BOTH, PRIVATE, NO_FILE, 0]);
        say(
            "a hint where nothing is",
            i64::from(hinted as u64 == start + PAGE),
        );
        say(
            "a hint where something is",
            i64::from(mmap([start, PAGE, BOTH, PRIVATE, NO_FILE, 0]) as u64 == start),
        );
        say(
            "populate",
            place(mmap([
                0,
                16 * PAGE,
                BOTH,
                PRIVATE | u64::from(linux::MAP_POPULATE),
                NO_FILE,
                0,
            ])),
        );
        say(
            "no reserve",
            place(mmap([
                0,
                16 * PAGE,
                BOTH,
                PRIVATE | u64::from(linux::MAP_NORESERVE),
                NO_FILE,
                0,
            ])),
        );
        say(
            "validated",
            mmap([
                0,
                PAGE,
                BOTH,
                u64::from(linux::MAP_SHARED_VALIDATE | linux::MAP_ANONYMOUS) | 1 << 30,
                NO_FILE,
                0,
            ]),
        );
        say(
            "unknown rights",
            place(mmap([0, PAGE, 0x40, PRIVATE, NO_FILE, 0])),
        );
    }
}

fn unmapping() {
    // SAFETY: as the list says.
    unsafe {
        let start = pages(6);
        say("munmap in the middle", munmap([start + 2 * PAGE, 2 * PAGE]));
        say("munmap again", munmap([start + 2 * PAGE, 2 * PAGE]));
        say("munmap all of it", munmap([start, 6 * PAGE]));
        say("munmap nothing", munmap([start, 0]));
        say("munmap at an odd place", munmap([start + 1, PAGE]));
        say("munmap a byte", munmap([start, 1]));
        say("munmap too much", munmap([start, u64::MAX]));
        say("munmap in the kernel", munmap([BAD[3], PAGE]));
        say("munmap the last page", munmap([BAD[1], PAGE]));
        let start = pages(3);
        put(start + PAGE, 9);
        munmap([start + PAGE, PAGE]);
        mmap([start + PAGE, PAGE, BOTH, PRIVATE | FIXED, NO_FILE, 0]);
        show("a new page is zero", get(start + PAGE));
    }
}

fn protecting() {
    // SAFETY: as the list says.
    unsafe {
        let start = pages(4);
        put(start, 5);
        say("mprotect", mprotect([start, PAGE, READ]));
        say(
            "read into what is only read",
            read([open([at(c"/dev/zero"), 0]) as u64, start, 1]),
        );
        show("it is as it was", get(start));
        say(
            "write from it",
            write([open([at(c"/dev/null"), 1]) as u64, start, 1]),
        );
        say("mprotect none", mprotect([start, PAGE, NONE]));
        // A terminal reads what it is given, which a sink would not.
        let [_, w] = pipe(0);
        say("write from none", write([w, start, 1]));
        say("mprotect back", mprotect([start, PAGE, BOTH]));
        show("it still is", get(start));
        say("mprotect nothing", mprotect([start, 0, READ]));
        say(
            "mprotect at an odd place",
            mprotect([start + 1, PAGE, READ]),
        );
        munmap([start + 2 * PAGE, PAGE]);
        say("mprotect over a hole", mprotect([start, 4 * PAGE, READ]));
        say("mprotect a hole", mprotect([start + 2 * PAGE, PAGE, READ]));
        say("mprotect unknown", mprotect([start, PAGE, 0x80]));
        say("mprotect in the kernel", mprotect([BAD[3], PAGE, READ]));
        say("mprotect too much", mprotect([start, u64::MAX, READ]));
        say(
            "mprotect grows down",
            mprotect([start, PAGE, u64::from(linux::PROT_GROWSDOWN) | READ]),
        );
        child("the part before the hole was protected", || {
            put(start + PAGE, 1);
            0
        });
    }
}

fn remapping() {
    // SAFETY: as the list says.
    unsafe {
        let start = pages(4);
        put(start, 1);
        put(start + 3 * PAGE, 4);
        say(
            "mremap smaller",
            i64::from(mremap([start, 4 * PAGE, 2 * PAGE, 0]) as u64 == start),
        );
        say(
            "mremap in place",
            i64::from(mremap([start, 2 * PAGE, 4 * PAGE, 0]) as u64 == start),
        );
        show("what was cut is zero", get(start + 3 * PAGE));
        mmap([start + 4 * PAGE, PAGE, BOTH, PRIVATE | FIXED, NO_FILE, 0]);
        say(
            "mremap against something",
            mremap([start, 5 * PAGE, 6 * PAGE, 1]).signum(),
        );
        let two = pages(3);
        put(two, 7);
        mprotect([two + PAGE, PAGE, READ]);
        say("mremap in the way", place(mremap([two, PAGE, 3 * PAGE, 0])));
        let moved = mremap([two, PAGE, 3 * PAGE, 1]);
        say("mremap elsewhere", place(moved));
        show("what moved", get(moved as u64));
        say(
            "mremap over two areas",
            place(mremap([two + PAGE, 3 * PAGE, 4 * PAGE, 1])),
        );
        say(
            "mremap of what is not there",
            mremap([0x1000_0000, PAGE, 2 * PAGE, 1]),
        );
        say("mremap to nothing", mremap([moved as u64, PAGE, 0, 1]));
        say(
            "mremap at an odd place",
            mremap([moved as u64 + 1, PAGE, PAGE, 1]),
        );
        say("mremap of flags", mremap([moved as u64, PAGE, PAGE, 8]));
        say(
            "mremap fixed alone",
            mremap([moved as u64, PAGE, PAGE, 2, moved as u64 + 64 * PAGE]),
        );
        let target = pages(8);
        put(target, 99);
        say(
            "mremap to a place",
            i64::from(mremap([moved as u64, 3 * PAGE, 3 * PAGE, 3, target]) as u64 == target),
        );
        show("what is there", get(target));
        say(
            "mremap onto itself",
            mremap([target, 3 * PAGE, 3 * PAGE, 3, target + PAGE]),
        );
        say(
            "mremap to an odd place",
            mremap([target, PAGE, PAGE, 3, target + 4 * PAGE + 1]),
        );
        say(
            "mremap into the kernel",
            mremap([target, PAGE, PAGE, 3, BAD[3]]),
        );
        say("mremap too much", mremap([target, PAGE, 1 << 60, 1]));
        say("mremap of nothing private", mremap([target, 0, PAGE, 1]));
    }
}

fn advising() {
    // SAFETY: as the list says.
    unsafe {
        let start = pages(4);
        put(start, 3);
        say(
            "madvise away",
            madvise([start, PAGE, linux::MADV_DONTNEED.into()]),
        );
        show("what is there", get(start));
        say(
            "madvise nothing",
            madvise([start, 0, linux::MADV_DONTNEED.into()]),
        );
        say("madvise unknown", madvise([start, PAGE, 200]));
        say(
            "madvise at an odd place",
            madvise([start + 1, PAGE, linux::MADV_DONTNEED.into()]),
        );
        munmap([start + PAGE, PAGE]);
        say(
            "madvise over a hole",
            madvise([start, 4 * PAGE, linux::MADV_DONTNEED.into()]),
        );
        say(
            "madvise in the kernel",
            madvise([BAD[3], PAGE, linux::MADV_DONTNEED.into()]),
        );
        for advice in [0, 1, 2, 3, 8] {
            say("madvise", madvise([start, PAGE, advice]));
        }
        say(
            "madvise a hole to come",
            madvise([start + PAGE, PAGE, linux::MADV_WILLNEED.into()]),
        );
        say("msync", msync([start, PAGE, linux::MS_SYNC.into()]));
        say(
            "msync both ways",
            msync([start, PAGE, u64::from(linux::MS_SYNC | linux::MS_ASYNC)]),
        );
        say("msync unknown", msync([start, PAGE, 64]));
        say(
            "msync a hole",
            msync([start, 2 * PAGE, linux::MS_SYNC.into()]),
        );
        say(
            "msync at an odd place",
            msync([start + 1, PAGE, linux::MS_SYNC.into()]),
        );
        say("mlock", mlock([start, PAGE]));
        say("mlock an odd place", mlock([start + 5, 10]));
        say("mlock a hole", mlock([start + PAGE, PAGE]));
        say("munlock", munlock([start, PAGE]));
        say("mlockall unknown", mlockall([99]));
        let mut there = [9_u8; 4];
        put(start, 1);
        say("mincore", mincore([start, PAGE, to(&mut there)]));
        show("mincore", there);
        say(
            "mincore a hole",
            mincore([start + PAGE, PAGE, to(&mut there)]),
        );
        say(
            "mincore at an odd place",
            mincore([start + 1, PAGE, to(&mut there)]),
        );
        bad("mincore", |into| mincore([start, PAGE, into]));
    }
}

fn heap() {
    // SAFETY: as the list says.
    unsafe {
        let now = brk([0]);
        say(
            "brk grows",
            i64::from(brk([now as u64 + 5 * PAGE + 3]) == now + 5 * 4096 + 3),
        );
        put(now as u64 + 4 * PAGE, 8);
        say(
            "brk shrinks",
            i64::from(brk([now as u64 + PAGE]) == now + 4096),
        );
        say("brk below its start", i64::from(brk([PAGE]) == now + 4096));
        say(
            "brk into the kernel",
            i64::from(brk([BAD[3]]) == now + 4096),
        );
        say("brk too far", i64::from(brk([BAD[1]]) == now + 4096));
        brk([now as u64 + 5 * PAGE]);
        show("what was given back is zero", get(now as u64 + 4 * PAGE));
        brk([now as u64]);
    }
}

fn files() {
    // SAFETY: as the list says.
    unsafe {
        let f = file(c"mapped", &[b'm'; 5000]);
        let rights = linux::MAP_PRIVATE.into();
        let start = mmap([0, 3 * PAGE, BOTH, rights, f, 0]) as u64;
        show(
            "a file's bytes",
            (get(start), get(start + 4999), get(start + 5000)),
        );
        put(start, b'x');
        let mut byte = 0_u8;
        call(linux::__NR_pread64, &[f, to(&mut byte), 1, 0]);
        show("the file's own", byte);
        child("behind a file's last page", || get(start + 2 * PAGE).into());
        say(
            "read into behind a file's last page",
            read([open([at(c"/dev/zero"), 0]) as u64, start + 2 * PAGE, 1]),
        );
        let second = mmap([0, PAGE, READ, rights, f, PAGE]) as u64;
        show("from its second page", get(second));
        say(
            "far behind its end",
            place(mmap([0, PAGE, READ, rights, f, 1 << 40])),
        );
        say(
            "an offset that overflows",
            mmap([0, PAGE, READ, rights, f, !0xfff]),
        );
        let [r, _] = pipe(0);
        say("mmap a pipe", mmap([0, PAGE, READ, rights, r, 0]));
        say(
            "mmap a directory",
            mmap([0, PAGE, READ, rights, open([at(c"."), 0]) as u64, 0]),
        );
        let only = open([at(c"mapped"), 1]) as u64;
        say(
            "mmap what is open to write",
            mmap([0, PAGE, READ, rights, only, 0]),
        );
        let only = open([at(c"mapped"), 0]) as u64;
        say(
            "mmap to write what is open to read",
            place(mmap([0, PAGE, BOTH, rights, only, 0])),
        );
        say(
            "share to write what is open to read",
            mmap([0, PAGE, BOTH, linux::MAP_SHARED.into(), only, 0]),
        );
        say(
            "mmap zeros of a device",
            place(mmap([
                0,
                PAGE,
                BOTH,
                rights,
                open([at(c"/dev/zero"), 2]) as u64,
                0,
            ])),
        );
        call(linux::__NR_ftruncate, &[f, 0]);
    }
}

fn faults() {
    // SAFETY: as the list says.
    unsafe {
        let start = pages(2);
        child("a write where nothing is", || {
            munmap([start + PAGE, PAGE]);
            put(start + PAGE, 1);
            0
        });
        child("a read where nothing is", || get(BAD[0]).into());
        child("a read in the kernel", || get(BAD[3]).into());
        child("a read of no address", || get(BAD[2]).into());
        child("a write to what is read", || {
            mprotect([start, PAGE, READ]);
            put(start, 1);
            0
        });
        child("a jump into data", || {
            put(start, 0xc3);
            core::arch::asm!("call {}", in(reg) start);
            0
        });
        child("no instruction", || {
            core::arch::asm!("ud2");
            0
        });
        child("an instruction of the kernel's", || {
            core::arch::asm!("hlt");
            0
        });
        child("a port", || {
            core::arch::asm!("out 0x80, al");
            0
        });
        child("a division by 0", || {
            core::arch::asm!("xor ecx, ecx", "mov eax, 1", "xor edx, edx", "div ecx", out("eax") _, out("ecx") _, out("edx") _);
            0
        });
        child("a breakpoint", || {
            core::arch::asm!("int3");
            0
        });
        child("a jump to no address", || {
            core::arch::asm!("jmp {}", in(reg) BAD[2]);
            0
        });
        child("a stack that grows", || deep(200));
        child("a stack that grows too far", || deep(5000));
        child("a stack at no address", || {
            core::arch::asm!("mov rsp, {}", "push rax", in(reg) BAD[2]);
            0
        });
        child("another stack segment", || {
            core::arch::asm!("mov ax, 0xffff", "mov ss, ax", out("ax") _);
            0
        });
        child("a system call at the end of all", || {
            // What follows the call would lie beyond what a program may have.
            let page = mmap([0x7fff_ffff_e000, PAGE, BOTH, PRIVATE | FIXED, NO_FILE, 0]);
            if page < 0 {
                return 77;
            }
            put(0x7fff_ffff_effe, 0x0f);
            put(0x7fff_ffff_efff, 0x05);
            mprotect([0x7fff_ffff_e000, PAGE, READ | 4]);
            core::arch::asm!("jmp {}", in(reg) 0x7fff_ffff_effe_u64, in("rax") 39);
            0
        });
    }
}

/// Uses so many pages of the stack.
#[inline(never)]
fn deep(pages: u32) -> u64 {
    let bytes = core::hint::black_box([pages as u8; 4000]);
    if pages == 0 {
        return 0;
    }
    let left = deep(pages - 1);
    // It is there until the deeper ones have returned.
    core::hint::black_box(&bytes);
    left
}

fn copies() {
    // SAFETY: as the list says.
    unsafe {
        let start = pages(8);
        for page in 0..8 {
            put(start + page * PAGE, page as u8);
        }
        let forked = fork();
        if forked == 0 {
            for page in 0..8 {
                put(start + page * PAGE, 100);
            }
            linux_program::exit(get(start).into());
        }
        say("a child writes", wait(forked));
        show("the parent's own", (get(start), get(start + 7 * PAGE)));
        child("a child unmaps, protects and moves", || {
            munmap([start, PAGE]);
            mprotect([start + PAGE, PAGE, READ]);
            let moved = mremap([start + 2 * PAGE, PAGE, 2 * PAGE, 1]) as u64;
            get(moved).into()
        });
        show(
            "the parent has it all",
            (get(start), get(start + PAGE), get(start + 2 * PAGE)),
        );
        put(start + PAGE, 50);
    }
}
