//! `vcpu.h`: bringing vCPUs up and down, their timers and their shared areas.

/// Gives a vCPU its first context.
pub const VCPUOP_initialise: u32 = 0;
/// Lets it run.
pub const VCPUOP_up: u32 = 1;
/// Stops it.
pub const VCPUOP_down: u32 = 2;
/// Whether it runs: 1 or 0.
pub const VCPUOP_is_up: u32 = 3;
/// How long it spent in each state.
pub const VCPUOP_get_runstate_info: u32 = 4;
/// Has Xen keep that up to date in guest memory, by virtual address.
pub const VCPUOP_register_runstate_memory_area: u32 = 5;
/// Sets its periodic timer.
pub const VCPUOP_set_periodic_timer: u32 = 6;
/// Stops its periodic timer, which runs at 100 Hz by default.
pub const VCPUOP_stop_periodic_timer: u32 = 7;
/// Sets its one-shot timer.
pub const VCPUOP_set_singleshot_timer: u32 = 8;
/// Stops its one-shot timer.
pub const VCPUOP_stop_singleshot_timer: u32 = 9;
/// Moves its `vcpu_info`, once.
pub const VCPUOP_register_vcpu_info: u32 = 10;
/// Sends it an NMI.
pub const VCPUOP_send_nmi: u32 = 11;
/// Has Xen keep its clock up to date in guest memory, by virtual address.
pub const VCPUOP_register_vcpu_time_memory_area: u32 = 13;

/// As [`VCPUOP_register_runstate_memory_area`], by machine address; from Xen 4.18 on.
pub const VCPUOP_register_runstate_phys_area: u32 = 14;
/// As [`VCPUOP_register_vcpu_time_memory_area`], by machine address; from Xen 4.18 on.
pub const VCPUOP_register_vcpu_time_phys_area: u32 = 15;

/// On a CPU.
pub const RUNSTATE_running: i32 = 0;
/// Waiting for a CPU.
pub const RUNSTATE_runnable: i32 = 1;
/// Idle.
pub const RUNSTATE_blocked: i32 = 2;
/// Not up.
pub const RUNSTATE_offline: i32 = 3;
/// In `state_entry_time`: an update is going on.
pub const XEN_RUNSTATE_UPDATE: u64 = 1 << 63;
/// A timeout in the past is an error (`ETIME`).
pub const VCPU_SSHOTTMR_future: u32 = 1;

/// Time by state.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct vcpu_runstate_info {
    /// `RUNSTATE_*`.
    pub state: i32,
    /// Since when, in nanoseconds of system time.
    pub state_entry_time: u64,
    /// Nanoseconds in each state.
    pub time: [u64; 4],
}

/// Argument of `VCPUOP_register_runstate_memory_area`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct vcpu_register_runstate_memory_area {
    /// Virtual address of a `vcpu_runstate_info`; a machine address for
    /// [`VCPUOP_register_runstate_phys_area`].
    pub addr: u64,
}

/// Argument of `VCPUOP_set_periodic_timer`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct vcpu_set_periodic_timer {
    /// Nanoseconds, at least one millisecond.
    pub period_ns: u64,
}

/// Argument of `VCPUOP_set_singleshot_timer`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct vcpu_set_singleshot_timer {
    /// System time, nanoseconds.
    pub timeout_abs_ns: u64,
    /// `VCPU_SSHOTTMR_*`.
    pub flags: u32,
}

/// Argument of `VCPUOP_register_vcpu_info`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct vcpu_register_vcpu_info {
    /// Machine frame.
    pub mfn: u64,
    /// Byte offset within it.
    pub offset: u32,
    /// Zero.
    pub rsvd: u32,
}

/// Argument of `VCPUOP_register_vcpu_time_memory_area`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct vcpu_register_time_memory_area {
    /// Virtual address of a `vcpu_time_info`; a machine address for
    /// [`VCPUOP_register_vcpu_time_phys_area`].
    pub addr: u64,
}
