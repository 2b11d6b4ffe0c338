//! What is on the stack when a trap handler runs.
//!
//! Xen pushes, lowest address first: rcx, r11, an error code where the vector has one, rip, cs,
//! rflags, rsp, ss (`create_bounce_frame`, `xen/arch/x86/x86_64/entry.S`). The entry stubs put a 0
//! where there is no error code and push the other registers below, so that every handler sees
//! the same [`Frame`], also where the processor pushed its part itself. The saved upcall mask rides in
//! bits 32 to 39 of the CS slot.
//!
//! ```
//! use xen_pv_rt::frame::{Frame, PageFaultCode};
//!
//! let mut frame = Frame::default();
//! (frame.vector, frame.error, frame.rip) = (14, 2, 0x1000);
//! assert_eq!(frame.exception().mnemonic, "#PF");
//! assert_eq!(PageFaultCode(frame.error).to_string(), "write to a page that is not present");
//! ```

use core::fmt;

/// The interrupted context, as the entry stubs leave it; the handler may change it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "registers are their own names")]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// Vector number, pushed by the stub.
    pub vector: u64,
    /// Error code, 0 for vectors that have none.
    pub error: u64,
    pub rip: u64,
    cs_slot: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl Frame {
    /// Code segment selector. Xen gives the kernel RPL 0 here although it runs in ring 3.
    #[must_use]
    pub fn cs(&self) -> u16 {
        self.cs_slot as u16
    }

    /// The whole word that CS is in.
    #[must_use]
    pub fn cs_slot(&self) -> u64 {
        self.cs_slot
    }

    /// Whether upcalls were masked when the trap was taken.
    #[must_use]
    pub fn upcalls_masked(&self) -> bool {
        self.cs_slot >> 32 & 0xff != 0
    }

    /// Whether the trap came from user mode: RPL 3 in the CS that Xen reports.
    #[must_use]
    pub fn from_user(&self) -> bool {
        self.cs() & 3 == 3
    }

    /// Has the frame lead to these segments.
    pub fn set_segments(&mut self, cs: u64, ss: u64) {
        self.cs_slot = cs;
        self.ss = ss;
    }

    /// Records whether interrupts were masked where Xen does, for a frame that the processor pushed.
    pub fn note_interrupt_flag(&mut self) {
        const INTERRUPTS_ENABLED: u64 = 1 << 9;
        let masked = u64::from(self.rflags & INTERRUPTS_ENABLED == 0);
        self.cs_slot = u64::from(self.cs()) | masked << 32;
    }

    /// The exception that the vector stands for, or that it is an interrupt.
    #[must_use]
    pub fn exception(&self) -> &'static Exception {
        match EXCEPTIONS.get(self.vector as usize) {
            Some(exception) => exception,
            None if self.vector < 32 => &EXCEPTIONS[15],
            None => &INTERRUPT,
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  rip {:04x}:{:016x}  rsp {:04x}:{:016x}  rflags {:08x}  upcalls {}",
            self.cs(),
            self.rip,
            self.ss as u16,
            self.rsp,
            self.rflags,
            if self.upcalls_masked() {
                "masked"
            } else {
                "open"
            }
        )?;
        let rows = [
            [
                ("rax", self.rax),
                ("rbx", self.rbx),
                ("rcx", self.rcx),
                ("rdx", self.rdx),
            ],
            [
                ("rsi", self.rsi),
                ("rdi", self.rdi),
                ("rbp", self.rbp),
                (" r8", self.r8),
            ],
            [
                (" r9", self.r9),
                ("r10", self.r10),
                ("r11", self.r11),
                ("r12", self.r12),
            ],
        ];
        for row in rows {
            for (name, value) in row {
                write!(f, "  {name} {value:016x}")?;
            }
            writeln!(f)?;
        }
        write!(
            f,
            "  r13 {:016x}  r14 {:016x}  r15 {:016x}",
            self.r13, self.r14, self.r15
        )
    }
}

/// An x86 exception (SDM volume 3, table 6-1).
#[derive(Debug)]
pub struct Exception {
    /// Mnemonic, such as `#PF`.
    pub mnemonic: &'static str,
    /// Name in words.
    pub name: &'static str,
    /// Whether the processor pushes an error code.
    pub has_error: bool,
}

