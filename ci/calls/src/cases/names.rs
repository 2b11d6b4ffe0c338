//! Names: what they lead to, and who may change them.

use linux_raw_sys::general as linux;

use super::{CLOSED, HERE, bad, calls, chdir, close, edge, file, mkdir, open, say, show, unlink};
use crate::system::{at, call, to};

calls! {
    stat __NR_stat,
    lstat __NR_lstat,
    fstatat __NR_newfstatat,
    statx __NR_statx,
    statfs __NR_statfs,
    fstatfs __NR_fstatfs,
    access __NR_access,
    faccessat __NR_faccessat,
    faccessat2 __NR_faccessat2,
    mkdirat __NR_mkdirat,
    mknod __NR_mknod,
    mknodat __NR_mknodat,
    rmdir __NR_rmdir,
    unlinkat __NR_unlinkat,
    symlink __NR_symlink,
    symlinkat __NR_symlinkat,
    link __NR_link,
    linkat __NR_linkat,
    rename __NR_rename,
    renameat2 __NR_renameat2,
    readlink __NR_readlink,
    readlinkat __NR_readlinkat,
    fchdir __NR_fchdir,
    getcwd __NR_getcwd,
    umask __NR_umask,
    chmod __NR_chmod,
    fchmod __NR_fchmod,
    fchmodat __NR_fchmodat,
    chown __NR_chown,
    lchown __NR_lchown,
    fchown __NR_fchown,
    fchownat __NR_fchownat,
    utimensat __NR_utimensat,
    utimes __NR_utimes,
    utime __NR_utime,
    chroot __NR_chroot,
    getdents __NR_getdents64,
    getxattr __NR_getxattr,
    mount __NR_mount,
    umount __NR_umount2,
}

/// Mode, links, user, group and size.
fn seen(stat: &[u64; 18]) -> (u32, u64, u32, u32, u64) {
    (
        stat[3] as u32,
        stat[2],
        (stat[3] >> 32) as u32,
        stat[4] as u32,
        stat[6],
    )
}

pub(super) fn run() {
    looking();
    directories();
    links();
    renames();
    attributes();
    times();
    places();
}

fn looking() {
    // SAFETY: as the list says.
    unsafe {
        let mut words = [0_u64; 64];
        let mut info = [0_u64; 18];
        close([file(c"seen", b"12345")]);
        say("stat", stat([at(c"seen"), to(&mut info)]));
        show("stat", seen(&info));
        say(
            "stat what is not there",
            stat([at(c"unseen"), to(&mut info)]),
        );
        bad("stat of a path", |path| stat([path, to(&mut words)]));
        bad("stat into", |into| stat([at(c"seen"), into]));
        say("stat of nothing", stat([at(c""), to(&mut info)]));
        say("stat below a file", stat([at(c"seen/x"), to(&mut info)]));
        say("stat with a slash", stat([at(c"seen/"), to(&mut info)]));
        symlink([at(c"seen"), at(c"way")]);
        say("lstat", lstat([at(c"way"), to(&mut info)]));
        show("lstat", seen(&info));
        say("stat through a link", stat([at(c"way"), to(&mut info)]));
        show("stat through a link", seen(&info));
        symlink([at(c"loop"), at(c"loop")]);
        say("stat a loop", stat([at(c"loop"), to(&mut info)]));
        say("open a loop", open([at(c"loop"), 0]));
        say(
            "open a link without following",
            open([at(c"way"), linux::O_NOFOLLOW.into()]),
        );
        say(
            "fstatat of no path",
            fstatat([HERE, at(c""), to(&mut info), 0]),
        );
        say(
            "fstatat of an empty path",
            fstatat([HERE, at(c""), to(&mut info), linux::AT_EMPTY_PATH.into()]),
        );
        say(
            "fstatat of unknown flags",
            fstatat([HERE, at(c"seen"), to(&mut info), 1 << 20]),
        );
        say(
            "fstatat of no directory",
            fstatat([CLOSED, at(c"seen"), to(&mut info), 0]),
        );
        say(
            "statx",
            statx([HERE, at(c"seen"), 0, 0xfff, to(&mut words)]),
        );
        show("statx", (words[2] as u32, words[5]));
        say(
            "statx of flags",
            statx([HERE, at(c"seen"), 1 << 20, 0xfff, to(&mut words)]),
        );
        say(
            "statx of a reserved mask",
            statx([HERE, at(c"seen"), 0, 1 << 31, to(&mut words)]),
        );
        bad("statx", |into| statx([HERE, at(c"seen"), 0, 0xfff, into]));
        say("statfs", statfs([at(c"."), to(&mut words)]));
        say("statfs of nothing", statfs([at(c"none"), to(&mut words)]));
        bad("statfs", |into| statfs([at(c"."), into]));
        say("fstatfs of nothing", fstatfs([CLOSED, to(&mut words)]));
        say("statfs of proc", statfs([at(c"/proc"), to(&mut words)]));
        show("statfs of proc", words[0]);
        say("access", access([at(c"seen"), 0]));
        say("access to run", access([at(c"seen"), 1]));
        say("access to read and write", access([at(c"seen"), 6]));
        say("access unknown", access([at(c"seen"), 8]));
        say("access what is not there", access([at(c"none"), 0]));
        say("access a directory to run", access([at(c"."), 1]));
        bad("access", |path| access([path, 0]));
        say("faccessat", faccessat([HERE, at(c"seen"), 4]));
        say(
            "faccessat2 of flags",
            faccessat2([HERE, at(c"seen"), 4, 1 << 20]),
        );
        say(
            "faccessat2 of a link",
            faccessat2([HERE, at(c"loop"), 0, linux::AT_SYMLINK_NOFOLLOW.into()]),
        );
        say(
            "getxattr",
            getxattr([at(c"seen"), at(c"user.x"), to(&mut words), 16]),
        );
    }
}

