//! What an image, or the file beside it that has its debug information, knows of its addresses.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use addr2line::Loader;
use object::{BinaryFormat, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

/// Where in a section its code is, and the code itself, as far as the file has it.
struct Code {
    start: u64,
    size: u64,
    bytes: Vec<u8>,
}

/// An image that was read.
pub(super) struct Image {
    loader: Loader,
    /// Whether it has DWARF, or symbols alone.
    has_lines: bool,
    code: Vec<Code>,
    /// Functions by address: name and length.
    functions: BTreeMap<u64, (String, u64)>,
    /// The directory that paths are said relative to.
    here: PathBuf,
}

/// The file that has an image's DWARF.
struct Source {
    path: PathBuf,
    bytes: Vec<u8>,
    /// What was unpacked, for the library, which reads a file of its own.
    unpacked: Option<tempfile::NamedTempFile>,
}

impl Source {
    /// Reads a file, and unpacks it where it is packed by gzip.
    fn read(path: &Path) -> Result<Self, String> {
        let wrong = |error| format!("{} cannot be read: {error}", path.display());
        let mut bytes = std::fs::read(path).map_err(wrong)?;
        let mut file = None;
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut unpacked = Vec::new();
            let mut packed = flate2::read::MultiGzDecoder::new(bytes.as_slice());
            packed.read_to_end(&mut unpacked).map_err(wrong)?;
            bytes = unpacked;
            let mut unpacked = tempfile::NamedTempFile::new().map_err(wrong)?;
            unpacked.write_all(&bytes).map_err(wrong)?;
            file = Some(unpacked);
        }
        Ok(Self {
            path: path.to_owned(),
            bytes,
            unpacked: file,
        })
    }

    /// The file, if it is of the kind whose addresses are those of the running kernel: a packed Linux
    /// passes for a program of its firmware.
    fn parse(&self) -> Result<object::File<'_>, String> {
        let file = object::File::parse(self.bytes.as_slice()).ok();
        file.filter(|file| file.format() == BinaryFormat::Elf)
            .ok_or_else(|| format!("{} is no ELF file", self.path.display()))
    }
}

fn has_dwarf(file: &object::File<'_>) -> bool {
    let sections = [".debug_info", ".zdebug_info"];
    sections.iter().any(|name| {
        let section = file.section_by_name(name);
        section.is_some_and(|section| section.size() > 0)
    })
}

impl Image {
    /// Reads `kernel`, and its debug information from `symbols` if that is another file.
    ///
    /// # Errors
    /// Why there is nothing to be known of its addresses.
    pub(super) fn read(kernel: &Path, symbols: Option<&Path>) -> Result<Self, String> {
        let image = Source::read(kernel)?;
        let beside = symbols.map(Source::read).transpose()?;
        let source = beside.as_ref().unwrap_or(&image);
        let file = source.parse()?;
        let code = match image.parse() {
            Ok(image) => code(&image),
            // A packed Linux, whose code is that of the file beside it.
            Err(_) => code(&file),
        };
        if let (Some(_), Ok(image)) = (&beside, image.parse()) {
            let ids = [&image, &file].map(|file| file.build_id().ok().flatten());
            if let [Some(one), Some(other)] = ids
                && one != other
            {
                return Err(format!(
                    "{} was not built with {}: their build IDs differ",
                    source.path.display(),
                    kernel.display()
                ));
            }
        }
        let functions = functions(&file);
        let has_lines = has_dwarf(&file);
        if !has_lines && functions.is_empty() {
            return Err(format!(
                "{} has neither DWARF nor symbols",
                source.path.display()
            ));
        }
        let unpacked = source.unpacked.as_ref();
        let path = unpacked.map_or(source.path.as_path(), |file| file.path());
        let loader = Loader::new(path).map_err(|error| {
            let file = source.path.display();
            format!("{file} has DWARF that cannot be read: {error}")
        })?;
        Ok(Self {
            loader,
            has_lines,
            code,
            functions,
            here: std::env::current_dir().unwrap_or_default(),
        })
    }

    /// Whether it knows files and lines, and not functions alone.
    pub(super) fn has_lines(&self) -> bool {
        self.has_lines
    }

    /// Whether code of the image is at an address.
    pub(super) fn is_code(&self, address: u64) -> bool {
        let inside = |code: &Code| (code.start..code.start + code.size).contains(&address);
        self.code.iter().any(inside)
    }

