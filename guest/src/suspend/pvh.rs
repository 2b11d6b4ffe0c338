//! The part of a guest in hardware virtualisation: its frames have the numbers that they had, and the tools
//! keep its processor's state. What they tell it is in the parameters of its platform, as at boot.

use hypercall::abi::hvm::{HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_STORE_EVTCHN};
use hypercall::event::Port;
use hypercall::hvm::parameter;
use hypercall::sched::{self, Resumed};

use super::Trouble;
use crate::event;
use crate::xen::HV;

/// Suspends the domain, and asks how it goes on, and for the ports of xenstore and console.
pub(super) fn suspend() -> Result<(Resumed, Port, Port), Trouble> {
    let how = sched::suspend_translated(&HV)?;
    let port = |index| parameter(&HV, index).map(|port| Port(port as u32));
    Ok((
        how,
        port(HVM_PARAM_STORE_EVTCHN)?,
        port(HVM_PARAM_CONSOLE_EVTCHN)?,
    ))
}

/// Has Xen put `shared_info` in its place again, where a restored domain has memory, and raise upcalls.
pub(super) fn share_anew() -> Result<(), Trouble> {
    Ok(event::share_anew()?)
}