fn directories() {
    // SAFETY: as the list says.
    unsafe {
        say("mkdir", mkdir([at(c"dir"), 0o777]));
        say("mkdir again", mkdir([at(c"dir"), 0o777]));
        say(
            "mkdir below what is not there",
            mkdir([at(c"none/dir"), 0o777]),
        );
        say("mkdir below a file", mkdir([at(c"seen/dir"), 0o777]));
        say("mkdir .", mkdir([at(c"."), 0o777]));
        say("mkdir ..", mkdir([at(c"dir/.."), 0o777]));
        say("mkdir /", mkdir([at(c"/"), 0o777]));
        say("mkdir nothing", mkdir([at(c""), 0o777]));
        say("mkdir with slashes", mkdir([at(c"dir/sub//"), 0o700]));
        say("mkdir on a broken link", mkdir([at(c"loop"), 0o700]));
        bad("mkdir", |path| mkdir([path, 0o777]));
        say(
            "mkdirat of no directory",
            mkdirat([CLOSED, at(c"x"), 0o777]),
        );
        let mut info = [0_u64; 18];
        stat([at(c"dir"), to(&mut info)]);
        show("mkdir mode and links", (info[3] as u32, info[2]));
        say("rmdir what is not empty", rmdir([at(c"dir")]));
        say("rmdir", rmdir([at(c"dir/sub")]));
        say("rmdir again", rmdir([at(c"dir/sub")]));
        say("rmdir a file", rmdir([at(c"seen")]));
        say("rmdir .", rmdir([at(c"dir/.")]));
        say("rmdir ..", rmdir([at(c"dir/..")]));
        say("rmdir /", rmdir([at(c"/")]));
        say("unlink a directory", unlink([at(c"dir")]));
        say("unlink what is not there", unlink([at(c"none")]));
        say("unlink with a slash", unlink([at(c"seen/")]));
        say("unlink .", unlink([at(c".")]));
        bad("unlink", |path| unlink([path]));
        say("unlinkat of flags", unlinkat([HERE, at(c"dir"), 1]));
        say(
            "unlinkat of a directory",
            unlinkat([HERE, at(c"dir"), linux::AT_REMOVEDIR.into()]),
        );
        say(
            "mknod a file",
            mknod([at(c"node"), linux::S_IFREG as u64 | 0o600, 0]),
        );
        say(
            "mknod again",
            mknod([at(c"node"), linux::S_IFREG as u64 | 0o600, 0]),
        );
        say(
            "mknod a directory",
            mknod([at(c"n2"), linux::S_IFDIR as u64 | 0o600, 0]),
        );
        say(
            "mknod a link",
            mknod([at(c"n3"), linux::S_IFLNK as u64 | 0o600, 0]),
        );
        say(
            "mknod a pipe",
            mknod([at(c"n4"), linux::S_IFIFO as u64 | 0o600, 0]),
        );
        say(
            "mknod a socket",
            mknod([at(c"n5"), linux::S_IFSOCK as u64 | 0o600, 0]),
        );
        say(
            "mknod a device",
            mknod([at(c"n6"), linux::S_IFCHR as u64 | 0o600, 0x103]),
        );
        say("mknod of no kind", mknod([at(c"n7"), 0o600, 0]));
        say("mknod of an unknown kind", mknod([at(c"n8"), 0o170_600, 0]));
        say(
            "mknodat of no directory",
            mknodat([CLOSED, at(c"x"), 0o600, 0]),
        );
        say("open a socket's name", open([at(c"n5"), 0]));
        say("open a device without a driver", {
            mknod([at(c"n9"), linux::S_IFCHR as u64 | 0o600, 0xfe_17]);
            open([at(c"n9"), 0])
        });
        say(
            "open a pipe to write, nobody reading",
            open([at(c"n4"), u64::from(linux::O_WRONLY | linux::O_NONBLOCK)]),
        );
        say(
            "open a pipe to read",
            open([at(c"n4"), linux::O_NONBLOCK.into()]),
        );
        listing();
    }
}

