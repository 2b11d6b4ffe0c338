//! Crashes with file and line: what a kernel or Xen prints of a crash is followed, on lines of its
//! own, by the place in the source of every address in it, and by the functions inlined there.
//!
//! The image itself is asked, which is read when the first such line comes. The raw lines stay as
//! they are, and no judge sees those that are added.

mod image;
mod line;

use std::path::{Path, PathBuf};

use crate::console::contract::plain;
use crate::console::transcript::Voice;
use image::Image;
use line::{Finder, Place, Sort};

/// What an added line begins with.
const MARK: &str = "        --> ";

/// Explains the lines of one run.
pub(crate) struct Locator {
    kernel: PathBuf,
    given: Option<PathBuf>,
    image: State,
    guest: Finder,
    host: Finder,
}

/// What is known of the image.
enum State {
    Unread,
    Read(Box<Image>),
    /// It says nothing, which has been said.
    Nothing,
}

impl Locator {
    /// For a run of `kernel`, whose DWARF is in `given` if that is named. `is_dom0` tells whether it
    /// is the first domain of its Xen, or whether another is.
    pub(crate) fn of(kernel: &Path, given: Option<&Path>, is_dom0: bool) -> Self {
        Self {
            kernel: kernel.to_owned(),
            given: given.map(Path::to_owned),
            image: State::Unread,
            guest: Finder::default(),
            host: match is_dom0 {
                true => Finder::default(),
                false => Finder::below_dom0(),
            },
        }
    }

    /// Lines that explain one of the console.
    pub(crate) fn explain(&mut self, voice: Voice, line: &str) -> Vec<String> {
        let finder = match voice {
            Voice::Guest => &mut self.guest,
            Voice::Host => &mut self.host,
        };
        let places = finder.places(&plain(line));
        if places.is_empty() {
            return Vec::new();
        }
        let several = places.len() > 1;
        let mut said = Vec::new();
        if let State::Unread = self.image {
            self.read(&mut said);
        }
        let State::Read(image) = &self.image else {
            return said;
        };
        let mut lines = Vec::new();
        for (sort, place) in places {
            let Some(address) = address(image, sort, &place) else {
                continue;
            };
            // The call is what matters, and may be the last instruction of its function.
            let asked = match sort {
                Sort::At => address,
                Sort::Return | Sort::Guess => address - 1,
            };
            let which = match several || sort == Sort::Guess {
                true => format!("{address:016x} "),
                false => String::new(),
            };
            let places = image.places(asked);
            // A kernel that knows its functions has said as much.
            let new = places.iter().filter(|place| !line.contains(*place));
            lines.extend(new.map(|place| format!("{MARK}{which}{place}")));
        }
        said.extend(lines);
        said
    }

    /// Reads the image, and says what it lacks.
    fn read(&mut self, said: &mut Vec<String>) {
        const REMEDY: &str = "build the kernel with debug information, or name the file that has \
            it by --symbols FILE";
        let image = Image::read(&self.kernel, self.given.as_deref());
        self.image = match image {
            Ok(image) => {
                if !image.has_lines() {
                    let file = self.given.as_ref().unwrap_or(&self.kernel).display();
                    said.push(format!(
                        "{MARK}{file} has no DWARF: places are named by function alone; {REMEDY}"
                    ));
                }
                State::Read(Box::new(image))
            }
            Err(why) => {
                said.push(format!("{MARK}no file and line: {why}; {REMEDY}"));
                State::Nothing
            }
        };
    }
}

/// The address of a place, if it is one of the image's code.
fn address(image: &Image, sort: Sort, place: &Place) -> Option<u64> {
    let address = match place {
        Place::Address(address) => *address,
        Place::Named(name, offset) => image.address(name, *offset)?,
    };
    match sort {
        Sort::At => image.is_code(address),
        Sort::Return => address > 0 && image.is_code(address - 1),
        Sort::Guess => image.is_behind_call(address),
    }
    .then_some(address)
}
