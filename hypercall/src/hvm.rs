//! The way into Xen from a guest in hardware virtualisation (PVH).
//!
//! The same numbers and the same registers as from a PV guest, by VMCALL on Intel's processors and
//! VMMCALL on AMD's: the one instruction that the other maker's processors do not have.
//!
//! ```
//! use hypercall::hvm::xen_leaves;
//!
//! match xen_leaves() {
//!     Some(leaf) => println!("Xen answers from CPUID leaf {leaf:#x} on"),
//!     None => println!("this is not a domain of Xen's"),
//! }
//! ```

use core::arch::asm;
use core::arch::x86_64::{__cpuid, CpuidResult};

use crate::abi::hvm::{
    HVM_PARAM_CALLBACK_IRQ, HVM_PARAM_CALLBACK_TYPE_VECTOR, HVMOP_flush_tlbs, HVMOP_get_param,
    HVMOP_set_param, xen_hvm_param,
};
use crate::abi::xen::DOMID_SELF;
use crate::{Hypervisor, Op, XenError};

/// The first leaf where a hypervisor says its name, and how far apart further ones may be.
const LEAVES: core::ops::RangeInclusive<u32> = 0x4000_0000..=0x4000_ff00;
const LEAF_STEP: usize = 0x100;

/// What the processor answers.
#[allow(
    unused_unsafe,
    reason = "the first compilers that this builds with ask for it"
)]
fn cpuid(leaf: u32) -> CpuidResult {
    // SAFETY: every 64-bit processor has the instruction, which changes nothing.
    unsafe { __cpuid(leaf) }
}

/// The first of Xen's CPUID leaves, if this runs under Xen.
#[must_use]
pub fn xen_leaves() -> Option<u32> {
    leaves_of(cpuid)
}

/// The same, by what a processor says of itself.
fn leaves_of(cpuid: impl Fn(u32) -> CpuidResult) -> Option<u32> {
    // Bit 31 of leaf 1's ECX is kept clear by processors: somebody virtualises this one.
    if cpuid(1).ecx >> 31 == 0 {
        return None;
    }
    LEAVES.step_by(LEAF_STEP).find(|&leaf| {
        let id = cpuid(leaf);
        // "XenVMMXenVMM", four bytes a register.
        (id.ebx, id.ecx, id.edx) == (0x566e_6558, 0x6558_4d4d, 0x4d4d_566e)
    })
}

/// The running Xen, from a guest in hardware virtualisation.
#[derive(Clone, Copy, Debug)]
pub struct XenHvm {
    /// VMMCALL instead of VMCALL.
    amd: bool,
}

impl XenHvm {
    /// Xen, by the instruction that this processor has.
    #[must_use]
    pub fn detect() -> XenHvm {
        // "AuthenticAMD" and "HygonGenuine" have VMMCALL; the first four bytes tell.
        let amd = matches!(cpuid(0).ebx, 0x6874_7541 | 0x6f67_7948);
        XenHvm { amd }
    }
}

impl Hypervisor for XenHvm {
    unsafe fn call(&self, op: Op, args: [u64; 5]) -> i64 {
        let result: i64;
        // SAFETY: under Xen, where the caller of `Hypervisor::call` runs, this instruction is a
        // hypercall. The caller promises that pointers among the arguments are good and that no memory
        // in use changes; the registers that change are declared.
        unsafe {
            asm!(
                "test {amd:l}, {amd:l}",
                "jnz 2f",
                "vmcall",
                "jmp 3f",
                "2: vmmcall",
                "3:",
                amd = in(reg) u64::from(self.amd),
                inlateout("rax") op as u64 => result,
                inlateout("rdi") args[0] => _,
                inlateout("rsi") args[1] => _,
                inlateout("rdx") args[2] => _,
                inlateout("r10") args[3] => _,
                inlateout("r8") args[4] => _,
            );
        }
        result
    }

    /// Events come as interrupts, which the guest masks like any other.
    fn mask_upcalls(&self) -> bool {
        true
    }

    fn restore_upcalls(&self, _: bool) {}
}

/// Reads a parameter of the domain's virtual platform.
///
/// # Errors
/// Xen's refusal: `EINVAL` for a number that it does not know.
pub fn parameter<H: Hypervisor + ?Sized>(hv: &H, index: u32) -> Result<u64, XenError> {
    let mut asked = xen_hvm_param {
        domid: DOMID_SELF,
        pad: 0,
        index,
        value: 0,
    };
    let args = [HVMOP_get_param, &raw mut asked as u64, 0, 0, 0];
    // SAFETY: Xen reads and writes `asked` during the call.
    let value = unsafe { hv.call(Op::HvmOp, args) };
    XenError::check(Op::HvmOp, Some("get_param"), value)?;
    Ok(asked.value)
}