/// What a directory's list has, by name and kind.
fn listing() {
    // SAFETY: as the list says.
    unsafe {
        mkdir([at(c"list"), 0o755]);
        close([file(c"list/a", b"")]);
        mkdir([at(c"list/b"), 0o755]);
        symlink([at(c"x"), at(c"list/c")]);
        let dir = open([at(c"list"), linux::O_DIRECTORY.into()]) as u64;
        let mut bytes = [0_u8; 512];
        let got = getdents([dir, to(&mut bytes), 512]);
        let (mut place, mut names, mut sum) = (0, 0, 0_u64);
        while (place as i64) < got {
            let length = usize::from(u16::from_le_bytes([bytes[place + 16], bytes[place + 17]]));
            let kind = bytes[place + 18];
            let name = bytes[place + 19];
            sum += u64::from(kind) * u64::from(name);
            names += 1;
            place += length;
        }
        show("getdents bytes, names and kinds", (got, names, sum));
        say("getdents at the end", getdents([dir, to(&mut bytes), 512]));
        say("getdents anew", {
            super::lseek([dir, 0, 0]);
            getdents([dir, to(&mut bytes), 512])
        });
        unlink([at(c"list/a")]);
        unlink([at(c"list/c")]);
        rmdir([at(c"list/b")]);
        say("rmdir what is open", rmdir([at(c"list")]));
        say("getdents of what is gone", {
            super::lseek([dir, 0, 0]);
            getdents([dir, to(&mut bytes), 512])
        });
        say(
            "openat below what is gone",
            call(
                linux::__NR_openat,
                &[dir, at(c"x"), linux::O_CREAT.into(), 0o600],
            ),
        );
        say("fchdir to what is gone", fchdir([dir]));
        say("getcwd of what is gone", getcwd([to(&mut bytes), 512]));
        chdir([at(c"/tmp/calls")]);
    }
}

fn links() {
    // SAFETY: as the list says.
    unsafe {
        let mut bytes = [0_u8; 64];
        say("symlink", symlink([at(c"target"), at(c"soft")]));
        say("symlink again", symlink([at(c"target"), at(c"soft")]));
        say("symlink to nothing", symlink([at(c""), at(c"soft2")]));
        say("symlink at nothing", symlink([at(c"x"), at(c"")]));
        bad("symlink", |path| symlink([path, at(c"soft3")]));
        say(
            "symlinkat of no directory",
            symlinkat([at(c"x"), CLOSED, at(c"y")]),
        );
        say("readlink", readlink([at(c"soft"), to(&mut bytes), 64]));
        say(
            "readlink into less",
            readlink([at(c"soft"), to(&mut bytes), 3]),
        );
        say(
            "readlink into nothing",
            readlink([at(c"soft"), to(&mut bytes), 0]),
        );
        say(
            "readlink of a file",
            readlink([at(c"seen"), to(&mut bytes), 64]),
        );
        say(
            "readlink of nothing",
            readlink([at(c""), to(&mut bytes), 64]),
        );
        bad("readlink", |into| readlink([at(c"soft"), into, 64]));
        say(
            "readlinkat of no directory",
            readlinkat([CLOSED, at(c"soft"), to(&mut bytes), 64]),
        );
        say("open a broken link", open([at(c"soft"), 0]));
        say(
            "create through a link",
            open([at(c"soft"), linux::O_CREAT.into(), 0o600]),
        );
        say(
            "create a link's name",
            open([
                at(c"soft"),
                u64::from(linux::O_CREAT | linux::O_EXCL),
                0o600,
            ]),
        );
        say("link", link([at(c"seen"), at(c"hard")]));
        say("link again", link([at(c"seen"), at(c"hard")]));
        say("link a directory", link([at(c"."), at(c"hard2")]));
        say("link what is not there", link([at(c"none"), at(c"hard3")]));
        bad("link", |path| link([at(c"seen"), path]));
        say("link a link", link([at(c"soft"), at(c"hard4")]));
        say(
            "linkat of flags",
            linkat([HERE, at(c"seen"), HERE, at(c"h5"), 1]),
        );
        say(
            "linkat following",
            linkat([
                HERE,
                at(c"soft"),
                HERE,
                at(c"h6"),
                linux::AT_SYMLINK_FOLLOW.into(),
            ]),
        );
        let mut info = [0_u64; 18];
        stat([at(c"seen"), to(&mut info)]);
        show("links", info[2]);
    }
}

