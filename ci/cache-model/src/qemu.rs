//! The part of QEMU's plugin interface that is used (`include/qemu/qemu-plugin.h`), as it has been since its
//! second version.

use core::ffi::{c_char, c_int, c_uint, c_void};

/// A block of instructions that QEMU translates.
#[repr(C)]
pub(crate) struct Block {
    _opaque: [u8; 0],
}

/// One of its instructions.
#[repr(C)]
pub(crate) struct Instruction {
    _opaque: [u8; 0],
}

/// Where an access goes.
#[repr(C)]
pub(crate) struct Place {
    _opaque: [u8; 0],
}

/// Called with each block.
pub(crate) type OnBlock = extern "C" fn(id: u64, block: *mut Block);

/// Called with each access: the processor, what it is, its virtual address, what was registered.
pub(crate) type OnAccess = extern "C" fn(cpu: c_uint, info: u32, virt: u64, with: *mut c_void);

/// `QEMU_PLUGIN_CB_NO_REGS`.
pub(crate) const NO_REGISTERS: c_int = 0;
/// `QEMU_PLUGIN_MEM_RW`.
pub(crate) const LOADS_AND_STORES: c_int = 3;

unsafe extern "C" {
    /// Has a function called with each block that is translated.
    #[link_name = "qemu_plugin_register_vcpu_tb_trans_cb"]
    pub(crate) fn on_block(id: u64, f: OnBlock);
    /// How many instructions a block has.
    #[link_name = "qemu_plugin_tb_n_insns"]
    pub(crate) fn instructions(block: *const Block) -> usize;
    /// One of them.
    #[link_name = "qemu_plugin_tb_get_insn"]
    pub(crate) fn instruction(block: *const Block, which: usize) -> *mut Instruction;
    /// Its virtual address.
    #[link_name = "qemu_plugin_insn_vaddr"]
    pub(crate) fn address(instruction: *const Instruction) -> u64;
    /// Has a function called with each access that an instruction makes.
    #[link_name = "qemu_plugin_register_vcpu_mem_cb"]
    pub(crate) fn on_access(
        instruction: *mut Instruction,
        f: OnAccess,
        flags: c_int,
        which: c_int,
        with: *mut c_void,
    );
    /// Whether an access writes.
    #[link_name = "qemu_plugin_mem_is_store"]
    pub(crate) fn is_store(info: u32) -> bool;
    /// Where it goes; null if that is not known.
    #[link_name = "qemu_plugin_get_hwaddr"]
    pub(crate) fn place(info: u32, virt: u64) -> *const Place;
    /// Whether that is a device.
    #[link_name = "qemu_plugin_hwaddr_is_io"]
    pub(crate) fn is_device(place: *const Place) -> bool;
    /// Its physical address.
    #[link_name = "qemu_plugin_hwaddr_phys_addr"]
    pub(crate) fn physical(place: *const Place) -> u64;
    /// Prints on QEMU's standard error or into its log.
    #[link_name = "qemu_plugin_outs"]
    pub(crate) fn print(text: *const c_char);
}
