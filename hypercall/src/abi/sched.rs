//! `sched.h`: yield, block, poll, shut down.

pub use xen_sys::{
    SCHEDOP_block, SCHEDOP_poll, SCHEDOP_shutdown, SCHEDOP_shutdown_code, SCHEDOP_watchdog,
    SCHEDOP_yield, SHUTDOWN_crash, SHUTDOWN_poweroff, SHUTDOWN_reboot, SHUTDOWN_soft_reset,
    SHUTDOWN_suspend, SHUTDOWN_watchdog, sched_poll, sched_shutdown, sched_watchdog,
};
