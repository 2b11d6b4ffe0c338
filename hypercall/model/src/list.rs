//! Lists of requests, as `mmu_update` and `mmuext_op` take them: carried out one by one, up to the
//! first that is refused or to an event that the guest is to take first (`do_mmu_update`,
//! `do_mmuext_op` in `xen/arch/x86/mm.c`).

use std::marker::PhantomData;

use hypercall::{Errno, Op};

use crate::state::{Outcome, State, copy_from, copy_to, handle_ok};

/// In a count: the list call was interrupted, and this is the rest of it.
pub const PREEMPTED: u32 = 1 << 31;

/// A call about a list of `T`, its arguments taken apart.
pub(crate) struct List<T> {
    op: Op,
    list: u64,
    count: u32,
    pdone: u64,
    /// Whose pages and tables the requests are about.
    pub(crate) foreign: u32,
    /// Carried out before it was interrupted.
    done: u32,
    requests: PhantomData<T>,
}

impl<T: Copy> List<T> {
    /// From what the guest passed; an outcome if that is all there is to it.
    pub(crate) fn new(op: Op, args: [u64; 5]) -> Result<Self, Outcome> {
        let [list, count, pdone, foreign, _] = args;
        let (mut count, foreign) = (count as u32, foreign as u32);
        if count == PREEMPTED && list == 0 {
            // The tail of a call whose clean-up was interrupted: it carries its own result.
            return Err(Outcome::Done(foreign as i32 as i64));
        }
        let mut done = 0;
        if count & PREEMPTED != 0 {
            count &= !PREEMPTED;
            done = copy_from(pdone).unwrap_or(0);
        }
        if !handle_ok(list, count as u64 * size_of::<T>() as u64) {
            return Err(Err(Errno::EFAULT).into());
        }
        Ok(Self {
            op,
            list,
            count,
            pdone,
            foreign,
            done,
            requests: PhantomData,
        })
    }

    /// Lets `each` carry out one request after the other, given its place in the list, and tells
    /// the guest how many it did.
    pub(crate) fn run(
        self,
        state: &mut State,
        mut each: impl FnMut(&mut State, u32, T) -> Result<(), Errno>,
    ) -> Outcome {
        let at = |index: u32| self.list + index as u64 * size_of::<T>() as u64;
        let mut result = Ok(());
        let mut index = 0;
        let mut preempted = false;
        while index < self.count {
            if index > 0 && state.preempt_check() {
                preempted = true;
                break;
            }
            result = copy_from(at(index)).and_then(|request| each(state, index, request));
            if result.is_err() {
                break;
            }
            index += 1;
        }
        // Xen makes no fuss about a bad pointer here.
        let _ = (self.pdone != 0).then(|| copy_to(self.pdone, self.done + index));
        if preempted {
            let rest = (self.count - index) | PREEMPTED;
            let args = [at(index), rest as u64, self.pdone, self.foreign as u64, 0];
            return Outcome::Preempted(self.op, args);
        }
        result.map(|()| 0).into()
    }
}
