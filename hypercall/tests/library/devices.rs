//! A machine's devices that answer instead of Xen: each request reaches the one that is to answer it,
//! as it was made, none is called by number, and what is refused says what it would have been.

use std::cell::RefCell;

use hypercall::{
    Errno, Hypervisor, Op, XenError,
    abi::{event::evtchn_port_t, xen::VIRQ_TIMER},
    console, event,
    event::Port,
    instead::Devices,
    sched,
    sched::Shutdown,
    time, vcpu,
};

/// Does what it is asked, or refuses it, and keeps what that was.
#[derive(Default)]
struct Machine {
    asked: RefCell<Vec<String>>,
    refuse: Option<Errno>,
}

impl Machine {
    fn asked(&self, what: String) {
        self.asked.borrow_mut().push(what);
    }

    fn answer<T>(&self, what: String, value: T) -> Result<T, Errno> {
        self.asked(what);
        self.refuse.map_or(Ok(value), Err)
    }

    /// Asserts that this was asked since last time, and nothing else.
    #[track_caller]
    fn was_asked(&self, what: &[&str]) {
        assert_eq!(self.asked.take(), what);
    }
}

impl Hypervisor for Machine {
    unsafe fn call(&self, op: Op, _: [u64; 5]) -> i64 {
        panic!("called by number: {op:?}");
    }

    fn mask_upcalls(&self) -> bool {
        true
    }

    fn restore_upcalls(&self, _: bool) {}

    fn devices(&self) -> Option<&dyn Devices> {
        Some(self)
    }
}

impl Devices for Machine {
    fn write(&self, text: &[u8]) {
        self.asked(format!("write {}", text.escape_ascii()));
    }

    fn read(&self, buffer: &mut [u8]) -> usize {
        self.asked(format!("read {}", buffer.len()));
        buffer[..2].copy_from_slice(b"ab");
        // One that promises too much is not believed.
        if buffer.len() > 2 { 2 } else { 1000 }
    }

    fn pause(&self) {
        self.asked("pause".into());
    }

    fn poll(&self, ports: &[evtchn_port_t], deadline: u64) -> Result<(), Errno> {
        self.answer(format!("poll {ports:?} {deadline}"), ())
    }

    fn shutdown(&self, reason: Shutdown) {
        self.asked(format!("shutdown {reason:?}"));
    }

    fn set_timer(&self, deadline: u64) -> Result<(), Errno> {
        self.answer(format!("set_timer {deadline}"), ())
    }

    fn bind_virq(&self, virq: u32, vcpu: u32) -> Result<Port, Errno> {
        self.answer(format!("bind_virq {virq} {vcpu}"), Port(17))
    }

    fn bind_ipi(&self, vcpu: u32) -> Result<Port, Errno> {
        self.answer(format!("bind_ipi {vcpu}"), Port(18))
    }

    fn send(&self, port: Port) -> Result<(), Errno> {
        self.answer(format!("send {port}"), ())
    }

    fn unmask(&self, port: Port) -> Result<(), Errno> {
        self.answer(format!("unmask {port}"), ())
    }

    fn close(&self, port: Port) -> Result<(), Errno> {
        self.answer(format!("close {port}"), ())
    }

    fn is_up(&self, vcpu: u32) -> Result<bool, Errno> {
        self.answer(format!("is_up {vcpu}"), true)
    }

    fn is_running(&self, vcpu: u32) -> Result<bool, Errno> {
        self.answer(format!("is_running {vcpu}"), false)
    }

    unsafe fn up(&self, vcpu: u32) -> Result<(), Errno> {
        self.answer(format!("up {vcpu}"), ())
    }

    fn down(&self, vcpu: u32) -> Result<(), Errno> {
        self.answer(format!("down {vcpu}"), ())
    }
}

/// Whatever is asked of the console, of time, of events and of processors is asked of the machine, as it was made.
#[test]
fn devices_are_asked_what_xen_would_be() {
    let machine = Machine::default();
    // By reference, as those hold it who share it.
    let hv = &&machine;
    console::write(hv, b"hello\n").unwrap();
    machine.was_asked(&["write hello\\n"]);
    assert_eq!(console::read(hv, &mut [0; 16]), Ok(&b"ab"[..]));
    machine.was_asked(&["read 16"]);
    assert_eq!(console::read(hv, &mut [0; 2]), Ok(&b"ab"[..]));
    machine.was_asked(&["read 2"]);
    sched::r#yield(hv).unwrap();
    machine.was_asked(&["pause"]);
    sched::poll(hv, &[5, 6], 99).unwrap();
    machine.was_asked(&["poll [5, 6] 99"]);
    time::set_timer(hv, 12345).unwrap();
    machine.was_asked(&["set_timer 12345"]);
    assert_eq!(event::bind_virq(hv, VIRQ_TIMER, 0), Ok(Port(17)));
    machine.was_asked(&[&format!("bind_virq {VIRQ_TIMER} 0")]);
    assert_eq!(event::bind_ipi(hv, 3), Ok(Port(18)));
    event::send(hv, Port(4)).unwrap();
    event::unmask(hv, Port(4)).unwrap();
    event::close(hv, Port(4)).unwrap();
    machine.was_asked(&["bind_ipi 3", "send 4", "unmask 4", "close 4"]);
    assert_eq!(vcpu::is_up(hv, 2), Ok(true));
    assert_eq!(vcpu::is_running(hv, 2), Ok(false));
    // SAFETY: nothing runs there.
    unsafe { vcpu::up(hv, 2) }.unwrap();
    vcpu::down(hv, 2).unwrap();
    machine.was_asked(&["is_up 2", "is_running 2", "up 2", "down 2"]);
}

/// A machine's timer has no period, so that stopping that needs nobody.
#[test]
fn a_machine_has_no_periodic_timer_to_stop() {
    let machine = Machine::default();
    time::stop_periodic(&machine, 0).unwrap();
    machine.was_asked(&[]);
}

/// A shutdown that comes back has failed: the machine has no way to end.
#[test]
fn a_shutdown_that_comes_back_is_an_error() {
    let machine = Machine::default();
    let error = sched::shutdown(&machine, Shutdown::Reboot).unwrap_err();
    machine.was_asked(&["shutdown Reboot"]);
    assert_eq!(
        error.to_string(),
        "sched_op(shutdown): ENODEV (no such device)"
    );
}

/// What a device refuses is told as Xen's refusal of the same request is.
#[test]
fn what_a_device_refuses_is_named_as_the_call() {
    let machine = Machine {
        refuse: Some(Errno::ENODEV),
        ..Machine::default()
    };
    let hv = &machine;
    let told = |error: XenError, call: &str| {
        assert_eq!(
            error.to_string(),
            format!("{call}: ENODEV (no such device)")
        );
    };
    told(sched::poll(hv, &[5], 0).unwrap_err(), "sched_op(poll)");
    told(time::set_timer(hv, 1).unwrap_err(), "set_timer_op");
    let events: [(&str, Result<(), XenError>); 5] = [
        ("bind_virq", event::bind_virq(hv, VIRQ_TIMER, 0).map(drop)),
        ("bind_ipi", event::bind_ipi(hv, 0).map(drop)),
        ("send", event::send(hv, Port(4))),
        ("unmask", event::unmask(hv, Port(4))),
        ("close", event::close(hv, Port(4))),
    ];
    for (name, result) in events {
        told(result.unwrap_err(), &format!("event_channel_op({name})"));
    }
}
