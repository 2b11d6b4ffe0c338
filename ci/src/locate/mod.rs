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

#[cfg(test)]
mod tests {
    use super::image::tests::{outer, program};
    use super::*;

    #[test]
    fn what_is_returned_to_is_the_call_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path(), "full", &["-g"]);
        let start = outer(&path);
        let mut symbols = Locator::of(&path, None, true);
        let mut says = |line: String| symbols.explain(Voice::Guest, &line).join("\n");
        assert!(says(format!("  #0  {start:016x}")).contains(" in outer"));
        // What ends right before a function is not that function.
        assert!(!says(format!("  #1  {start:016x}")).contains(" in outer"));
        assert!(says(format!("  #1  {:016x}", start + 1)).contains(" in outer"));
        assert_eq!(says("  #1  0000000000000000".into()), "");
        assert_eq!(says(format!("memory from {start:016x} on")), "");
    }

    #[test]
    fn only_what_a_call_returns_to_is_found_on_a_stack() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path(), "full", &["-g"]);
        let image = Image::read(&path, None).unwrap();
        let start = image.address("_start", 0).unwrap();
        let behind = (start..start + 32)
            .find(|at| image.is_behind_call(*at))
            .unwrap();
        let mut symbols = Locator::of(&path, None, true);
        let mut says = |line: String| symbols.explain(Voice::Host, &line);
        assert!(says("(XEN) Guest stack trace from rsp=0000000000001000:".into()).is_empty());
        let said = says(format!("(XEN)    {start:016x} {behind:016x}"));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with(&format!("{MARK}{behind:016x} ")) && said[0].contains(" in _start")
        );
    }

    #[test]
    fn what_an_image_lacks_is_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let line = |path: &Path| format!("RIP: e033:[<{:016x}>]", outer(path));
        let named = program(dir.path(), "named", &["-Cdebuginfo=0", "-Cstrip=debuginfo"]);
        let mut symbols = Locator::of(&named, None, true);
        let said = symbols.explain(Voice::Guest, &line(&named));
        assert!(
            said[0].contains("has no DWARF") && said[0].contains("--symbols FILE"),
            "{said:?}"
        );
        assert_eq!(said[1], format!("{MARK}outer+0x0"));
        assert_eq!(symbols.explain(Voice::Guest, &line(&named)), said[1..]);
        let stripped = program(dir.path(), "stripped", &["-g", "-Cstrip=symbols"]);
        let mut symbols = Locator::of(&stripped, None, true);
        let said = symbols.explain(Voice::Guest, &line(&named));
        assert!(
            said.len() == 1 && said[0].contains("no file and line"),
            "{said:?}"
        );
        assert!(symbols.explain(Voice::Guest, &line(&named)).is_empty());
    }
}
