//! What is read and written, and where.

use linux_raw_sys::general as linux;

use super::{
    BAD, CLOSED, HERE, NOWHERE, PAGE, bad, calls, close, edge, file, lseek, open, pipe, read, say,
    show, write,
};
use crate::system::{at, call, to};

calls! {
    pread __NR_pread64,
    pwrite __NR_pwrite64,
    readv __NR_readv,
    writev __NR_writev,
    preadv __NR_preadv,
    pwritev __NR_pwritev,
    ftruncate __NR_ftruncate,
    truncate __NR_truncate,
    fallocate __NR_fallocate,
    fadvise __NR_fadvise64,
    sendfile __NR_sendfile,
    copy_range __NR_copy_file_range,
    fsync __NR_fsync,
    readahead __NR_readahead,
    getdents __NR_getdents64,
    fstat __NR_fstat,
    creat __NR_creat,
    openat __NR_openat,
    fcntl __NR_fcntl,
}

pub(super) fn run() {
    opening();
    moving();
    vectors();
    sizes();
    ends();
    devices();
    copies();
}

fn opening() {
    // SAFETY: as the list says.
    unsafe {
        say("open what is not there", open([at(c"missing"), 0]));
        say("open nothing", open([at(c""), 0]));
        bad("open", |path| open([path, 0]));
        say("creat", creat([at(c"made"), 0o600]));
        say(
            "open exclusively",
            open([
                at(c"made"),
                u64::from(linux::O_CREAT | linux::O_EXCL),
                0o600,
            ]),
        );
        say(
            "open a file as a directory",
            open([at(c"made"), linux::O_DIRECTORY.into()]),
        );
        say("open below a file", open([at(c"made/x"), 0]));
        say(
            "open a directory to write",
            open([at(c"."), linux::O_WRONLY.into()]),
        );
        say(
            "create a directory by open",
            open([at(c"."), linux::O_CREAT.into(), 0o644]),
        );
        say(
            "open with a slash behind",
            open([at(c"new/"), linux::O_CREAT.into(), 0o644]),
        );
        say("both ways of writing", open([at(c"made"), 3]));
        let long = [b'x'; 256];
        let mut name = [0_u8; 300];
        name[..256].copy_from_slice(&long);
        say("open a name of 256", open([at(&name), 0]));
        name[255] = 0;
        say("open a name of 255", open([at(&name), 0]));
        let path = [b'/'; 4096];
        say("open a path of 4096", open([at(&path), 0]));
        let mut path = [b'/'; 4096];
        path[4095] = 0;
        say(
            "open a path of 4095",
            open([at(&path), linux::O_DIRECTORY.into()]),
        );
        // A path that ends where memory does.
        let edge = edge();
        core::ptr::with_exposed_provenance_mut::<u8>(edge as usize - 2).write(b'/');
        say("open a path that ends with its page", open([edge - 2, 0]));
        core::ptr::with_exposed_provenance_mut::<u8>(edge as usize - 1).write(b'/');
        say("open a path that leaves its page", open([edge - 1, 0]));
        say("openat of no directory", openat([CLOSED, at(c"x"), 0]));
        say(
            "openat of a path from the root",
            openat([CLOSED, at(c"/dev/null"), 0]),
        );
        let made = open([at(c"made"), 0]) as u64;
        say("openat below a file", openat([made, at(c"x"), 0]));
        say("open O_PATH", open([at(c"made"), linux::O_PATH.into()]));
        let path_only = open([at(c"made"), linux::O_PATH.into()]) as u64;
        say("read by O_PATH", read([path_only, NOWHERE, 1]));
        let mut stat = [0_u64; 18];
        say("fstat by O_PATH", fstat([path_only, to(&mut stat)]));
        say("ftruncate by O_PATH", ftruncate([path_only, 0]));
        say(
            "O_NOFOLLOW of a file",
            open([at(c"made"), linux::O_NOFOLLOW.into()]),
        );
        say(
            "openat of unknown flags",
            openat([HERE, at(c"made"), 1 << 31]),
        );
    }
}

