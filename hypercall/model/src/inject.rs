//! Failures on demand: any hypercall, any request of a list, any errno.

use hypercall::{Errno, Op};

use crate::{Model, state::State};

/// A failure to come.
///
/// What was carried out before it stays carried out, and the counts that a list call hands back
/// are as after a failure of Xen's own.
#[derive(Clone, Copy, Debug)]
pub struct Injection {
    /// In this hypercall, whether called alone or in a multicall.
    pub op: Op,
    /// With this command, if given: the first argument of a `*_op` hypercall, the `cmd` of an
    /// operation of `mmuext_op`, the low three bits of a request's `ptr`.
    pub cmd: Option<u32>,
    /// At this request of `mmu_update`, operation of `mmuext_op` or entry of a multicall. `None`:
    /// the hypercall fails as a whole, before it does anything.
    pub index: Option<u32>,
    /// The first match to fail: 1 is the next one.
    pub nth: u64,
    /// How many matches fail from there on.
    pub times: u64,
    /// With this error.
    pub errno: Errno,
}

impl Injection {
    /// The next `op` fails as a whole with `errno`, once.
    pub const fn call(op: Op, errno: Errno) -> Self {
        Self {
            op,
            cmd: None,
            index: None,
            nth: 1,
            times: 1,
            errno,
        }
    }

    /// Request `index` of the next list call `op` that gets there fails with `errno`, once.
    pub const fn request(op: Op, index: u32, errno: Errno) -> Self {
        Self {
            op,
            cmd: None,
            index: Some(index),
            nth: 1,
            times: 1,
            errno,
        }
    }
}

impl State {
    /// The error that this hypercall, or this request of it, is to fail with.
    #[inline]
    pub(crate) fn injected(&mut self, op: Op, cmd: u32, index: Option<u32>) -> Result<(), Errno> {
        if self.injections.is_empty() {
            return Ok(());
        }
        let mut failure = None;
        for injection in &mut self.injections {
            let matches = injection.op == op
                && injection.cmd.is_none_or(|wanted| wanted == cmd)
                && injection.index == index;
            if !matches || injection.times == 0 {
                continue;
            }
            if injection.nth > 1 {
                injection.nth -= 1;
            } else if failure.is_none() {
                injection.times -= 1;
                failure = Some(injection.errno);
            }
        }
        self.injections.retain(|injection| injection.times > 0);
        failure.map_or(Ok(()), Err)
    }
}

impl Model {
    /// How many failures have not come yet.
    pub fn injections(&self) -> usize {
        self.state.borrow().injections.len()
    }
}
