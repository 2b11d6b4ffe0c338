//! What a program has in the x87 and vector registers, kept while another program runs.
//!
//! The kernel is compiled without them, so they are touched only where one thread takes another's
//! place. XSAVE keeps what XCR0 enables, FXSAVE the 512 bytes that every 64-bit processor has (SDM
//! volume 1, 10.5 and 13.4). Under PV Xen has the registers restored before the kernel runs, whatever
//! its own way of keeping them is.

extern crate alloc;

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of the area that FXSAVE writes.
const LEGACY: usize = 512;
/// XSAVE's own part behind it.
const HEADER: usize = 64;
/// x87 and SSE.
const LEGACY_STATES: u64 = 3;
/// MXCSR at reset: all exceptions masked.
const MXCSR: u32 = 0x1f80;
/// The x87 control word at reset as FNINIT leaves it: all exceptions masked, extended precision.
const FCW: u16 = 0x37f;
/// MXCSR's place in the area, and that of the bits of it which exist.
const MXCSR_AT: usize = 24;
const MXCSR_MASK_AT: usize = 28;
/// The bits of MXCSR where the processor does not say which there are (SDM volume 1, 11.6.6).
const MXCSR_MASK: u32 = 0xffbf;

/// Where software finds its own words in an area, and what Linux writes there (`asm/sigcontext.h`).
const SOFTWARE: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;

/// Bytes of an area, or 0 before anybody asked.
static SIZE: AtomicUsize = AtomicUsize::new(0);

/// Whether the processor has XSAVE, enabled or not (CPUID.1:ECX.26).
pub(super) fn has_xsave() -> bool {
    __cpuid_count(1, 0).ecx >> 26 & 1 == 1
}

/// The states that XSAVE could keep (CPUID.D:EDX:EAX).
pub(super) fn supported() -> u64 {
    let id = __cpuid_count(0xd, 0);
    u64::from(id.edx) << 32 | u64::from(id.eax)
}