fn renames() {
    // SAFETY: as the list says.
    unsafe {
        close([file(c"old", b"old")]);
        close([file(c"target2", b"new")]);
        mkdir([at(c"d1"), 0o755]);
        mkdir([at(c"d1/d2"), 0o755]);
        mkdir([at(c"empty"), 0o755]);
        say("rename", rename([at(c"old"), at(c"new")]));
        say("rename what is not there", rename([at(c"old"), at(c"new")]));
        say("rename over", rename([at(c"new"), at(c"target2")]));
        say("rename to itself", rename([at(c"target2"), at(c"target2")]));
        say(
            "rename over a directory",
            rename([at(c"target2"), at(c"empty")]),
        );
        say(
            "rename a directory over a file",
            rename([at(c"empty"), at(c"target2")]),
        );
        say(
            "rename a directory below itself",
            rename([at(c"d1"), at(c"d1/d2/x")]),
        );
        say(
            "rename a directory over its parent",
            rename([at(c"d1/d2"), at(c"d1")]),
        );
        say(
            "rename a directory over an empty one",
            rename([at(c"d1/d2"), at(c"empty")]),
        );
        say("rename .", rename([at(c"."), at(c"x")]));
        say("rename to ..", rename([at(c"empty"), at(c"d1/..")]));
        say("rename /", rename([at(c"/"), at(c"x")]));
        say("rename with a slash", rename([at(c"target2/"), at(c"x")]));
        say("rename to a slash", rename([at(c"target2"), at(c"x/")]));
        bad("rename", |path| rename([at(c"target2"), path]));
        say(
            "rename to another file system",
            rename([at(c"target2"), at(c"/proc/x")]),
        );
        let noreplace = u64::from(linux::RENAME_NOREPLACE);
        say(
            "rename without replacing",
            renameat2([HERE, at(c"target2"), HERE, at(c"seen"), noreplace]),
        );
        let exchange = u64::from(linux::RENAME_EXCHANGE);
        say(
            "exchange",
            renameat2([HERE, at(c"target2"), HERE, at(c"d1"), exchange]),
        );
        say(
            "exchange with nothing",
            renameat2([HERE, at(c"target2"), HERE, at(c"none"), exchange]),
        );
        say(
            "exchange without replacing",
            renameat2([HERE, at(c"target2"), HERE, at(c"d1"), exchange | noreplace]),
        );
        say(
            "rename of flags",
            renameat2([HERE, at(c"target2"), HERE, at(c"d1"), 1 << 10]),
        );
    }
}

fn attributes() {
    // SAFETY: as the list says.
    unsafe {
        let f = file(c"attr", b"");
        let mut info = [0_u64; 18];
        say("chmod", chmod([at(c"attr"), 0o4751]));
        say("chmod what is not there", chmod([at(c"none"), 0o600]));
        bad("chmod", |path| chmod([path, 0o600]));
        say("fchmod", fchmod([f, 0o7777]));
        say("fchmod of nothing", fchmod([CLOSED, 0o600]));
        say("fchmodat", fchmodat([HERE, at(c"attr"), 0o4755]));
        say("chown", chown([at(c"attr"), 5, 6]));
        stat([at(c"attr"), to(&mut info)]);
        show("chown takes set-user-id", seen(&info));
        say("chown of nobody", chown([at(c"attr"), u64::MAX, u64::MAX]));
        say("lchown", lchown([at(c"soft"), 7, 8]));
        say("fchown", fchown([f, 1, u64::from(u32::MAX)]));
        say("fchown of nothing", fchown([CLOSED, 0, 0]));
        say("fchownat of flags", fchownat([HERE, at(c"attr"), 0, 0, 1]));
        say(
            "fchownat by descriptor",
            fchownat([f, at(c""), 3, 3, linux::AT_EMPTY_PATH.into()]),
        );
        stat([at(c"attr"), to(&mut info)]);
        show("all of it", seen(&info));
        say("umask", umask([0o77]));
        say("umask gives the old", umask([0o1022]));
        say("umask has nine bits", umask([0o22]));
        say("writing takes set-user-id", {
            chmod([at(c"attr"), 0o6777]);
            super::write([f, at(b"x"), 1])
        });
        stat([at(c"attr"), to(&mut info)]);
        show("for one who may everything", info[3] as u32);
    }
}

