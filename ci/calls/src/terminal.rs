//! A program in a terminal of its own: keys go in at one end, and what the program shows comes out.

use core::ffi::CStr;

use linux_program::{exit, print};
use linux_raw_sys::general as linux;
use linux_raw_sys::ioctl;

use crate::system::{at, call, fork, to, wait};

/// Milliseconds without a word after which a program is taken to wait for a key.
const QUIET: u64 = 400;
/// Milliseconds that a program gets in all after its last key.
const LAST: u64 = 5000;

/// Copies what the terminal shows to standard output, until it is quiet or gone; whether it is there.
fn show(master: u64, time: u64) -> bool {
    // SAFETY: memory that Linux writes is lent to each call, as large as it says.
    unsafe {
        loop {
            let mut poll = linux::pollfd {
                fd: master as i32,
                events: linux::POLLIN as i16,
                revents: 0,
            };
            if call(linux::__NR_poll, &[to(&mut poll), 1, time]) != 1 {
                return true;
            }
            let mut bytes = [0_u8; 256];
            let got = call(linux::__NR_read, &[master, to(&mut bytes), 256]);
            if got <= 0 {
                return false;
            }
            for byte in &bytes[..got as usize] {
                match byte {
                    b'\n' | b' '..=b'~' => print(format_args!("{}", char::from(*byte))),
                    byte => print(format_args!("<{byte:02x}>")),
                }
            }
        }
    }
}

/// Runs a program in a terminal and types keys, one whenever it is quiet; `^X` is a control character.
pub(crate) fn run(keys: &CStr, words: &[&CStr]) -> u64 {
    // SAFETY: memory that Linux writes is lent to each call, as large as it says.
    unsafe {
        let opened = call(linux::__NR_open, &[at(c"/dev/ptmx"), linux::O_RDWR.into()]);
        let Ok(master) = u64::try_from(opened) else {
            print(format_args!("no terminal: {opened}\n"));
            return 1;
        };
        let (unlock, mut number) = (0_i32, 0_u32);
        call(
            linux::__NR_ioctl,
            &[master, ioctl::TIOCSPTLCK.into(), at(&unlock)],
        );
        call(
            linux::__NR_ioctl,
            &[master, ioctl::TIOCGPTN.into(), to(&mut number)],
        );
        let size = [24_u16, 80, 0, 0];
        call(
            linux::__NR_ioctl,
            &[master, ioctl::TIOCSWINSZ.into(), at(&size)],
        );
        let mut path = *b"/dev/pts/0\0";
        path[9] = b'0' + number as u8;
        let child = fork();
        if child == 0 {
            call(linux::__NR_setsid, &[]);
            let slave = call(linux::__NR_open, &[at(&path), linux::O_RDWR.into()]) as u64;
            for number in 0..3 {
                call(linux::__NR_dup2, &[slave, number]);
            }
            call(linux::__NR_close, &[master]);
            let mut list = [0_u64; 16];
            for (to, word) in list.iter_mut().zip(words) {
                *to = at(*word);
            }
            let variables = [at(c"TERM=linux"), at(c"PATH=/bin"), at(c"HOME=/root"), 0];
            call(
                linux::__NR_execve,
                &[at(words[0]), at(&list), at(&variables)],
            );
            exit(99);
        }
        let mut keys = keys.to_bytes().iter();
        let mut is_there = show(master, 3 * QUIET);
        while let Some(key) = keys.next() {
            if !is_there {
                break;
            }
            let key = match (key, keys.as_slice().first()) {
                (b'^', Some(letter)) => {
                    keys.next();
                    letter & 0x1f
                }
                (key, _) => *key,
            };
            call(linux::__NR_write, &[master, at(&key), 1]);
            // A word goes on without a pause; what ends one is looked at.
            let is_word = key.is_ascii_alphanumeric();
            is_there = show(master, if is_word { 20 } else { QUIET });
        }
        if is_there && show(master, LAST) {
            call(linux::__NR_kill, &[child as u64, linux::SIGKILL.into()]);
        }
        let status = wait(child);
        print(format_args!("\nended with {status:#x}\n"));
        0
    }
}
