//! System calls at random: numbers that there are, arguments that make sense now and then, in processes
//! that may die of it.
//!
//! The first process makes children, one after the other; each makes calls until it has had its share,
//! ends itself or is ended. What one child drew does not depend on how the one before it ended, so that
//! `SEED` and the number of a child say all that it did. Calls are counted as they are made: a child that
//! dies of its first ones counts as no more.

use linux_program::{exit, print};
use linux_raw_sys::general as linux;

use crate::system::{at, call, fork, to};

/// Calls of one child.
const SHARE: u64 = 200;
/// Milliseconds that a child gets; one that waits for ever is ended.
const PATIENCE: u64 = 100;
/// Looks for what came of a child, with naps of 200 microseconds between them: there may be hundreds, on a
/// machine that does something else.
const PATIENCE_FOR_ALL: u64 = 10_000;
/// Calls that a child counts together, by a byte in a pipe.
const COUNTED: u64 = 8;
/// The descriptor of that pipe, which no small number at random is.
const COUNTER: u64 = 1000;
/// Bytes of memory that calls may write to.
const ROOM: usize = 16 << 10;
/// Numbers of calls that are drawn, one behind the last.
const NUMBERS: u64 = 462;

/// Calls that would end the whole run, or its order, rather than their process.
const SPARED: &[u32] = &[
    linux::__NR_reboot,
    // These would reach others than the child: the first process and whoever runs beside it.
    linux::__NR_kill,
    linux::__NR_tkill,
    linux::__NR_tgkill,
    linux::__NR_rt_sigqueueinfo,
    linux::__NR_rt_tgsigqueueinfo,
    // A child that has left its memory has no more to draw.
    linux::__NR_vfork,
];

/// SplitMix64: any sequence would do that says itself again.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// An argument: a descriptor, an address, a size, flags, or anything.
    fn argument(&mut self, room: u64) -> u64 {
        const PAGE: u64 = 4096;
        match self.below(16) {
            0..4 => self.below(12),
            4..7 => room + self.below(ROOM as u64 - 64),
            7 => room + self.below(ROOM as u64 / PAGE) * PAGE,
            8 => [
                at(c"/tmp/fuzz"),
                at(c"."),
                at(c"/proc/self/maps"),
                at(c"x"),
                at(c"/dev/ptmx"),
            ][self.below(5) as usize],
            9 => self.below(5) * PAGE,
            10 => 1 << self.below(64),
            11 => (1_u64 << self.below(64)).wrapping_neg(),
            12 => [
                0,
                u64::MAX,
                linux::AT_FDCWD as u64,
                0x7fff_ffff_f000,
                0x8000_0000_0000,
                0xffff_8880_0000_0000,
                i64::MIN as u64,
                i32::MAX as u64,
            ][self.below(8) as usize],
            13 => u64::from(linux::MAP_PRIVATE | linux::MAP_ANONYMOUS),
            14 => self.below(256),
            _ => self.next(),
        }
    }
}

/// What a child does: its share of calls.
fn share(seed: u64, count: u64, room: u64) -> ! {
    // SAFETY: what calls at random do to memory happens in a process of its own, of which only bytes in a
    // pipe are believed and which may die of it; what it draws from then on may be anything.
    unsafe {
        let mut draw = Draw(seed);
        for made in 1..=count {
            if made % COUNTED == 0 {
                call(linux::__NR_write, &[COUNTER, at(&1_u8), 1]);
            }
            let mut number = draw.below(NUMBERS) as u32;
            // Half of the calls are those that memory and processes are made of.
            if draw.below(2) == 0 {
                const OFTEN: [u32; 14] = [
                    linux::__NR_mmap,
                    linux::__NR_munmap,
                    linux::__NR_mprotect,
                    linux::__NR_mremap,
                    linux::__NR_madvise,
                    linux::__NR_brk,
                    linux::__NR_open,
                    linux::__NR_read,
                    linux::__NR_write,
                    linux::__NR_dup2,
                    linux::__NR_pipe2,
                    linux::__NR_fcntl,
                    linux::__NR_fork,
                    linux::__NR_clone,
                ];
                number = OFTEN[draw.below(14) as usize];
            }
            let mut words = [0; 6];
            words.fill_with(|| draw.argument(room));
            if SPARED.contains(&number) {
                continue;
            }
            if number == linux::__NR_exit || number == linux::__NR_exit_group {
                // Else most would end before they began.
                continue;
            }
            let was = call(linux::__NR_getpid, &[]);
            call(number, &words);
            if call(linux::__NR_getpid, &[]) != was {
                // A child of the child: its own share is small.
                share(draw.next(), 5, room);
            }
        }
        exit(0)
    }
}

