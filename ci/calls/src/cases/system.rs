//! The system, users, limits and clocks.

use linux_raw_sys::general as linux;

use super::{bad, calls, child, say, show};
use crate::system::{at, call, to};

calls! {
    uname __NR_uname,
    sethostname __NR_sethostname,
    setdomainname __NR_setdomainname,
    getrandom __NR_getrandom,
    prlimit __NR_prlimit64,
    getrlimit __NR_getrlimit,
    setrlimit __NR_setrlimit,
    sysinfo __NR_sysinfo,
    getuid __NR_getuid,
    getresuid __NR_getresuid,
    getresgid __NR_getresgid,
    setuid __NR_setuid,
    setresuid __NR_setresuid,
    getgroups __NR_getgroups,
    setgroups __NR_setgroups,
    setfsuid __NR_setfsuid,
    capget __NR_capget,
    personality __NR_personality,
    getpriority __NR_getpriority,
    setpriority __NR_setpriority,
    ioprio_get __NR_ioprio_get,
    ioprio_set __NR_ioprio_set,
    yield_now __NR_sched_yield,
    getaffinity __NR_sched_getaffinity,
    setaffinity __NR_sched_setaffinity,
    getscheduler __NR_sched_getscheduler,
    getparam __NR_sched_getparam,
    priority_max __NR_sched_get_priority_max,
    getcpu __NR_getcpu,
    clock_gettime __NR_clock_gettime,
    clock_getres __NR_clock_getres,
    clock_nanosleep __NR_clock_nanosleep,
    nanosleep __NR_nanosleep,
    gettimeofday __NR_gettimeofday,
    time __NR_time,
    times __NR_times,
    getrusage __NR_getrusage,
    reboot __NR_reboot,
    sync __NR_sync,
}

pub(super) fn run() {
    names();
    users();
    limits();
    scheduling();
    clocks();
}

fn names() {
    // SAFETY: as the list says.
    unsafe {
        let mut name = [0_u8; 390];
        say("uname", uname([to(&mut name)]));
        show("uname", core::str::from_utf8(&name[..5]));
        bad("uname", |into| uname([into]));
        say("sethostname", sethostname([at(b"other"), 5]));
        uname([to(&mut name)]);
        show("sethostname", core::str::from_utf8(&name[65..71]));
        say("sethostname too long", sethostname([at(&[b'a'; 70]), 70]));
        say("sethostname below 0", sethostname([at(b"a"), u64::MAX]));
        bad("sethostname", |name| sethostname([name, 4]));
        say("setdomainname", setdomainname([at(b"domain"), 6]));
        let mut bytes = [0_u8; 300];
        say("getrandom", getrandom([to(&mut bytes), 300, 0]));
        say("getrandom nothing", getrandom([to(&mut bytes), 0, 0]));
        say("getrandom of flags", getrandom([to(&mut bytes), 1, 64]));
        say(
            "getrandom of flags against each other",
            getrandom([to(&mut bytes), 1, 2 | 4]),
        );
        bad("getrandom", |into| getrandom([into, 8, 0]));
        say(
            "getrandom over an edge",
            getrandom([super::edge() - 4, 8, 0]),
        );
        let mut info = [0_u64; 16];
        say("sysinfo", sysinfo([to(&mut info)]));
        show("sysinfo", (info[4] > 0, info[13] as u32));
        bad("sysinfo", |into| sysinfo([into]));
        say("personality", personality([0xffff_ffff]));
        child("personality of 32 bits", || {
            personality([8]);
            uname([to(&mut name)]);
            show("uname then", core::str::from_utf8(&name[260..266]));
            personality([0xffff_ffff]) as u64
        });
        say("reboot without the word", reboot([0, 0, 0]));
        say("sync", sync([]));
        say("a call that there never was", call(1000, &[]));
        say("a call below 0", call(u32::MAX, &[]));
    }
}