fn moving() {
    // SAFETY: as the list says.
    unsafe {
        let f = file(c"data", b"0123456789");
        say("lseek start", lseek([f, 3, 0]));
        let mut bytes = [0_u8; 16];
        say("read 4", read([f, to(&mut bytes), 4]));
        show("read 4", &bytes[..4]);
        say("lseek from here", lseek([f, u64::MAX, 1]));
        say("lseek from the end", lseek([f, (-2_i64) as u64, 2]));
        say("read to the end", read([f, to(&mut bytes), 16]));
        say("read at the end", read([f, to(&mut bytes), 16]));
        say("lseek before the start", lseek([f, (-1_i64) as u64, 0]));
        say("lseek unknown", lseek([f, 0, 9]));
        say("lseek data", lseek([f, 0, 3]));
        say("lseek hole", lseek([f, 0, 4]));
        say("lseek data behind", lseek([f, 100, 3]));
        say("lseek far", lseek([f, i64::MAX as u64, 0]));
        say("write far", write([f, at(&bytes), 1]));
        say("lseek back", lseek([f, 0, 0]));
        say("lseek of nothing", lseek([CLOSED, 0, 0]));
        bad("read", |to| read([f, to, 4]));
        bad("write", |from| write([f, from, 4]));
        say("read nothing at a bad address", read([f, BAD[3], 0]));
        say("write nothing at a bad address", write([f, BAD[3], 0]));
        say("read by no descriptor", read([CLOSED, to(&mut bytes), 1]));
        say("read by -1", read([u64::MAX, to(&mut bytes), 1]));
        say("write by no descriptor", write([CLOSED, at(&bytes), 1]));
        let edge = edge();
        say("read over an edge", read([f, edge - 4, 10]));
        say("where that left it", lseek([f, 0, 1]));
        say("write over an edge", write([f, edge - 4, 10]));
        say("pread", pread([f, to(&mut bytes), 4, 2]));
        say("pread before", pread([f, to(&mut bytes), 4, u64::MAX]));
        say("pread behind", pread([f, to(&mut bytes), 4, 1000]));
        say("pwrite", pwrite([f, at(b"xy"), 2, 1]));
        say("pwrite before", pwrite([f, at(b"xy"), 2, u64::MAX]));
        say("pwrite a hole", pwrite([f, at(b"z"), 1, 5000]));
        say("pread a hole", pread([f, to(&mut bytes), 8, 4000]));
        show("a hole", &bytes[..8]);
        let only = open([at(c"data"), linux::O_WRONLY.into()]) as u64;
        say(
            "read what is open to write",
            read([only, to(&mut bytes), 1]),
        );
        say(
            "pread what is open to write",
            pread([only, to(&mut bytes), 1, 0]),
        );
        let only = open([at(c"data"), 0]) as u64;
        say("write what is open to read", write([only, at(&bytes), 1]));
        say("ftruncate what is open to read", ftruncate([only, 1]));
        let append = open([at(c"data"), u64::from(linux::O_RDWR | linux::O_APPEND)]) as u64;
        say("write appends", write([append, at(b"end"), 3]));
        say("where append is", lseek([append, 0, 1]));
        say("pwrite appends", pwrite([append, at(b"!"), 1, 0]));
        say("size then", lseek([append, 0, 2]));
        let dir = open([at(c"."), 0]) as u64;
        say("read a directory", read([dir, to(&mut bytes), 4]));
        say("pread a directory", pread([dir, to(&mut bytes), 4, 0]));
        say("getdents of a file", getdents([f, to(&mut bytes), 16]));
        say("getdents too small", getdents([dir, to(&mut bytes), 16]));
        bad("getdents", |to| getdents([dir, to, 4096]));
        let [r, w] = pipe(0);
        say("lseek of a pipe", lseek([r, 0, 0]));
        say("pread of a pipe", pread([r, to(&mut bytes), 1, 0]));
        say("pwrite of a pipe", pwrite([w, at(&bytes), 1, 0]));
        say("read the writing end", read([w, to(&mut bytes), 1]));
        say("write the reading end", write([r, at(&bytes), 1]));
        close([f]);
        say("read what was closed", read([f, to(&mut bytes), 1]));
    }
}

