//! A program for the Linux dom0 of the tests: does to a running domain what only its dom0 can. It
//! writes over a ring that it shares with the domain, or raises events without an end.
//!
//! ```text
//! hostile words DOMID FRAME OFFSET WORD...   writes 32-bit words into a page of the domain
//! hostile add DOMID FRAME OFFSET NUMBER       adds to a 32-bit word of it
//! hostile noise DOMID FRAME OFFSET BYTES     fills a part of it with bytes that mean nothing
//! hostile storm MILLISECONDS                 raises every port that dom0 has, again and again
//! ```
//! Numbers are decimal, or hexadecimal behind `0x`.
//!
//! Memory of a domain is mapped by `/dev/xen/privcmd` (`include/uapi/xen/privcmd.h` in Linux).
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod system;

#[cfg(target_os = "none")]
linux_program::entry!(run::run);

#[cfg(target_os = "none")]
mod run {
    use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

    use linux_program::{Arguments, Refusal, print};

    use crate::system;

    const PAGE: u64 = 4096;
    /// Ports that dom0 can have by the 2-level ABI.
    const PORTS: u32 = 4096;
    /// `__HYPERVISOR_event_channel_op`, `EVTCHNOP_send`.
    const SEND: [u64; 2] = [32, 4];

    /// What went wrong.
    enum Trouble {
        Usage,
        Refused(Refusal),
    }

    impl From<Refusal> for Trouble {
        fn from(refusal: Refusal) -> Trouble {
            Trouble::Refused(refusal)
        }
    }

    /// Does what the arguments say; returns the status.
    pub(crate) fn run(arguments: Arguments) -> u64 {
        let mut words = [""; 16];
        // The first is the program's own name.
        for (word, argument) in words.iter_mut().zip(arguments.skip(1)) {
            *word = argument.to_str().unwrap_or_default();
        }
        match act(&words) {
            Ok(()) => 0,
            Err(Trouble::Usage) => {
                print(format_args!("hostile words|add|noise|storm NUMBER...\n"));
                2
            }
            Err(Trouble::Refused(refusal)) => {
                print(format_args!("hostile: {refusal}\n"));
                1
            }
        }
    }

    fn number(text: &str) -> Result<u64, Trouble> {
        let number = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        number.map_err(|_| Trouble::Usage)
    }

    fn act(words: &[&str; 16]) -> Result<(), Trouble> {
        let [verb, first, frame, offset, rest @ ..] = words;
        match *verb {
            "words" => {
                let page = Page::of(number(first)?, number(frame)?)?;
                let at = number(offset)?;
                for (index, word) in (0..).zip(rest.iter().filter(|word| !word.is_empty())) {
                    page.word(at + 4 * index)?
                        .store(number(word)? as u32, Ordering::Release);
                }
                Ok(())
            }
            "add" => {
                let page = Page::of(number(first)?, number(frame)?)?;
                let word = page.word(number(offset)?)?;
                word.fetch_add(number(rest[0])? as u32, Ordering::AcqRel);
                Ok(())
            }
            "noise" => {
                let page = Page::of(number(first)?, number(frame)?)?;
                let (at, bytes) = (number(offset)?, number(rest[0])?);
                let mut state = 0x9e37_79b9_u32;
                for at in at..at + bytes {
                    // xorshift32: any sequence would do.
                    state ^= state << 13;
                    state ^= state >> 17;
                    state ^= state << 5;
                    page.byte(at)?.store(state as u8, Ordering::Relaxed);
                }
                Ok(())
            }
            "storm" => storm(number(first)?),
            _ => Err(Trouble::Usage),
        }
    }

    /// A page of another domain's.
    struct Page(u64);

    impl Page {
        /// Maps it: by its machine frame if it is a PV domain's, or by its number in the domain.
        fn of(domain: u64, frame: u64) -> Result<Page, Trouble> {
            let file = system::privcmd()?;
            let address = system::shared_pages(file, PAGE)?;
            system::map_foreign(file, domain as u16, frame, address)?;
            Ok(Page(address))
        }

        fn place(&self, at: u64, size: u64) -> Result<usize, Trouble> {
            match at < PAGE && at.is_multiple_of(size) {
                true => Ok((self.0 + at) as usize),
                false => Err(Trouble::Usage),
            }
        }

        fn word(&self, at: u64) -> Result<&AtomicU32, Trouble> {
            let place = core::ptr::with_exposed_provenance(self.place(at, 4)?);
            // SAFETY: an aligned word of a page that is mapped for good, which others write as well.
            Ok(unsafe { &*place })
        }

        fn byte(&self, at: u64) -> Result<&AtomicU8, Trouble> {
            let place = core::ptr::with_exposed_provenance(self.place(at, 1)?);
            // SAFETY: a byte of a page that is mapped for good, which others write as well.
            Ok(unsafe { &*place })
        }
    }

    /// Raises every port that leads to another domain until the time is over. What Xen refuses is none.
    fn storm(milliseconds: u64) -> Result<(), Trouble> {
        let file = system::privcmd()?;
        let end = system::now()? + milliseconds;
        let mut open = [false; PORTS as usize];
        for (port, open) in (0_u32..).zip(&mut open) {
            *open = system::hypercall(file, SEND, &port).is_ok();
        }
        let mut count = 0_u64;
        while system::now()? < end {
            for port in (0_u32..)
                .zip(&open)
                .filter(|(_, open)| **open)
                .map(|(port, _)| port)
            {
                // It may be gone meanwhile.
                count += u64::from(system::hypercall(file, SEND, &port).is_ok());
            }
        }
        print(format_args!("hostile: {count} events\n"));
        Ok(())
    }
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    linux_program::print(format_args!("{info}\n"));
    linux_program::exit(3)
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("This runs in the Linux dom0 of the tests. Run: cargo xtask test xl");
    std::process::exit(2);
}
