//! Paths, as Linux walks them (`path_resolution(7)`).

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as linux;

use crate::errno::{Errno, Result};
use crate::host::{Call, Identity};
use crate::inode::{Attributes, Inode, Kind};
use crate::mount::{Mounts, Place};

/// Symbolic links that a path may lead through (`MAXSYMLINKS` in Linux' `include/linux/namei.h`).
const MOST_LINKS: u32 = 40;

/// What someone wants to do, by the bits of rights.
pub const EXECUTE: u32 = 1;
/// To write.
pub const WRITE: u32 = 2;
/// To read.
pub const READ: u32 = 4;

/// Whether the rights of an inode let someone do something ([`READ`], [`WRITE`], [`EXECUTE`]).
///
/// # Errors
/// `EACCES` if not.
pub fn may(who: &Identity, inode: &Attributes, what: u32) -> Result<()> {
    let shift = if who.is_root() {
        // Nothing binds it, but that a file which nobody may execute is no program.
        let runs = inode.kind == Kind::Directory || inode.mode & 0o111 != 0;
        return match what & EXECUTE == 0 || runs {
            true => Ok(()),
            false => Err(Errno::EACCES),
        };
    } else if who.user == inode.user {
        6
    } else if who.is_in(inode.group) {
        3
    } else {
        0
    };
    match what & !(inode.mode >> shift) & 7 {
        0 => Ok(()),
        _ => Err(Errno::EACCES),
    }
}

/// Where walking begins and by what rules.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) mounts: &'a Mounts,
    pub(crate) root: &'a Place,
    pub(crate) who: &'a Identity,
    pub(crate) call: &'a Call<'a>,
}

/// A path on its way.
pub(crate) struct Walk<'a> {
    rules: Rules<'a>,
    /// Where it is.
    pub(crate) place: Place,
    path: &'a [u8],
    /// Links whose text is being walked, innermost last, and how far.
    links: Vec<(Arc<[u8]>, usize)>,
    at: usize,
    followed: u32,
}

/// The last part of a path.
#[derive(Clone)]
pub(crate) enum Last<'a> {
    /// A name, which may not exist.
    Name(Text<'a>),
    /// `.`
    Dot,
    /// `..`
    Up,
    /// Only slashes: the root itself.
    Root,
}

/// A name in a path, or in the text of a link.
#[derive(Clone)]
pub(crate) struct Text<'a> {
    whole: Whole<'a>,
    from: usize,
    to: usize,
}

#[derive(Clone)]
enum Whole<'a> {
    Path(&'a [u8]),
    Link(Arc<[u8]>),
}

impl Text<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        let whole = match &self.whole {
            Whole::Path(path) => path,
            Whole::Link(link) => &link[..],
        };
        &whole[self.from..self.to]
    }
}

/// The end of a path: its last part, and whether slashes follow it.
#[derive(Clone)]
pub(crate) struct End<'a> {
    pub(crate) last: Last<'a>,
    pub(crate) slash: bool,
}