fn vectors() {
    // SAFETY: as the list says.
    unsafe {
        let f = file(c"vector", b"");
        let (mut one, mut two) = ([0_u8; 4], [0_u8; 8]);
        let list = [at(b"abc"), 3, at(b""), 0, at(b"defgh"), 5];
        say("writev", writev([f, at(&list), 3]));
        lseek([f, 0, 0]);
        let list = [to(&mut one), 4, to(&mut two), 8];
        say("readv", readv([f, at(&list), 2]));
        show("readv", (one, two));
        say("readv of nothing", readv([f, at(&list), 0]));
        say("readv of too many", readv([f, at(&list), 1025]));
        say("readv of -1", readv([f, at(&list), u64::MAX]));
        bad("readv", |list| readv([f, list, 1]));
        let wrong = [to(&mut one), u64::MAX];
        say("readv of a length below 0", readv([f, at(&wrong), 1]));
        let late = [at(b"ok"), 2, NOWHERE, 4];
        say("writev with a bad second part", writev([f, at(&late), 2]));
        let first = [NOWHERE, 4, at(b"ok"), 2];
        say("writev with a bad first part", writev([f, at(&first), 2]));
        let empty = [NOWHERE, 0, at(b"ok"), 2];
        say("writev with an empty bad part", writev([f, at(&empty), 2]));
        say("preadv", preadv([f, at(&list), 2, 1, 0]));
        say(
            "preadv before",
            preadv([f, at(&list), 2, u64::MAX, u64::MAX]),
        );
        say("pwritev", pwritev([f, at(&list), 1, 3, 0]));
        let [r, w] = pipe(linux::O_NONBLOCK);
        say("writev a pipe", writev([w, at(&list), 2]));
        say("readv a pipe", readv([r, at(&list), 2]));
        say("readv an empty pipe", readv([r, at(&list), 2]));
        say("preadv a pipe", preadv([r, at(&list), 2, 0, 0]));
    }
}

fn sizes() {
    // SAFETY: as the list says.
    unsafe {
        let f = file(c"size", b"0123456789");
        say("ftruncate", ftruncate([f, 4]));
        say("ftruncate larger", ftruncate([f, 9000]));
        say("ftruncate below 0", ftruncate([f, u64::MAX]));
        say("ftruncate of nothing", ftruncate([CLOSED, 0]));
        let mut stat = [0_u64; 18];
        fstat([f, to(&mut stat)]);
        show("size", stat[6]);
        say("truncate", truncate([at(c"size"), 100]));
        say("truncate what is not there", truncate([at(c"none"), 0]));
        say("truncate a directory", truncate([at(c"."), 0]));
        say("truncate below 0", truncate([at(c"size"), u64::MAX]));
        bad("truncate", |path| truncate([path, 0]));
        let [r, _] = pipe(0);
        say("ftruncate a pipe", ftruncate([r, 0]));
        say("fallocate", fallocate([f, 0, 0, 10_000]));
        say("fallocate nothing", fallocate([f, 0, 0, 0]));
        say("fallocate before", fallocate([f, 0, u64::MAX, 5]));
        say("fallocate a pipe", fallocate([r, 0, 0, 1]));
        say("fallocate and keep the size", fallocate([f, 1, 0, 20_000]));
        say("punch a hole", fallocate([f, 3, 0, 4096]));
        say("punch without keeping", fallocate([f, 2, 0, 4096]));
        say("fallocate unknown", fallocate([f, 1 << 20, 0, 1]));
        say("fallocate of nothing", fallocate([CLOSED, 0, 0, 1]));
        fstat([f, to(&mut stat)]);
        show("size", stat[6]);
        say("fadvise", fadvise([f, 0, 0, 0]));
        say("fadvise unknown", fadvise([f, 0, 0, 77]));
        say("fadvise of nothing", fadvise([CLOSED, 0, 0, 0]));
        say("fadvise a pipe", fadvise([r, 0, 0, 0]));
        say("fsync", fsync([f]));
        say("fsync of nothing", fsync([CLOSED]));
        say("fsync a pipe", fsync([r]));
        say("readahead", readahead([f, 0, 100]));
        bad("fstat", |to| fstat([f, to]));
        say("fstat of nothing", fstat([CLOSED, to(&mut stat)]));
    }
}

fn ends() {
    // SAFETY: as the list says.
    unsafe {
        let [r, w] = pipe(linux::O_NONBLOCK);
        let mut bytes = [0_u8; 64];
        say("read an empty pipe", read([r, to(&mut bytes), 4]));
        say("write a pipe", write([w, at(b"abcdef"), 6]));
        say("read a part", read([r, to(&mut bytes), 4]));
        say("read the rest", read([r, to(&mut bytes), 64]));
        bad("pipe read", |to| {
            write([w, at(b"q"), 1]);
            read([r, to, 1])
        });
        bad("pipe write", |from| write([w, from, 1]));
        while read([r, to(&mut bytes), 64]) > 0 {}
        let page = [b'p'; 4096];
        let mut held = 0;
        while write([w, at(&page), 4096]) == 4096 {
            held += 4096;
        }
        show("a pipe holds", held);
        say("write a full pipe", write([w, at(&page), 1]));
        say("size of a pipe", fcntl([w, linux::F_GETPIPE_SZ.into()]));
        read([r, to(&mut [0_u8; 4096]), 4096]);
        say(
            "write what fits in part",
            write([w, at(&[0_u8; 8192]), 8192]),
        );
        say(
            "make a pipe larger",
            fcntl([w, linux::F_SETPIPE_SZ.into(), 200_000]),
        );
        say(
            "make a pipe too small for what it holds",
            fcntl([w, linux::F_SETPIPE_SZ.into(), 1]),
        );
        say(
            "size of a file as a pipe",
            fcntl([file(c"nopipe", b""), linux::F_GETPIPE_SZ.into()]),
        );
        close([w]);
        let mut all = 0;
        loop {
            match read([r, to(&mut [0_u8; 4096]), 4096]) {
                0 => break,
                got => all += got,
            }
        }
        show("read until the end", all);
        say("read behind the end", read([r, to(&mut bytes), 1]));
    }
}