fn users() {
    // SAFETY: as the list says.
    unsafe {
        say("getuid", getuid([]));
        let mut three = [9_u32; 3];
        let [a, b, c] = &mut three;
        say("getresuid", getresuid([to(a), to(b), to(c)]));
        show("getresuid", three);
        bad("getresgid", |into| getresgid([into, into, into]));
        say("setuid", setuid([0]));
        say(
            "setresuid of nothing",
            setresuid([u64::MAX, u64::MAX, u64::MAX]),
        );
        say("setfsuid", setfsuid([0]));
        say("setgroups", setgroups([2, at(&[5_u32, 6])]));
        let mut groups = [0_u32; 4];
        say("getgroups", getgroups([4, to(&mut groups)]));
        show("getgroups", groups);
        say("how many groups", getgroups([0, 0]));
        say("getgroups into less", getgroups([1, to(&mut groups)]));
        say("getgroups below 0", getgroups([u64::MAX, to(&mut groups)]));
        say("setgroups too many", setgroups([65_537, at(&groups)]));
        bad("setgroups", |list| setgroups([1, list]));
        say("setgroups none", setgroups([0, 0]));
        let header = [0x2008_0522_u32, 0];
        let mut sets = [0_u32; 6];
        say("capget", capget([at(&header), to(&mut sets)]));
        show("capget", (sets[0], sets[1]));
        say(
            "capget of an unknown version",
            capget([to(&mut [1_u32, 0]), to(&mut sets)]),
        );
    }
}

fn limits() {
    // SAFETY: as the list says.
    unsafe {
        let mut limit = [0_u64; 2];
        say(
            "prlimit",
            prlimit([0, linux::RLIMIT_STACK.into(), 0, to(&mut limit)]),
        );
        show("the stack's", limit);
        say("prlimit unknown", prlimit([0, 99, 0, to(&mut limit)]));
        say("prlimit of nobody", prlimit([99_999, 3, 0, to(&mut limit)]));
        bad("prlimit", |new| prlimit([0, 3, new, 0]));
        bad("prlimit old", |old| prlimit([0, 3, 0, old]));
        say(
            "setrlimit",
            setrlimit([linux::RLIMIT_CORE.into(), at(&[0_u64, 0])]),
        );
        say(
            "setrlimit above its most",
            setrlimit([linux::RLIMIT_CORE.into(), at(&[5_u64, 1])]),
        );
        say(
            "getrlimit",
            getrlimit([linux::RLIMIT_CORE.into(), to(&mut limit)]),
        );
        show("getrlimit", limit);
        child("a limit on descriptors", || {
            let set = setrlimit([linux::RLIMIT_NOFILE.into(), at(&[8_u64, 64])]);
            let mut made = 0;
            while call(linux::__NR_dup, &[0]) >= 0 {
                made += 1;
            }
            show(
                "descriptors",
                (
                    set,
                    made,
                    call(linux::__NR_dup, &[0]),
                    call(linux::__NR_dup2, &[0, 8]),
                ),
            );
            getrlimit([linux::RLIMIT_NOFILE.into(), to(&mut limit)]);
            show("its limit", limit);
            0
        });
        child("a limit on file size", || {
            setrlimit([linux::RLIMIT_FSIZE.into(), at(&[10_u64, 100])]);
            let f = super::file(c"limited", b"12345678");
            show("up to it", super::write([f, at(b"abcdef"), 6]));
            super::write([f, at(b"x"), 1]);
            0
        });
        child("no limit is raised by who is none", || {
            prlimit([0, 3, at(&[100_u64, 50]), 0]).unsigned_abs()
        });
        let mut usage = [9_u64; 18];
        say("getrusage", getrusage([0, to(&mut usage)]));
        say(
            "getrusage of children",
            getrusage([u64::MAX, to(&mut usage)]),
        );
        say("getrusage unknown", getrusage([5, to(&mut usage)]));
        bad("getrusage", |into| getrusage([0, into]));
    }
}