impl<'a> Walk<'a> {
    /// Begins at `start`, which is the root if the path says so.
    pub(crate) fn new(rules: Rules<'a>, start: Place, path: &'a [u8]) -> Result<Self> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= linux::PATH_MAX as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(Self {
            rules,
            place: start,
            path,
            links: Vec::new(),
            at: 0,
            followed: 0,
        })
    }

    /// Walks up to the last part.
    pub(crate) fn walk_to_last(&mut self) -> Result<End<'a>> {
        loop {
            let Some(part) = self.next_part() else {
                return Ok(End {
                    last: Last::Root,
                    slash: true,
                });
            };
            let (is_last, slash) = self.look_ahead();
            let last = match part.bytes() {
                b"." => Last::Dot,
                b".." => Last::Up,
                _ => Last::Name(part),
            };
            self.check_search()?;
            let end = End { last, slash };
            if is_last {
                return Ok(end);
            }
            match &end.last {
                Last::Name(name) => {
                    let found = self.lookup(name.bytes())?;
                    match found.inode.kind() {
                        Kind::Symlink => self.enter_link(&found.inode)?,
                        Kind::Directory => self.place = found,
                        _ => return Err(Errno::ENOTDIR),
                    }
                    if self.place.inode.kind() != Kind::Directory {
                        return Err(Errno::ENOTDIR);
                    }
                }
                Last::Up => self.go_up(),
                Last::Dot | Last::Root => {}
            }
        }
    }

    /// Walks to the end. A last symbolic link is followed if `follow` says so or a slash comes
    /// behind it.
    pub(crate) fn walk_to_end(mut self, follow: bool) -> Result<Place> {
        loop {
            let end = self.walk_to_last()?;
            if let Some(place) = self.finish(&end, follow)? {
                return Ok(place);
            }
        }
    }

    /// The place at the end; `None` if a link was entered there, and must be walked.
    pub(crate) fn finish(&mut self, end: &End<'_>, follow: bool) -> Result<Option<Place>> {
        let found = match &end.last {
            Last::Name(name) => self.lookup(name.bytes())?,
            Last::Up => {
                self.go_up();
                self.place.clone()
            }
            Last::Dot | Last::Root => self.place.clone(),
        };
        if found.inode.kind() == Kind::Symlink && (follow || end.slash) {
            self.enter_link(&found.inode)?;
            // A link of the kernel's own has no text: it is already there.
            return match self.is_at_end() {
                false => Ok(None),
                true => {
                    self.check_slash(end)?;
                    Ok(Some(self.place.clone()))
                }
            };
        }
        if end.slash && found.inode.kind() != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        Ok(Some(found))
    }

    fn check_slash(&self, end: &End<'_>) -> Result<()> {
        match end.slash && self.place.inode.kind() != Kind::Directory {
            true => Err(Errno::ENOTDIR),
            false => Ok(()),
        }
    }

    /// Whether names may be looked up where it is.
    fn check_search(&self) -> Result<()> {
        let inode = &self.place.inode;
        if inode.kind() != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if self.rules.who.is_root() {
            return Ok(());
        }
        may(self.rules.who, &inode.attributes(), EXECUTE)
    }

    /// What a name in this directory stands for, and what is mounted there.
    pub(crate) fn lookup(&self, name: &[u8]) -> Result<Place> {
        if name.len() > linux::NAME_MAX as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        let inode = self.place.inode.lookup(name)?;
        let is_directory = inode.kind() == Kind::Directory;
        let place = self.place.with(inode);
        Ok(match is_directory {
            true => self.rules.mounts.covering(place),
            false => place,
        })
    }

    fn go_up(&mut self) {
        let up = self.place.up(self.rules.root);
        self.place = self.rules.mounts.covering(up);
    }

    /// Goes on with the text of a symbolic link.
    pub(crate) fn enter_link(&mut self, link: &Arc<dyn Inode>) -> Result<()> {
        self.followed += 1;
        if self.followed > MOST_LINKS {
            return Err(Errno::ELOOP);
        }
        if let Some(place) = link.follow(self.rules.call) {
            self.place = place?;
            return Ok(());
        }
        let text = link.target(self.rules.call)?;
        match text.first() {
            None => return Err(Errno::ENOENT),
            Some(b'/') => self.place = self.rules.root.clone(),
            Some(_) => {}
        }
        // Those that are at their end already are not come back to.
        self.links.retain(|(text, at)| *at < text.len());
        self.links.push((text, 0));
        Ok(())
    }

    /// The next part of what is left, without the slashes before it.
    fn next_part(&mut self) -> Option<Text<'a>> {
        fn part(text: &[u8], at: usize) -> Option<(usize, usize)> {
            let from = at + text[at..].iter().position(|&byte| byte != b'/')?;
            let rest = &text[from..];
            let length = rest.iter().position(|&byte| byte == b'/');
            Some((from, from + length.unwrap_or(rest.len())))
        }
        while let Some((text, at)) = self.links.last_mut() {
            if let Some((from, to)) = part(text, *at) {
                *at = to;
                let whole = Whole::Link(text.clone());
                return Some(Text { whole, from, to });
            }
            self.links.pop();
        }
        let (from, to) = part(self.path, self.at)?;
        self.at = to;
        Some(Text {
            whole: Whole::Path(self.path),
            from,
            to,
        })
    }

    /// Whether nothing but slashes is left, and whether there are any.
    fn look_ahead(&self) -> (bool, bool) {
        let links = self.links.iter().map(|(text, at)| &text[*at..]);
        let mut slash = false;
        for rest in links.chain([&self.path[self.at..]]) {
            if rest.iter().any(|&byte| byte != b'/') {
                return (false, slash);
            }
            slash |= !rest.is_empty();
        }
        (true, slash)
    }

    fn is_at_end(&self) -> bool {
        let links = self.links.iter().map(|(text, at)| &text[*at..]);
        links
            .chain([&self.path[self.at..]])
            .all(|rest| rest.iter().all(|&byte| byte == b'/'))
    }
}