fn devices() {
    // SAFETY: as the list says.
    unsafe {
        let mut bytes = [1_u8; 64];
        let null = open([at(c"/dev/null"), 2]) as u64;
        say("read null", read([null, to(&mut bytes), 64]));
        say("lseek null", lseek([null, 77, 0]));
        let zero = open([at(c"/dev/zero"), 2]) as u64;
        say("read zero", read([zero, to(&mut bytes), 64]));
        show("zero", bytes.iter().all(|byte| *byte == 0));
        let rights = (linux::PROT_READ | linux::PROT_WRITE).into();
        let flags = (linux::MAP_PRIVATE | linux::MAP_ANONYMOUS).into();
        let much = super::mmap([0, 1 << 20, rights, flags, u64::MAX, 0]) as u64;
        say("read a mebibyte of zero", read([zero, much, 1 << 20]));
        let random = open([at(c"/dev/urandom"), 0]) as u64;
        say("read a mebibyte of random", read([random, much, 1 << 20]));
        say("write a mebibyte to null", write([null, much, 1 << 20]));
        let f = file(c"much", b"");
        say("write a mebibyte to a file", write([f, much, 1 << 20]));
        say("read a mebibyte of a file", pread([f, much, 1 << 20, 5]));
        bad("read zero", |to| read([zero, to, 8]));
        let full = open([at(c"/dev/full"), 2]) as u64;
        say("write full", write([full, at(&bytes), 1]));
        say("read full", read([full, to(&mut bytes), 4]));
        let random = open([at(c"/dev/urandom"), 0]) as u64;
        say("read random", read([random, to(&mut bytes), 33]));
        say("a device as a directory", open([at(c"/dev/null/x"), 0]));
        say("ftruncate a device", ftruncate([null, 0]));
        say(
            "ioctl of a file that has none",
            call(linux::__NR_ioctl, &[f, 0x5401, to(&mut bytes)]),
        );
        say(
            "ioctl of no descriptor",
            call(linux::__NR_ioctl, &[CLOSED, 0x5401, 0]),
        );
        let mut left = 0_i32;
        lseek([f, 0, 0]);
        say(
            "FIONREAD of a file",
            call(linux::__NR_ioctl, &[f, 0x541b, to(&mut left)]),
        );
        show("FIONREAD", left);
    }
}

fn copies() {
    // SAFETY: as the list says.
    unsafe {
        let from = file(c"from", &[7; 5000]);
        let into = file(c"into", b"");
        let mut place = 1000_i64;
        say("sendfile", sendfile([into, from, to(&mut place), 2000]));
        show("sendfile", place);
        say("sendfile from its place", sendfile([into, from, 0, 10]));
        lseek([from, 0, 0]);
        say("sendfile all", sendfile([into, from, 0, PAGE * 4]));
        say("sendfile at the end", sendfile([into, from, 0, 10]));
        bad("sendfile", |place| sendfile([into, from, place, 10]));
        let [r, w] = pipe(0);
        lseek([from, 0, 0]);
        say("sendfile to a pipe", sendfile([w, from, 0, 100]));
        say("sendfile from a pipe", sendfile([into, r, 0, 10]));
        say("sendfile of nothing", sendfile([into, CLOSED, 0, 10]));
        let only = open([at(c"into"), 0]) as u64;
        say(
            "sendfile to what is open to read",
            sendfile([only, from, 0, 10]),
        );
        let mut place = -1_i64;
        say(
            "sendfile from before",
            sendfile([into, from, to(&mut place), 10]),
        );
        lseek([from, 0, 0]);
        say("copy_file_range", copy_range([from, 0, into, 0, 100, 0]));
        say(
            "copy_file_range of flags",
            copy_range([from, 0, into, 0, 100, 1]),
        );
        say(
            "copy_file_range of nothing",
            copy_range([CLOSED, 0, into, 0, 100, 0]),
        );
    }
}