fn times() {
    // SAFETY: as the list says.
    unsafe {
        let f = file(c"time", b"");
        let mut info = [0_u64; 18];
        say(
            "utimensat",
            utimensat([HERE, at(c"time"), at(&[1_u64, 2, 3, 4]), 0]),
        );
        stat([at(c"time"), to(&mut info)]);
        show("utimensat", (info[9], info[10], info[11], info[12]));
        say(
            "utimensat omits",
            utimensat([HERE, at(c"time"), at(&[9_u64, 0x3fff_fffe, 8, 5]), 0]),
        );
        stat([at(c"time"), to(&mut info)]);
        show("utimensat omits", (info[9], info[10], info[11], info[12]));
        say(
            "utimensat of no nanoseconds",
            utimensat([HERE, at(c"time"), at(&[0_u64, 1_000_000_000, 0, 0]), 0]),
        );
        say("utimensat of flags", utimensat([HERE, at(c"time"), 0, 1]));
        say(
            "utimensat of a descriptor",
            utimensat([f, 0, at(&[5_u64, 0, 6, 0]), 0]),
        );
        say("utimensat of nothing", utimensat([CLOSED, 0, 0, 0]));
        say(
            "utimensat of what is not there",
            utimensat([HERE, at(c"none"), 0, 0]),
        );
        bad("utimensat", |times| {
            utimensat([HERE, at(c"time"), times, 0])
        });
        say(
            "utimes",
            utimes([at(c"time"), at(&[11_u64, 500_000, 12, 0])]),
        );
        say(
            "utimes of a million",
            utimes([at(c"time"), at(&[11_u64, 1_000_000, 12, 0])]),
        );
        say("utime", utime([at(c"time"), at(&[21_u64, 22])]));
        stat([at(c"time"), to(&mut info)]);
        show("utime", (info[9], info[11]));
    }
}

fn places() {
    // SAFETY: as the list says.
    unsafe {
        let mut bytes = [0_u8; 4096];
        say("getcwd", getcwd([to(&mut bytes), 4096]));
        show("getcwd", core::str::from_utf8(&bytes[..10]));
        say("getcwd into less", getcwd([to(&mut bytes), 10]));
        say("getcwd into nothing", getcwd([to(&mut bytes), 0]));
        bad("getcwd", |into| getcwd([into, 100]));
        say("getcwd over an edge", getcwd([edge() - 4, 100]));
        say("chdir to a file", chdir([at(c"seen")]));
        say("chdir to what is not there", chdir([at(c"none")]));
        bad("chdir", |path| chdir([path]));
        say("fchdir to a file", fchdir([file(c"nodir", b"")]));
        say("fchdir of nothing", fchdir([CLOSED]));
        say("chroot to a file", chroot([at(c"seen")]));
        mkdir([at(c"jail"), 0o755]);
        say("chroot", chroot([at(c"jail")]));
        say("outside of the root", getcwd([to(&mut bytes), 4096]));
        show("outside of the root", core::str::from_utf8(&bytes[..13]));
        say("chdir inside", chdir([at(c"/")]));
        say("above the root", chdir([at(c"..")]));
        say("the root", getcwd([to(&mut bytes), 4096]));
        say(
            "mount of an unknown kind",
            mount([at(c"x"), at(c"/"), at(c"nokind"), 0, 0]),
        );
        say(
            "mount at nothing",
            mount([at(c"x"), at(c"/none"), at(c"tmpfs"), 0, 0]),
        );
        say(
            "mount",
            mount([
                at(c"x"),
                {
                    mkdir([at(c"/mnt"), 0o755]);
                    at(c"/mnt")
                },
                at(c"tmpfs"),
                0,
                0,
            ]),
        );
        say(
            "make a file there",
            open([at(c"/mnt/file"), linux::O_CREAT.into(), 0o600]),
        );
        say("umount what is used", umount([at(c"/mnt"), 0]));
        close([3]);
        close([4]);
        say("umount what is no mount", umount([at(c"/"), 0]));
        bad("umount", |path| umount([path, 0]));
    }
}
