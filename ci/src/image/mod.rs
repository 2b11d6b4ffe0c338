//! The kernel image between the linker and the loader: checked, then completed.
//!
//! The checks are those that only the whole image allows: its linker tables must boot on every
//! subarch ([`tables`]), and nothing that stays may refer to what is given back after boot
//! ([`references`]). What is wrong fails the build and is named. Then function names are filled in
//! for backtraces ([`symbols`]).

mod references;
mod report;
mod symbols;
pub(crate) mod tables;

use std::io::Write;
use std::path::Path;

use object::{Object, elf};

use crate::exit::{Failure, Result};
pub(crate) use report::Sizes;
use tables::Tables;

/// Checks and completes the image at `path`, as the linker wrote it.
pub(crate) fn finish(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).map_err(Failure::file("read", path))?;
    let wrong = |what: String| Failure::Guest(format!("{}: {what}", path.display()));
    let file = parse(&bytes).map_err(wrong)?;
    // Cargo puts the linker's file back only when something has changed.
    if is_finished(&file) {
        return Ok(());
    }
    let tables = Tables::read(&file).map_err(wrong)?;
    tables.check().map_err(wrong)?;
    references::check(&file).map_err(wrong)?;
    let mut finished = bytes.clone();
    symbols::fill(&mut finished, &file);
    let finished = without_relocations(&finished)
        .map_err(|error| wrong(format!("cannot be written anew: {error}")))?;
    replace(path, &finished)
}

/// Prints what is in the image at `path`.
pub(crate) fn show(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).map_err(Failure::file("read", path))?;
    let wrong = |what: String| Failure::Guest(format!("{}: {what}", path.display()));
    let file = parse(&bytes).map_err(wrong)?;
    let tables = Tables::read(&file).map_err(wrong)?;
    print!("{}", report::Report::new(&file, &tables));
    Ok(())
}

/// What the image at `path` takes in memory.
pub(crate) fn sizes(path: &Path) -> Result<Sizes> {
    let bytes = std::fs::read(path).map_err(Failure::file("read", path))?;
    let file = parse(&bytes).map_err(Failure::Guest)?;
    Ok(Sizes::new(&file))
}

/// Reads the file.
pub(crate) fn parse(bytes: &[u8]) -> std::result::Result<object::File<'_>, String> {
    object::File::parse(bytes).map_err(|error| format!("not the ELF file it should be: {error}"))
}

/// Whether that was done already: relocations are what goes last.
fn is_finished(file: &object::File<'_>) -> bool {
    file.section_by_name(".rela.text").is_none()
}

/// The image without the relocations, which only the checks need and which are half of the file.
fn without_relocations(bytes: &[u8]) -> object::build::Result<Vec<u8>> {
    let mut builder = object::build::elf::Builder::read(bytes)?;
    for section in &mut builder.sections {
        section.delete |= section.sh_type == elf::SHT_RELA;
    }
    let mut out = Vec::new();
    builder.write(&mut out)?;
    Ok(out)
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