/// The states that XCR0 enables, if XSAVE may be used (CPUID.1:ECX.27).
fn enabled() -> Option<u64> {
    if __cpuid_count(1, 0).ecx >> 27 & 1 == 0 {
        return None;
    }
    let (low, high): (u32, u32);
    // SAFETY: the instruction exists where this bit is set, and reads.
    unsafe {
        core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    Some(u64::from(high) << 32 | u64::from(low))
}

/// Bytes of an area: what XSAVE needs for the enabled states (CPUID.D:EBX), or FXSAVE's.
fn size() -> usize {
    let known = SIZE.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let size = match enabled() {
        Some(states) if states & !LEGACY_STATES != 0 => __cpuid_count(0xd, 0).ebx as usize,
        _ => LEGACY,
    };
    SIZE.store(size, Ordering::Relaxed);
    size
}

/// Bytes, aligned as XSAVE needs its area.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// The vector registers of a program that does not run.
pub(crate) struct Extended(Vec<Line>);

impl Extended {
    /// As a program finds them when it begins; `None` without memory for them.
    pub(crate) fn new() -> Option<Extended> {
        let lines = size().max(LEGACY + HEADER).div_ceil(size_of::<Line>());
        let mut area = Vec::new();
        area.try_reserve_exact(lines).ok()?;
        area.resize(lines, Line([0; 64]));
        let mut new = Extended(area);
        new.reset();
        Some(new)
    }

    /// As a program finds them when it begins.
    pub(crate) fn reset(&mut self) {
        self.0.fill(Line([0; 64]));
        let area = self.legacy();
        area[..2].copy_from_slice(&FCW.to_le_bytes());
        area[MXCSR_AT..][..4].copy_from_slice(&MXCSR.to_le_bytes());
        self.0[LEGACY / 64].0[0] = LEGACY_STATES as u8;
    }

    /// The same, for another thread; `None` without memory.
    pub(crate) fn duplicate(&self) -> Option<Extended> {
        let mut area = Vec::new();
        area.try_reserve_exact(self.0.len()).ok()?;
        area.extend_from_slice(&self.0);
        Some(Extended(area))
    }

    fn legacy(&mut self) -> &mut [u8] {
        &mut bytes(&mut self.0)[..LEGACY]
    }

    /// What a program finds of them on its stack while it handles a signal, as Linux writes it, and
    /// whether that is more than FXSAVE knows (`struct _xstate`, `asm/sigcontext.h`).
    ///
    /// # Errors
    /// No memory for it.
    pub(crate) fn for_frame(&mut self) -> Result<(Vec<u8>, bool), TryReserveError> {
        let (size, has_more) = (size(), size() > LEGACY);
        let whole = size + if has_more { size_of::<u32>() } else { 0 };
        let mut copy = Vec::new();
        copy.try_reserve_exact(whole)?;
        copy.extend_from_slice(&bytes(&mut self.0)[..size]);
        if has_more {
            let states = enabled().unwrap_or(LEGACY_STATES);
            let mut put = |at: usize, word: &[u8]| copy[at..at + word.len()].copy_from_slice(word);
            put(SOFTWARE, &MAGIC1.to_le_bytes());
            put(SOFTWARE + 4, &(whole as u32).to_le_bytes());
            put(SOFTWARE + 8, &states.to_le_bytes());
            put(SOFTWARE + 16, &(size as u32).to_le_bytes());
            copy.extend_from_slice(&MAGIC2.to_le_bytes());
        }
        Ok((copy, has_more))
    }

    /// Takes what [`for_frame`](Self::for_frame) gave, back from a program, which may have written
    /// anything there: nothing of it faults when it is restored.
    pub(crate) fn take_from_frame(&mut self, from: &[u8]) {
        let mask = self.mxcsr_mask();
        let count = from.len().min(size());
        let area = bytes(&mut self.0);
        area[..count].copy_from_slice(&from[..count]);
        let mxcsr = word(area, MXCSR_AT) & mask;
        area[MXCSR_AT..][..4].copy_from_slice(&mxcsr.to_le_bytes());
        let header = &mut area[LEGACY..LEGACY + HEADER];
        let states = u64::from(word(header, 0)) | u64::from(word(header, 4)) << 32;
        let kept = match size() > LEGACY {
            true => states & enabled().unwrap_or(LEGACY_STATES),
            false => LEGACY_STATES,
        };
        header.fill(0);
        header[..8].copy_from_slice(&kept.to_le_bytes());
    }

    /// The bits of MXCSR that the processor has.
    fn mxcsr_mask(&mut self) -> u32 {
        match word(self.legacy(), MXCSR_MASK_AT) {
            0 => MXCSR_MASK,
            mask => mask,
        }
    }

    /// Keeps what this vCPU's registers hold.
    pub(crate) fn save(&mut self) {
        let area = self.0.as_mut_ptr();
        // SAFETY: the area has the size and alignment of what the instruction writes.
        unsafe {
            if size() > LEGACY {
                core::arch::asm!("xsave64 [{}]", in(reg) area, in("eax") !0, in("edx") !0, options(nostack));
            } else {
                core::arch::asm!("fxsave64 [{}]", in(reg) area, options(nostack));
            }
        }
    }

    /// Gives this vCPU's registers what was kept.
    pub(crate) fn restore(&self) {
        let area = self.0.as_ptr();
        // SAFETY: the area holds what `save` or `reset` wrote, or a program's words with the bits cleared
        // that would fault. The kernel uses none of these registers.
        unsafe {
            if size() > LEGACY {
                core::arch::asm!("xrstor64 [{}]", in(reg) area, in("eax") !0, in("edx") !0, options(nostack, readonly));
            } else {
                core::arch::asm!("fxrstor64 [{}]", in(reg) area, options(nostack, readonly));
            }
        }
    }
}

/// Lines as bytes.
fn bytes(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: a line is an array of bytes, without padding; the slice is borrowed as long.
    unsafe { core::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines)) }
}

/// The word at a place.
fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}
