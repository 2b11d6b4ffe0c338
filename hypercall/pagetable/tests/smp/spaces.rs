//! What vCPUs do with spaces: make, enter, change from outside of them, destroy.

use pagetable::frames::FrameError;
use pagetable::locks::Part;
use pagetable::spaces::NotDestroyed;
use pagetable::{Flags, MmError, Tables};

use super::op::{KERNEL, Op, PAGES, POOL, va};
use super::run::{Found, On, Page, Run, Side, said};

impl Run {
    /// Maps, protects or unmaps pages of a space's user half from outside of it.
    pub(super) fn in_space(
        &mut self,
        vcpu: usize,
        which: usize,
        (at, n, frame): (usize, usize, usize),
    ) -> Found<Vec<usize>> {
        let Some(side) = self.spaces[which].take() else {
            return Ok(Vec::new());
        };
        let range = at - KERNEL..at - KERNEL + n;
        let mapped = side.pages[range.clone()]
            .iter()
            .filter(|page| page.is_some());
        let mapped = mapped.count();
        let (frames, address) = (self.frames(frame, n), va(at));
        let boot = self.cpus.of(0).boot_space();
        let space = side.space.as_ref().unwrap_or(&boot);
        let done = self.cpus.with(vcpu, Some(Part::Space(space)), |tables| {
            tables.in_space(space, |tables| {
                // SAFETY: as in `apply`.
                let change = unsafe {
                    match mapped {
                        0 => tables.map(address, frames.into_iter(), Flags::DATA),
                        _ if mapped == n && frame % 2 == 0 => {
                            let none = Flags::empty();
                            tables.protect(address, n as u64, none, Flags::WRITABLE)
                        }
                        _ => tables.unmap(address, n as u64),
                    }
                };
                change?.commit(tables)
            })
        });
        let done = done.map_err(|e| said("sending what is queued", e))?;
        self.spaces[which] = Some(side);
        for i in 0..n {
            let page = match self.page(which, at + i) {
                None if mapped == 0 => Some(Page {
                    frame: (frame + i) % POOL,
                    flags: Flags::DATA,
                }),
                Some(page) if mapped == n && frame % 2 == 0 => Some(Page {
                    flags: page.flags - Flags::WRITABLE,
                    ..page
                }),
                _ => None,
            };
            self.set_page(which, at + i, page);
        }
        self.allow("in a space", done)?;
        Ok((at..at + n).collect())
    }

    pub(super) fn space_op(&mut self, vcpu: usize, op: Op, interrupt: bool) -> Found<Vec<usize>> {
        match op {
            Op::NewSpace => {
                let Some(place) = self.spaces.iter().position(Option::is_none) else {
                    return Ok(Vec::new());
                };
                let made = self.with(vcpu, On::Nothing, Tables::create_space)?;
                let space = made.map_err(|e| said("a space", e))?;
                self.spaces[place] = Some(Side::new(Some(space)));
            }
            Op::Switch { to } if !interrupt => {
                let Some(side) = self.spaces[to].take() else {
                    return Ok(Vec::new());
                };
                let boot = self.cpus.of(0).boot_space();
                let space = side.space.as_ref().unwrap_or(&boot);
                let done = self.cpus.with(vcpu, Some(Part::Space(space)), |tables| {
                    // SAFETY: nothing that is in use lies in a user half.
                    unsafe { tables.switch_space(space) }
                });
                self.spaces[to] = Some(side);
                let done = done.map_err(|e| said("sending what is queued", e))?;
                done.map_err(|e| said("a switch", e))?;
                self.at[vcpu].space = to;
                return Ok((KERNEL..PAGES).step_by(7).collect());
            }
            Op::DropSpace { which } if which > 0 => {
                let Some(side) = self.spaces[which].take() else {
                    return Ok(Vec::new());
                };
                let Side {
                    space: Some(space),
                    pages,
                } = side
                else {
                    return Ok(Vec::new());
                };
                let in_use = self.at.iter().any(|at| at.space == which);
                let dropped = self.with(vcpu, On::Kernel, |tables| tables.destroy_space(space))?;
                match dropped {
                    Ok(()) if !in_use => self.forget_space(which),
                    Ok(()) => return Err("a space that a vCPU is in was destroyed".into()),
                    Err(NotDestroyed {
                        error: MmError::Frame(FrameError::Illegal(..)),
                        space: Some(space),
                    }) if in_use => {
                        let space = Some(space);
                        self.spaces[which] = Some(Side { space, pages });
                    }
                    Err(e) => return Err(said("destroying a space", e.error)),
                }
            }
            _ => {}
        }
        Ok(Vec::new())
    }
}