    /// Whether the instruction before an address is a call, as far as can be told from behind.
    pub(super) fn is_behind_call(&self, address: u64) -> bool {
        let inside = |code: &&Code| (code.start + 1..=code.start + code.size).contains(&address);
        let Some(code) = self.code.iter().find(inside) else {
            return false;
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an offset in bytes that were read"
        )]
        let Some(before) = code.bytes.get(..(address - code.start) as usize) else {
            return false;
        };
        let back = |bytes: usize| before.get(before.len().checked_sub(bytes)?..);
        // CALL rel32, and CALL r/m64: opcode FF /2, two to seven bytes long.
        let direct = back(5).is_some_and(|code| code[0] == 0xe8);
        let indirect = |code: &[u8]| code[0] == 0xff && (code[1] >> 3) & 7 == 2;
        direct || (2..=7).filter_map(back).any(indirect)
    }

    /// The address of a place in a function.
    pub(super) fn address(&self, name: &str, offset: u64) -> Option<u64> {
        let mut functions = self.functions.iter();
        let (start, _) = functions.find(|(_, (other, _))| other == name)?;
        start.checked_add(offset)
    }

    /// What is at an address, the innermost function first.
    pub(super) fn places(&self, address: u64) -> Vec<String> {
        let mut places = Vec::new();
        if let Ok(mut frames) = self.loader.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame
                    .function
                    .as_ref()
                    .and_then(|name| name.demangle().ok());
                let place = frame.location.and_then(|place| self.place(&place));
                places.push((place, name.map(|name| name.into_owned())));
            }
        }
        let known = self.function(address);
        // DWARF of line tables alone has names without the modules that they are in.
        if let (Some((_, outermost)), Some((name, _))) = (places.last_mut(), known) {
            *outermost = Some(name.to_owned());
        }
        let outermost = places.len().saturating_sub(1);
        let said = places.into_iter().enumerate().filter_map(|(depth, place)| {
            let inlined = if depth < outermost { ", inlined" } else { "" };
            match place {
                (Some(place), Some(function)) => Some(format!("{place} in {function}{inlined}")),
                (place, _) => place,
            }
        });
        let said: Vec<_> = said.collect();
        match known {
            Some((name, offset)) if said.is_empty() => vec![format!("{name}+{offset:#x}")],
            _ => said,
        }
    }

    /// File, line and column, as far as they are known.
    fn place(&self, place: &addr2line::Location<'_>) -> Option<String> {
        let numbers = [place.line, place.column].into_iter().flatten();
        let numbers = numbers.filter(|number| *number != 0);
        let numbers: String = numbers.map(|number| format!(":{number}")).collect();
        Some(format!("{}{numbers}", short(place.file?, &self.here)))
    }

    /// The function at an address, and how far in it that is, by the symbols.
    fn function(&self, address: u64) -> Option<(&str, u64)> {
        let (start, (name, size)) = self.functions.range(..=address).next_back()?;
        let offset = address - start;
        (*size == 0 || offset < *size).then_some((name, offset))
    }
}

fn code(file: &object::File<'_>) -> Vec<Code> {
    let sections = file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text);
    let sections = sections.filter(|section| section.address() != 0 || section.size() != 0);
    let code = sections.map(|section| Code {
        start: section.address(),
        size: section.size(),
        bytes: section.data().unwrap_or_default().to_vec(),
    });
    code.collect()
}

fn functions(file: &object::File<'_>) -> BTreeMap<u64, (String, u64)> {
    let symbols = file.symbols().filter(|symbol| {
        let code = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label);
        code && symbol.is_definition()
    });
    let named = symbols.filter_map(|symbol| {
        let name = symbol.name().ok().filter(|name| !name.is_empty())?;
        let name = format!("{:#}", rustc_demangle::demangle(name));
        Some((symbol.address(), (name, symbol.size())))
    });
    named.collect()
}

