//! What QEMU calls, and what it calls for.

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::{Mutex, OnceLock};

use crate::caches::{Caches, Counts, PAGE};
use crate::qemu::{self, Block};

/// Xen's part of all address spaces (`xen/arch/x86/include/asm/config.h`).
const XEN: core::ops::Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;

/// The version of the interface that this is written to.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "QEMU looks for it by this name")]
static qemu_plugin_version: c_int = 2;

/// What is known of the run.
struct Run {
    /// Where the kernel stores to begin a window, and eight bytes further to end it.
    marks: u64,
    out: BufWriter<File>,
    caches: Caches,
    /// What was counted by page and who accessed it, within a window.
    window: Option<BTreeMap<(bool, u64), Counts>>,
    windows: u64,
}

static RUN: OnceLock<Mutex<Run>> = OnceLock::new();

impl Run {
    fn access(&mut self, by_xen: bool, virt: u64, phys: u64) {
        let counts = self
            .window
            .as_mut()
            .map(|pages| pages.entry((by_xen, virt >> PAGE)).or_default());
        self.caches.access(virt, phys, counts);
    }

    /// Ends the window.
    fn end(&mut self) -> std::io::Result<()> {
        let Some(pages) = self.window.take() else {
            return Ok(());
        };
        writeln!(self.out, "window {}", self.windows)?;
        self.windows += 1;
        for ((by_xen, page), counts) in pages {
            let who = if by_xen { 'x' } else { 'k' };
            let Counts {
                accesses,
                first,
                second,
                pages,
                touched,
            } = counts;
            writeln!(
                self.out,
                "{who} {:x} {accesses} {first} {second} {pages} {}",
                page << PAGE,
                touched.count_ones()
            )?;
        }
        self.out.flush()
    }
}

/// Says why nothing is counted.
fn complain(text: &str) {
    let Ok(text) = CString::new(format!("cache-model: {text}\n")) else {
        return;
    };
    // SAFETY: the text ends with a zero and outlives the call.
    unsafe { qemu::print(text.as_ptr()) };
}

extern "C" fn on_access(_cpu: c_uint, info: u32, virt: u64, with: *mut c_void) {
    // SAFETY: QEMU passes on what it was called with; the place is asked about before this returns.
    let (is_store, phys) = unsafe {
        let place = qemu::place(info, virt);
        if place.is_null() || qemu::is_device(place) {
            return;
        }
        (qemu::is_store(info), qemu::physical(place))
    };
    let Some(Ok(mut run)) = RUN.get().map(Mutex::lock) else {
        return;
    };
    let by_xen = XEN.contains(&(with as u64));
    // Xen stores there as well, as it loads the kernel.
    let marks = is_store && !by_xen;
    if marks && virt == run.marks {
        run.window = Some(BTreeMap::new());
        return;
    }
    if marks && virt == run.marks + 8 {
        if let Err(error) = run.end() {
            complain(&format!("cannot write what was counted: {error}"));
        }
        return;
    }
    run.access(by_xen, virt, phys);
}

extern "C" fn on_block(_id: u64, block: *mut Block) {
    // SAFETY: QEMU passes a block that it is translating; its instructions are those that it says it has.
    unsafe {
        for which in 0..qemu::instructions(block) {
            let instruction = qemu::instruction(block, which);
            let from = qemu::address(instruction) as *mut c_void;
            qemu::on_access(
                instruction,
                on_access,
                qemu::NO_REGISTERS,
                qemu::LOADS_AND_STORES,
                from,
            );
        }
    }
}

/// What the arguments say.
fn open(arguments: &[&str]) -> Result<Run, String> {
    let (mut marks, mut out) = (None, None);
    for argument in arguments {
        match argument.split_once('=') {
            Some(("marks", text)) => marks = u64::from_str_radix(text, 16).ok(),
            Some(("out", path)) => {
                out = Some(File::create(path).map_err(|error| format!("{path}: {error}"))?);
            }
            _ => return Err(format!("'{argument}' is no argument")),
        }
    }
    let (Some(marks), Some(out)) = (marks, out) else {
        return Err("takes marks=ADDRESS and out=FILE".into());
    };
    Ok(Run {
        marks,
        out: BufWriter::new(out),
        caches: Caches::new(),
        window: None,
        windows: 0,
    })
}

/// Begins. Returns 0 if QEMU may go on.
///
/// # Safety
/// `argv` must be `argc` strings that end with a zero.
#[unsafe(no_mangle)]
unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let arguments: Vec<_> = (0..argc as usize)
        // SAFETY: there are so many, each ending with a zero, as the caller says.
        .map(|which| unsafe { CStr::from_ptr(*argv.add(which)) }.to_string_lossy())
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    match open(&arguments) {
        Ok(run) => {
            // Another is never there: QEMU installs it once.
            let _ = RUN.set(Mutex::new(run));
            // SAFETY: the function has the type that QEMU calls it by.
            unsafe { qemu::on_block(id, on_block) };
            0
        }
        Err(why) => {
            complain(&why);
            1
        }
    }
}
