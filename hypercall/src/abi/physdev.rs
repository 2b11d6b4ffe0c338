//! `physdev.h`: I/O privilege.

/// Sets the kernel's I/O privilege level.
pub const PHYSDEVOP_set_iopl: u32 = 6;

/// Argument of `PHYSDEVOP_set_iopl`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct physdev_set_iopl {
    /// 0 to 3; a PV kernel touches ports with 1 or more.
    pub iopl: u32,
}