/// A path as a person wants it: of this directory, of a crate, of Rust's own library.
fn short(path: &str, here: &Path) -> String {
    if let Ok(inside) = Path::new(path).strip_prefix(here) {
        return inside.display().to_string();
    }
    if let Some((_, inside)) = path.split_once("/registry/src/") {
        // The directory of the registry comes first.
        return inside
            .split_once('/')
            .map_or(inside, |(_, rest)| rest)
            .to_owned();
    }
    let library = "/library/";
    match path.split_once(library) {
        Some((before, inside)) if before.contains("/rustc/") || before.contains("rustlib") => {
            inside.to_owned()
        }
        _ => path.to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A program without a library, as a kernel is: one function, with one inlined in it.
    const PROGRAM: &str = "\
#![no_std]
#![no_main]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }
#[inline(always)]
fn inner(at: *const u64) -> u64 {
    unsafe { at.read_volatile() }
}
#[unsafe(no_mangle)]
extern \"C\" fn _start(at: *const u64) -> u64 {
    outer(at) + 1
}
#[unsafe(no_mangle)]
#[inline(never)]
extern \"C\" fn outer(at: *const u64) -> u64 {
    inner(at)
}
";

    /// Compiles it with such flags.
    pub(in super::super) fn program(dir: &Path, name: &str, flags: &[&str]) -> PathBuf {
        let (source, path) = (dir.join("program.rs"), dir.join(name));
        std::fs::write(&source, PROGRAM).unwrap();
        let mut rustc = std::process::Command::new("rustc");
        rustc.args([
            "--edition=2024",
            "-O",
            "-Cpanic=abort",
            "-Crelocation-model=static",
        ]);
        rustc.args([
            "-Clink-arg=-nostdlib",
            "-Clink-arg=-static",
            "-Clink-arg=-no-pie",
        ]);
        rustc.args(flags).arg("-o").arg(&path).arg(&source);
        let output = rustc.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        path
    }

    /// Where its function is.
    pub(in super::super) fn outer(path: &Path) -> u64 {
        let bytes = std::fs::read(path).unwrap();
        let file = object::File::parse(bytes.as_slice()).unwrap();
        file.symbol_by_name("outer").unwrap().address()
    }

    #[test]
    fn a_place_has_file_line_and_what_is_inlined_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path(), "full", &["-g"]);
        let at = outer(&path);
        let image = Image::read(&path, None).unwrap();
        assert!(image.has_lines() && image.is_code(at) && !image.is_code(0x10));
        let line = PROGRAM
            .lines()
            .position(|line| line.contains("read_volatile"));
        let places = image.places(at);
        let inner = format!("program.rs:{}:", line.unwrap() + 1);
        let found = places.iter().find(|place| place.contains(&inner));
        let found = found.unwrap_or_else(|| panic!("{inner} is not in {places:?}"));
        assert!(found.ends_with("in inner, inlined") || found.ends_with("::inner, inlined"));
        let outermost = places.last().unwrap();
        assert!(outermost.contains("program.rs:") && outermost.ends_with(" in outer"));
    }

    #[test]
    fn debug_information_may_be_packed_or_in_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let id = "-Clink-arg=-Wl,--build-id=0x1234";
        let full = program(dir.path(), "full", &["-g", id]);
        let stripped = program(dir.path(), "stripped", &["-g", "-Cstrip=symbols", id]);
        let other_id = "-Clink-arg=-Wl,--build-id=0x5678";
        let other = program(dir.path(), "other", &["-g", other_id]);
        let packed = dir.path().join("packed.gz");
        let file = std::fs::File::create(&packed).unwrap();
        let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        packer.write_all(&std::fs::read(&full).unwrap()).unwrap();
        packer.finish().unwrap();
        let at = outer(&full);
        for (kernel, symbols) in [(&packed, None), (&stripped, Some(full.as_path()))] {
            let image = Image::read(kernel, symbols).unwrap();
            assert!(image.is_code(at) && image.places(at)[0].contains(":"));
        }
        // A packed kernel, which is another kind of object file, has no addresses of its own.
        let other_kind = dir.path().join("bzImage");
        let mut header = [0; 20];
        header[..2].copy_from_slice(&[0x64, 0x86]);
        std::fs::write(&other_kind, header).unwrap();
        assert!(object::File::parse(header.as_slice()).is_ok());
        assert!(Image::read(&other_kind, Some(&full)).unwrap().is_code(at));
        let why = |kernel, symbols| Image::read(kernel, symbols).err().unwrap();
        assert!(why(&stripped, None).contains("neither DWARF nor symbols"));
        assert!(why(&stripped, Some(&other)).contains("build IDs differ"));
        assert!(why(&other_kind, None).contains("no ELF file"));
        assert!(why(Path::new("/proc/self/cmdline"), None).contains("no ELF file"));
    }

    #[test]
    fn symbols_alone_name_the_function() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path(), "named", &["-Cdebuginfo=0", "-Cstrip=debuginfo"]);
        let at = outer(&path);
        let image = Image::read(&path, None).unwrap();
        assert!(!image.has_lines());
        assert_eq!(image.places(at + 1), ["outer+0x1"]);
        assert_eq!(image.address("outer", 1), Some(at + 1));
    }

    #[test]
    fn what_a_call_returns_to_is_told_from_other_code() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path(), "full", &["-g"]);
        let image = Image::read(&path, None).unwrap();
        let start = image.address("_start", 0).unwrap();
        let returns = (start..start + 32).filter(|at| image.is_behind_call(*at));
        assert_eq!(returns.count(), 1);
        assert!(!image.is_behind_call(start) && !image.is_behind_call(0));
    }

    #[test]
    fn paths_are_said_from_where_a_person_looks() {
        for (path, said) in [
            ("/here/guest/src/main.rs", "guest/src/main.rs"),
            ("/elsewhere/x.c", "/elsewhere/x.c"),
            (
                "/rustc/5980761/library/core/src/ptr/mod.rs",
                "core/src/ptr/mod.rs",
            ),
            (
                "/h/.cargo/registry/src/index-1/spin-0.12.1/src/once.rs",
                "spin-0.12.1/src/once.rs",
            ),
            ("/srv/library/x.c", "/srv/library/x.c"),
        ] {
            assert_eq!(short(path, Path::new("/here")), said);
        }
    }
}
