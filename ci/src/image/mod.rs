//! The kernel image between the linker and the loader: checked, then completed.
//!
//! The checks are those that only the whole image allows: its linker tables must boot on every
//! subarch ([`tables`]), and nothing that is used after boot may lead to what is given back then
//! ([`references`]). What is wrong fails the build and is named. Then function names are filled in
//! for backtraces ([`symbols`]).

mod map;
mod references;
mod symbols;
mod tables;

use std::io::Write;
use std::path::Path;

use linker::read::Memory;
use object::{Object, ObjectSection, ObjectSegment};

use crate::exit::{Failure, Result};
use tables::Tables;

/// Checks and completes the image at `path`, which the linker wrote together with a map.
pub(crate) fn finish(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).map_err(Failure::file("read", path))?;
    let wrong = |what: String| Failure::Guest(format!("{}: {what}", path.display()));
    let file = object::File::parse(bytes.as_slice())
        .map_err(|error| wrong(format!("not the ELF file it should be: {error}")))?;
    let tables = Tables::read(&file).map_err(wrong)?;
    tables.check().map_err(wrong)?;
    let map = path.with_extension("map");
    let text = std::fs::read_to_string(&map).map_err(Failure::file("read", &map))?;
    references::check(&file, &map::parse(&text), &tables).map_err(wrong)?;
    symbols::fill(path, bytes.clone(), &file)
}

/// What an image has in memory, as far as the file says.
struct Loaded<'a>(&'a object::File<'a>);

impl Memory for Loaded<'_> {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        let length = length as u64;
        self.0.segments().find_map(|segment| {
            let data = segment.data_range(address, length);
            data.ok().flatten()
        })
    }
}

/// Addresses of a section.
fn range(file: &object::File<'_>, name: &str) -> Option<core::ops::Range<u64>> {
    let section = file.section_by_name(name)?;
    Some(section.address()..section.address() + section.size())
}

/// Puts a new file in the place of one that another run may be reading.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let failed = || Failure::file("write", path);
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed())?;
    file.write_all(bytes).map_err(failed())?;
    let permissions = std::fs::metadata(path).map_err(failed())?.permissions();
    file.as_file()
        .set_permissions(permissions)
        .map_err(failed())?;
    file.persist(path)
        .map_err(|error| failed()(error.error))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_image_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(finish(file.path()).unwrap_err().status(), 1);
    }
}