fn scheduling() {
    // SAFETY: as the list says.
    unsafe {
        say("sched_yield", yield_now([]));
        say("getpriority", getpriority([0, 0]));
        say("getpriority unknown", getpriority([9, 0]));
        say("getpriority of nobody", getpriority([0, 99_999]));
        child("setpriority", || {
            say("setpriority", setpriority([0, 0, 5]));
            say("setpriority of nobody", setpriority([0, 99_999, 5]));
            say("setpriority unknown", setpriority([7, 0, 5]));
            getpriority([0, 0]) as u64
        });
        say("ioprio_get", ioprio_get([1, 0]));
        child("ioprio_set", || {
            say("ioprio_set", ioprio_set([1, 0, 2 << 13 | 3]));
            say("ioprio_set unknown", ioprio_set([1, 0, 7 << 13]));
            (ioprio_get([1, 0]) >> 8) as u64
        });
        let mut mask = [0_u64; 16];
        say("getaffinity of less", getaffinity([0, 4, to(&mut mask)]));
        say(
            "getaffinity",
            i64::from(getaffinity([0, 128, to(&mut mask)]) > 0),
        );
        show("this one", mask[0] & 1);
        say(
            "getaffinity of nobody",
            getaffinity([99_999, 128, to(&mut mask)]),
        );
        bad("getaffinity", |into| getaffinity([0, 128, into]));
        say("setaffinity", setaffinity([0, 8, at(&1_u64)]));
        say("setaffinity to none", setaffinity([0, 8, at(&0_u64)]));
        bad("setaffinity", |mask| setaffinity([0, 8, mask]));
        say("sched_getscheduler", getscheduler([0]));
        let mut parameter = 9_i32;
        say("sched_getparam", getparam([0, to(&mut parameter)]));
        show("sched_getparam", parameter);
        say("sched_get_priority_max", priority_max([1]));
        say("sched_get_priority_max of others", priority_max([0]));
        let mut number = [9_u32; 2];
        let [cpu, node] = &mut number;
        say("getcpu", getcpu([to(cpu), to(node), 0]));
        show("getcpu", number[1]);
    }
}

fn clocks() {
    // SAFETY: as the list says.
    unsafe {
        let mut two = [0_u64; 2];
        for clock in [0, 1, 2, 3, 4, 5, 6, 7, 11] {
            say("clock_gettime", clock_gettime([clock, to(&mut two)]));
        }
        say("clock_gettime unknown", clock_gettime([99, to(&mut two)]));
        bad("clock_gettime", |into| clock_gettime([1, into]));
        say("clock_getres", clock_getres([1, to(&mut two)]));
        say("clock_getres into nothing", clock_getres([1, 0]));
        bad("clock_getres", |into| clock_getres([1, into]));
        say("gettimeofday", gettimeofday([to(&mut two), 0]));
        say("gettimeofday of nothing", gettimeofday([0, 0]));
        bad("gettimeofday", |into| gettimeofday([into, 0]));
        bad("time", |into| time([into]));
        let mut seconds = 0_u64;
        show("time", time([to(&mut seconds)]) as u64 == seconds);
        bad("times", |into| times([into]));
        say("nanosleep", nanosleep([at(&[0_u64, 1000]), 0]));
        say(
            "nanosleep of too many nanoseconds",
            nanosleep([at(&[0_u64, 1_000_000_000]), 0]),
        );
        say("nanosleep below 0", nanosleep([at(&[u64::MAX, 0]), 0]));
        bad("nanosleep", |request| nanosleep([request, 0]));
        say(
            "clock_nanosleep to the past",
            clock_nanosleep([1, 1, at(&[0_u64, 1]), 0]),
        );
        say(
            "clock_nanosleep unknown",
            clock_nanosleep([99, 0, at(&[0_u64, 1]), 0]),
        );
        say(
            "clock_nanosleep of a thread's time",
            clock_nanosleep([3, 0, at(&[0_u64, 1]), 0]),
        );
        clock_gettime([1, to(&mut two)]);
        let mut later = [0_u64; 2];
        nanosleep([at(&[0_u64, 20_000_000]), 0]);
        clock_gettime([1, to(&mut later)]);
        let passed = (later[0] - two[0]) * 1_000_000_000 + later[1] - two[1];
        show(
            "twenty milliseconds",
            (20_000_000..2_000_000_000).contains(&passed),
        );
    }
}
