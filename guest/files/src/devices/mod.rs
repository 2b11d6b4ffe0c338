//! The devices that every Linux has: `/dev/null` and its like.

mod memory;

use alloc::sync::Arc;

use crate::errno::Result;
use crate::inode::{DeviceNumber, Kind};
use crate::kernel::{make_device, make_directory};
use crate::system::{Device, System};
use memory::Memory;

/// The devices of memory, by their number and name (Linux' `Documentation/admin-guide/devices.txt`).
const MEMORY: [(u32, &str, Memory); 5] = [
    (3, "null", Memory::Null),
    (5, "zero", Memory::Zero),
    (7, "full", Memory::Full),
    (8, "random", Memory::Random),
    (9, "urandom", Memory::Random),
];

/// The driver of the devices of memory.
const MEMORY_MAJOR: u32 = 1;

/// Makes a device known, and gives it a name in `/dev`.
///
/// # Errors
/// Those of making a file there.
pub fn add_device(
    system: &System,
    name: &str,
    mode: u32,
    number: DeviceNumber,
    device: Arc<dyn Device>,
) -> Result<()> {
    system.add_device(Kind::CharDevice, number, device);
    make_directory(system, "/dev", 0o755)?;
    make_device(system, name, mode, number)
}

/// Has `/dev/null`, `zero`, `full`, `random` and `urandom`.
///
/// # Errors
/// Those of making a file in `/dev`.
pub fn add_memory_devices(system: &System) -> Result<()> {
    for (minor, name, device) in MEMORY {
        let number = DeviceNumber::new(MEMORY_MAJOR, minor);
        let device = Arc::new(device.of(system.host().clone()));
        add_device(system, name, 0o666, number, device)?;
    }
    Ok(())
}