/// Has an interrupt of this vector raised while the pending byte of a vCPU's `vcpu_info` is set and
/// RFLAGS.IF lets it. It comes from Xen and no interrupt controller (`hvm_vcpu_has_pending_irq`,
/// `xen/arch/x86/hvm/irq.c`): there is nothing to acknowledge but that byte.
///
/// # Errors
/// Xen's refusal.
///
/// # Safety
/// The vector's gate leads to a handler that clears the byte before it returns.
pub unsafe fn set_callback_vector<H: Hypervisor + ?Sized>(
    hv: &H,
    vector: u8,
) -> Result<(), XenError> {
    let asked = xen_hvm_param {
        domid: DOMID_SELF,
        pad: 0,
        index: HVM_PARAM_CALLBACK_IRQ,
        value: HVM_PARAM_CALLBACK_TYPE_VECTOR << 56 | u64::from(vector),
    };
    let args = [HVMOP_set_param, &raw const asked as u64, 0, 0, 0];
    // SAFETY: Xen reads `asked` during the call. The caller promises that the vector's gate leads to
    // a handler that clears the pending byte, so that interrupts by it end.
    let value = unsafe { hv.call(Op::HvmOp, args) };
    XenError::check(Op::HvmOp, Some("set_param"), value).map(drop)
}

/// Has all vCPUs of the domain forget their translations, wherever they run.
///
/// # Errors
/// Xen's refusal.
pub fn flush_tlbs<H: Hypervisor + ?Sized>(hv: &H) -> Result<(), XenError> {
    // SAFETY: no memory is passed, and none is changed.
    let value = unsafe { hv.call(Op::HvmOp, [HVMOP_flush_tlbs, 0, 0, 0, 0]) };
    XenError::check(Op::HvmOp, Some("flush_tlbs"), value).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A processor whose leaf 1 has this in ECX, and some leaf the name of a hypervisor.
    fn processor(ecx: u32, hypervisors: &[(u32, &[u8; 12])]) -> impl Fn(u32) -> CpuidResult {
        move |leaf| {
            let found = hypervisors.iter().find(|(at, _)| *at == leaf);
            let name = found.map_or(&[0; 12], |(_, name)| *name);
            let word = |n: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| name[4 * n + byte]));
            CpuidResult {
                eax: 0,
                ebx: word(0),
                ecx: if leaf == 1 { ecx } else { word(1) },
                edx: word(2),
            }
        }
    }

    /// Xen is where its name stands, behind those of others that it pretends to be, and nowhere on a
    /// processor that nobody virtualises.
    #[test]
    fn xen_is_found_by_its_name_among_others() {
        const XEN: &[u8; 12] = b"XenVMMXenVMM";
        const VIRTUAL: u32 = 1 << 31;
        let others = [
            b"Microsoft Hv",
            b"XenVMMXenVMm",
            b"XenVMMxenVMM",
            b"xenVMMXenVMM",
        ];
        for at in [0x4000_0000, 0x4000_0100, 0x4000_ff00] {
            assert_eq!(leaves_of(processor(VIRTUAL, &[(at, XEN)])), Some(at));
            assert_eq!(leaves_of(processor(!VIRTUAL, &[(at, XEN)])), None);
            for other in others {
                let both = [(0x4000_0000, other), (at, XEN)];
                let found = leaves_of(processor(VIRTUAL, &both));
                assert_eq!(found, (at != 0x4000_0000).then_some(at));
                assert_eq!(leaves_of(processor(VIRTUAL, &[(at, other)])), None);
            }
        }
        // Between the places, and beyond the last.
        for at in [0x4000_0001, 0x4001_0000] {
            assert_eq!(leaves_of(processor(VIRTUAL, &[(at, XEN)])), None);
        }
    }

    /// It is this processor that is asked.
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no processor to ask")]
    fn xen_is_looked_for_on_this_processor() {
        assert_eq!(xen_leaves(), leaves_of(cpuid));
    }

    /// Where events come as interrupts there is no mask of upcalls: it counts as set, so that nobody
    /// clears it afterwards.
    #[test]
    fn upcalls_count_as_masked_where_events_are_interrupts() {
        assert!(XenHvm { amd: false }.mask_upcalls());
    }
}
