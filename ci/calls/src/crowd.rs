//! Many processes: one after the other, and at once.

use core::ffi::CStr;

use linux_program::{exit, print};
use linux_raw_sys::general as linux;

use crate::system::{at, call, fork, to, wait};

/// Forks, runs this program anew and waits, so many times; every one must end as it was told.
pub(crate) fn spawn(program: &CStr, count: u64) -> u64 {
    // SAFETY: memory that Linux writes is lent to each call, as large as it says.
    unsafe {
        for number in 0..count {
            let child = fork();
            if child == 0 {
                let digits = [b'0' + (number % 10) as u8, 0];
                let words = [at(program), at(c"leave"), at(&digits), 0];
                let words = [words[0], words[1], words[2], 0_u64];
                call(linux::__NR_execve, &[at(program), at(&words), 0]);
                exit(99);
            }
            let status = if child < 0 { child } else { wait(child) };
            if status != ((number % 10) << 8) as i64 {
                print(format_args!("child {number} came to {status:#x}\n"));
                return 1;
            }
        }
        print(format_args!("{count} children ran a program and ended\n"));
        0
    }
}

/// Has so many processes at once: all stand in `read` until one pipe closes, and each says one byte.
pub(crate) fn crowd(count: u64) -> u64 {
    // SAFETY: memory that Linux writes is lent to each call, as large as it says.
    unsafe {
        let (mut gate, mut said) = ([0_i32; 2], [0_i32; 2]);
        if call(linux::__NR_pipe, &[to(&mut gate)]) < 0
            || call(linux::__NR_pipe, &[to(&mut said)]) < 0
        {
            print(format_args!("no pipes\n"));
            return 1;
        }
        let [wait_at, gate] = gate.map(|end| end as u64);
        let [hear, say] = said.map(|end| end as u64);
        let mut made = 0;
        for _ in 0..count {
            let child = fork();
            if child == 0 {
                let mut byte = 0_u8;
                call(linux::__NR_close, &[gate]);
                call(linux::__NR_write, &[say, at(&1_u8), 1]);
                call(linux::__NR_read, &[wait_at, to(&mut byte), 1]);
                exit(7);
            }
            if child < 0 {
                print(format_args!("process {made} is refused: {child}\n"));
                break;
            }
            made += 1;
        }
        let mut heard = 0;
        let mut byte = 0_u8;
        while heard < made && call(linux::__NR_read, &[hear, to(&mut byte), 1]) == 1 {
            heard += 1;
        }
        call(linux::__NR_close, &[gate]);
        let mut ended = 0;
        while wait(-1) == 7 << 8 {
            ended += 1;
        }
        print(format_args!(
            "{made} processes stood at once, {heard} spoke, {ended} ended\n"
        ));
        u64::from(made != count || heard != made || ended != made)
    }
}