/// Makes so many calls.
pub(crate) fn run(seed: u64, count: u64) -> u64 {
    // SAFETY: memory that Linux writes is lent to each call, as large as it says.
    unsafe {
        call(linux::__NR_mkdir, &[at(c"/tmp"), 0o777]);
        call(linux::__NR_chdir, &[at(c"/tmp")]);
        // What is orphaned comes back here, and is waited for.
        call(linux::__NR_prctl, &[36, 1, 0, 0, 0]);
        let rights = linux::PROT_READ | linux::PROT_WRITE;
        let flags = linux::MAP_PRIVATE | linux::MAP_ANONYMOUS;
        let room = [0, ROOM as u64, rights.into(), flags.into(), u64::MAX, 0];
        let room = call(linux::__NR_mmap, &room) as u64;
        let mut counter = [0_i32; 2];
        call(
            linux::__NR_pipe2,
            &[to(&mut counter), linux::O_NONBLOCK.into()],
        );
        let [heard, said] = counter.map(|end| end as u64);
        let (mut made, mut ended, mut number) = (0, [0_u64; 4], 0_u64);
        while made < count {
            let child = fork();
            if child == 0 {
                // Alone in a session, so that all that come of it are ended together and none has the terminal.
                call(linux::__NR_setsid, &[]);
                call(linux::__NR_dup2, &[said, COUNTER]);
                let null = call(linux::__NR_open, &[at(c"/dev/null"), linux::O_RDWR.into()]);
                for number in 0..3 {
                    call(linux::__NR_dup2, &[null as u64, number]);
                }
                for number in [heard, said] {
                    call(linux::__NR_close, &[number]);
                }
                let seed = Draw(seed).next() ^ number.wrapping_mul(0x9e37_79b9);
                share(seed, SHARE, room);
            }
            if child < 0 {
                print(format_args!("child {number} is refused: {child}\n"));
                return 1;
            }
            let how = settle(child as u64);
            ended[how] += 1;
            number += 1;
            let mut bytes = [0_u8; 512];
            let counted = call(linux::__NR_read, &[heard, to(&mut bytes), 512]);
            made += u64::try_from(counted).unwrap_or(0) * COUNTED;
            if number % 1000 == 0 {
                print(format_args!("{made} calls of {number} children\n"));
            }
        }
        let [left, died, killed, stayed] = ended;
        print(format_args!(
            "{made} calls: of {number} children {left} ended, {died} died, {killed} were ended\n"
        ));
        stayed
    }
}

/// Waits for a child and all that came of it, ending what takes too long: 0 for one that ended by itself,
/// 1 for one that died, 2 for one that had to be ended, 3 for one of which something stays.
fn settle(child: u64) -> usize {
    // SAFETY: memory that Linux writes is lent to each call, as large as it says.
    unsafe {
        let mut status = 0_i32;
        let mut how = 0;
        let hang: u64 = linux::WNOHANG.into();
        for wait in 0..PATIENCE {
            let found = call(linux::__NR_wait4, &[child, to(&mut status), hang, 0]);
            if found != 0 {
                how = usize::from(status & 0x7f != 0);
                break;
            }
            if wait + 1 == PATIENCE {
                how = 2;
            }
            // Most are done at once.
            let nap = if wait < 20 { 50_000 } else { 1_000_000 };
            call(linux::__NR_nanosleep, &[at(&[0_u64, nap]), 0]);
        }
        // The group, and whoever left it but not this process' children.
        call(
            linux::__NR_kill,
            &[child.wrapping_neg(), linux::SIGKILL.into()],
        );
        call(linux::__NR_kill, &[child, linux::SIGKILL.into()]);
        for _ in 0..PATIENCE_FOR_ALL {
            match call(linux::__NR_wait4, &[u64::MAX, to(&mut status), hang, 0]) {
                // All are gone.
                ..0 => return how,
                0 => {
                    // Whatever still runs left the group: it is ended as everybody's.
                    call(linux::__NR_kill, &[u64::MAX, linux::SIGKILL.into()]);
                    call(linux::__NR_nanosleep, &[at(&[0_u64, 200_000]), 0]);
                }
                _ => {}
            }
        }
        print(format_args!("what came of child {child} does not end\n"));
        3
    }
}
