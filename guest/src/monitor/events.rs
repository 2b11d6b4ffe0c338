//! What event channels there are.

use core::fmt;

use hypercall::abi::event::{
    EVTCHNSTAT_interdomain, EVTCHNSTAT_ipi, EVTCHNSTAT_pirq, EVTCHNSTAT_unbound, EVTCHNSTAT_virq,
    evtchn_status,
};

use super::Monitor;
use super::commands::command;
use crate::control::End;
use crate::xen::HV;
use crate::{event, println};

/// What a port is bound to, by Xen.
struct Bound(Option<evtchn_status>);

impl fmt::Display for Bound {
    #[allow(
        non_upper_case_globals,
        reason = "numbers have the names that Xen gives them"
    )]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(status) = self.0 else {
            return f.write_str("the machine's own");
        };
        // SAFETY: Xen has written the member that the status names; all of them are integers.
        unsafe {
            match status.status {
                EVTCHNSTAT_unbound => write!(f, "waits for domain {}", status.u.unbound.dom),
                EVTCHNSTAT_interdomain => {
                    let other = status.u.interdomain;
                    write!(f, "port {} of domain {}", other.port, other.dom)
                }
                EVTCHNSTAT_pirq => write!(f, "physical interrupt {}", status.u.pirq),
                EVTCHNSTAT_virq => write!(f, "virtual interrupt {}", status.u.virq),
                EVTCHNSTAT_ipi => f.write_str("the domain itself"),
                _ => f.write_str("nothing"),
            }
        }
    }
}

fn events(_: &mut Monitor, _: &str) -> Option<End> {
    println!("events come {}", event::abi());
    println!("port vCPU      calls  bound to");
    for told in event::tell() {
        let event::Told {
            port,
            vcpu,
            calls,
            is_held,
        } = told;
        // In text, to be put to the right.
        let mut count = heapless::String::<20>::new();
        // There is room for every number.
        let _ = match calls {
            Some(calls) => fmt::write(&mut count, format_args!("{calls}")),
            None => fmt::write(&mut count, format_args!("waited")),
        };
        let bound = Bound(hypercall::event::status(&HV, port).ok());
        let held = if is_held { ", held back" } else { "" };
        println!("{:>4} {vcpu:>4} {count:>10}  {bound}{held}", port.0);
    }
    None
}
command!(
    "event",
    "",
    "list the event channels that somebody has: on which vCPU, how often each came, from whom",
    needs EVERYWHERE,
    events
);
