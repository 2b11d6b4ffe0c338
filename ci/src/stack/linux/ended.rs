//! After a domain: the rest of its console, and that nothing of it is left; after a dom0 that stands
//! still, what can be learnt of why.

use std::time::{Duration, Instant};

use super::{ANSWER_TIMEOUT, CONTROL, LOG, Open, Stop};
use crate::console::transcript::Transcript;
use crate::console::verdict::End;
use crate::stack::domain::{XlEvent, listed, pages_held, xl_event};

/// When the rest of a console is overdue.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Three times Ctrl-A has Xen take what is typed for itself: its clocks, its timers, what runs,
/// each processor's registers, event channels and domains.
const DEBUG_KEYS: &[u8] = b"\x01\x01\x01tsardeq\x01\x01\x01";

/// When it has answered them.
const KEYS_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the dom0 looks whether a domain that was destroyed is gone, and how long it waits in
/// between. Xen lets go within milliseconds of what nothing holds.
const LOOKS: u32 = 25;
const BETWEEN_LOOKS: &str = "usleep 200000";

impl Open<'_> {
    /// Waits for the rest of the console: the daemon's own log says how long it is.
    pub(super) fn collect(
        &mut self,
        transcript: &mut Option<&mut Transcript>,
    ) -> std::result::Result<(), Stop> {
        let answer = self.call("console_size", transcript)?;
        let size: u64 = answer
            .first()
            .and_then(|line| line.trim().parse().ok())
            .unwrap_or(0);
        let deadline = self.within(CONSOLE_TIMEOUT);
        while self.received < size {
            match self.step(deadline, transcript) {
                Ok(()) => {}
                Err(Stop::Deadline) => break,
                Err(stop) => return Err(stop),
            }
        }
        Ok(())
    }

    /// Destroys the domain and waits until xl knows.
    pub(super) fn remove(
        &mut self,
        domid: Option<u32>,
        transcript: &mut Option<&mut Transcript>,
    ) -> std::result::Result<(), Stop> {
        let Some(domid) = domid else { return Ok(()) };
        self.call(&format!("detach; xl destroy {domid}"), transcript)?;
        let deadline = self.within(ANSWER_TIMEOUT);
        while !self
            .control
            .reports
            .iter()
            .any(|line| xl_event(line) == Some(XlEvent::Exit))
        {
            self.step(deadline, transcript)?;
        }
        self.control.reports.clear();
        Ok(())
    }

    /// Asks QEMU and Xen about a machine that stands still. Xen's answers go to its log.
    pub(super) fn inquest(&mut self, transcript: &mut Transcript) -> String {
        let told = self.running.inquest(transcript.dir());
        let before = transcript.host.len();
        self.running.ports.type_in(LOG, DEBUG_KEYS);
        let deadline = Some(Instant::now() + KEYS_TIMEOUT);
        while self.step(deadline, &mut Some(transcript)).is_ok() {}
        let lines = transcript.host.len() - before;
        format!("{told}; Xen answered its debug keys by {lines} lines")
    }

    /// Sees to it that Xen has let go of the domain that ended. One that is destroyed and still
    /// listed is a zombie, whose memory the host does not get back; the stack is of no further use.
    pub(super) fn gone(
        &mut self,
        end: End,
        transcript: &mut Transcript,
    ) -> std::result::Result<End, Stop> {
        let Some(domid) = self.left_over(transcript)? else {
            return Ok(end);
        };
        // Xen says on its console what it still has of the domain. The answer of the dom0 is not
        // waited for: Xen lists every page first.
        let call = self.control.call("xl debug-keys q");
        self.running.ports.write(CONTROL, call.line.as_bytes());
        let deadline = self.within(ANSWER_TIMEOUT);
        let pages = loop {
            if let Some(pages) = pages_held(&transcript.host, domid) {
                break Some(pages);
            }
            match self.step(deadline, &mut Some(transcript)) {
                Ok(()) => {}
                Err(Stop::Deadline) => break None,
                Err(stop) => return Err(stop),
            }
        };
        Ok(End::Zombie {
            domid,
            pages,
            end: Box::new(end),
        })
    }

    /// A domain that is still listed after a while.
    fn left_over(&mut self, transcript: &mut Transcript) -> std::result::Result<Option<u32>, Stop> {
        let mut left = None;
        for _ in 0..LOOKS {
            let lines = self.call("xl list", &mut Some(transcript))?;
            left = listed(&lines).first().copied();
            if left.is_none() {
                break;
            }
            self.call(BETWEEN_LOOKS, &mut Some(transcript))?;
        }
        Ok(left)
    }
}