const fn exception(mnemonic: &'static str, name: &'static str, has_error: bool) -> Exception {
    Exception {
        mnemonic,
        name,
        has_error,
    }
}

/// The exceptions that Xen can deliver, by vector.
pub static EXCEPTIONS: [Exception; 22] = [
    exception("#DE", "divide error", false),
    exception("#DB", "debug", false),
    exception("NMI", "non-maskable interrupt", false),
    exception("#BP", "breakpoint", false),
    exception("#OF", "overflow", false),
    exception("#BR", "bound range exceeded", false),
    exception("#UD", "invalid opcode", false),
    exception("#NM", "device not available", false),
    exception("#DF", "double fault", true),
    exception("#CSO", "coprocessor segment overrun", false),
    exception("#TS", "invalid TSS", true),
    exception("#NP", "segment not present", true),
    exception("#SS", "stack fault", true),
    exception("#GP", "general protection", true),
    exception("#PF", "page fault", true),
    exception("#--", "reserved vector", false),
    exception("#MF", "x87 floating point", false),
    exception("#AC", "alignment check", true),
    exception("#MC", "machine check", false),
    exception("#XM", "SIMD floating point", false),
    exception("#VE", "virtualisation", false),
    exception("#CP", "control protection", true),
];

/// What has a vector beyond those of exceptions.
static INTERRUPT: Exception = exception("interrupt", "of no known source", false);

/// The vectors whose error code is on the stack, one bit each.
#[must_use]
pub const fn vectors_with_error() -> u32 {
    let mut bits = 0;
    let mut vector = 0;
    while vector < EXCEPTIONS.len() {
        if EXCEPTIONS[vector].has_error {
            bits |= 1 << vector;
        }
        vector += 1;
    }
    bits
}

/// A page fault's error code in words (SDM volume 3, 4.7).
///
/// Under PV every access of the kernel comes from ring 3, so the user bit says nothing about who
/// faulted; it is still shown.
#[derive(Clone, Copy, Debug)]
pub struct PageFaultCode(pub u64);

impl fmt::Display for PageFaultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bit = |n: u32| self.0 >> n & 1 == 1;
        let access = match (bit(4), bit(1)) {
            (true, _) => "instruction fetch from",
            (_, true) => "write to",
            _ => "read of",
        };
        let why = if bit(3) {
            "a page whose entry has reserved bits set"
        } else if bit(0) {
            "a page whose rights forbid it"
        } else {
            "a page that is not present"
        };
        write!(f, "{access} {why}")?;
        if bit(5) {
            f.write_str(", protection key")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cs_slot_is_taken_apart() {
        let frame = Frame {
            cs_slot: 0x0000_0001_0000_e030,
            ..Frame::default()
        };
        assert_eq!(frame.cs(), 0xe030);
        assert!(frame.upcalls_masked());
        assert!(!frame.from_user());
        assert!(
            Frame {
                cs_slot: 0xe033,
                ..Frame::default()
            }
            .from_user()
        );
    }

    #[test]
    fn a_frame_of_the_processor_says_whether_interrupts_were_masked() {
        let mut frame = Frame {
            cs_slot: 0xffff_0000_0000_0008,
            rflags: 0x202,
            ..Frame::default()
        };
        frame.note_interrupt_flag();
        assert!(!frame.upcalls_masked() && !frame.from_user() && frame.cs() == 8);
        frame.rflags = 2;
        frame.note_interrupt_flag();
        assert!(frame.upcalls_masked());
    }

    #[test]
    fn page_fault_codes_read_as_words() {
        assert_eq!(
            PageFaultCode(4).to_string(),
            "read of a page that is not present"
        );
        assert_eq!(
            PageFaultCode(7).to_string(),
            "write to a page whose rights forbid it"
        );
        assert!(
            PageFaultCode(0x15)
                .to_string()
                .starts_with("instruction fetch from")
        );
        assert!(PageFaultCode(0xb).to_string().contains("reserved bits"));
    }
}
