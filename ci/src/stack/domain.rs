//! How a job becomes a domain of xl: which files the dom0 needs, what `xl create` is told beside the
//! configuration file, and what xl says of the domain.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Job, PROGRAM};
use crate::console::verdict::{End, Shutdown};
use crate::provision::qemu::Version;

/// Where the image is expected, in the repository and in the dom0 alike.
const KERNEL: &str = "target/x86_64-unknown-none/release/guest";

/// What tells one kind of domain from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Domain {
    /// The file given to xl.
    pub(crate) config: &'static str,
    /// Settings that this emulated host needs beside it.
    pub(crate) settings: &'static [&'static str],
    /// Whether hardware virtualisation runs it.
    pub(crate) virtualised: bool,
    /// Whether another Xen writes to the domain's console too.
    pub(crate) shared_console: bool,
}

/// The QEMUs whose nested paging misses what 32-bit code refers to, with which every kernel begins: no
/// domain in hardware virtualisation comes to its first instructions (seen with 8.2.2, right in 7.2 and
/// in 10.0). Where Xen has shadow paging, that does instead.
const WRONG_ABOUT_NESTED_PAGING: Range<Version> = Version(8, 2)..Version(9, 0);

/// Files of a run by their place in the dom0.
pub(super) fn payload(workspace: &Path, jobs: &[Job]) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    let configs = std::fs::read_dir(workspace.join("xen-cfg"))
        .into_iter()
        .flatten()
        .flatten();
    for entry in configs {
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push((format!("repo/xen-cfg/{name}"), entry.path()));
    }
    for (index, job) in jobs.iter().enumerate() {
        if first_with_kernel(jobs, index) == index {
            let place = match kernel_of(jobs, index) {
                None => format!("repo/{KERNEL}"),
                Some(first) => format!("jobs/kernel{first}"),
            };
            files.push((place, job.kernel.clone()));
        }
    }
    for (index, job) in jobs.iter().enumerate() {
        if let Some(initrd) = &job.initrd {
            files.push((format!("jobs/initrd{index}"), initrd.clone()));
        }
    }
    let program = jobs.iter().find_map(|job| job.program.clone());
    files.extend(program.map(|program| (PROGRAM.to_owned(), program)));
    files
}

/// Which file in the dom0 is the kernel of a job: the place that configuration files name
/// (`None`) goes to the kernel of the first job, others are numbered by the job that brings them.
fn kernel_of(jobs: &[Job], index: usize) -> Option<usize> {
    let first = first_with_kernel(jobs, index);
    (first != 0).then_some(first)
}

fn first_with_kernel(jobs: &[Job], index: usize) -> usize {
    jobs.iter()
        .position(|job| job.kernel == jobs[index].kernel)
        .unwrap_or(index)
}

/// The command that creates the domain of job `index`, for the dom0's shell. Settings on the command
/// line win over those of the configuration file.
pub(super) fn create_command(jobs: &[Job], index: usize, domain: &Domain, qemu: Version) -> String {
    let words: Vec<_> = settings(jobs, index, domain, qemu)
        .iter()
        .map(|word| quoted(word))
        .collect();
    format!("cd /repo; create {} {}", domain.config, words.join(" "))
}

fn settings(jobs: &[Job], index: usize, domain: &Domain, qemu: Version) -> Vec<String> {
    let job = &jobs[index];
    // A domain that shut down stays until its console has been read.
    let mut words: Vec<String> = ["poweroff", "reboot", "crash", "watchdog", "soft_reset"]
        .iter()
        .map(|event| format!("on_{event}=\"preserve\""))
        .collect();
    words.extend(domain.settings.iter().map(|&word| word.to_owned()));
    if domain.virtualised && WRONG_ABOUT_NESTED_PAGING.contains(&qemu) {
        words.push("hap=0".to_owned());
    }
    words.extend(job.mem_mib.map(|mem| format!("memory={mem}")));
    words.extend(job.mem_mib.map(|mem| format!("maxmem={mem}")));
    words.extend(job.vcpus.map(|vcpus| format!("vcpus={vcpus}")));
    words.extend(job.vcpus.map(|vcpus| format!("maxvcpus={vcpus}")));
    words.extend(kernel_of(jobs, index).map(|first| format!("kernel=\"/jobs/kernel{first}\"")));
    words.extend(
        job.initrd
            .as_ref()
            .map(|_| format!("ramdisk=\"/jobs/initrd{index}\"")),
    );
    words.extend(job.config.iter().cloned());
    if !job.cmdline.is_empty() {
        let escaped = job.cmdline.replace('\\', "\\\\").replace('"', "\\\"");
        words.push(format!("extra=\"{escaped}\""));
    }
    words
}

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// What xl says of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum XlEvent {
    /// It exists under this number.
    Created(u32),
    /// It shut down.
    Shutdown(Shutdown),
    /// xl itself ended.
    Exit,
}

pub(super) fn xl_event(line: &str) -> Option<XlEvent> {
    if line.starts_with("exit ") {
        return Some(XlEvent::Exit);
    }
    let number = |text: &str| {
        text.split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|digits| digits.parse().ok())
    };
    if let Some((_, rest)) = line.split_once("(domid ") {
        return number(rest).map(XlEvent::Created);
    }
    let (_, rest) = line.split_once(" has shut down, reason code ")?;
    number(rest).map(|code| XlEvent::Shutdown(Shutdown::from_code(code)))
}

/// The file into which xl says that it dumps a domain.
pub(super) fn dumped(line: &str) -> Option<&str> {
    line.split_once("dumping core to ")
        .map(|(_, file)| file.trim())
}

/// The end of a domain that xl could not build, from what it said.
pub(super) fn unbuilt(said: &[String]) -> End {
    End::Unbuilt {
        why: said.join("; "),
        least_mib: said.iter().find_map(|line| least_mib(line)),
    }
}

/// The memory in MiB that a domain lacks, by the complaint of xl's library: pages that are needed,
/// then those that there are, less those in use: `(0x800 > 0x400 - 0x200 pages)`.
fn least_mib(line: &str) -> Option<u32> {
    if !line.contains("Out of memory") {
        return None;
    }
    let number = |text: &str| {
        let digits = text.trim().strip_prefix("0x")?;
        let digits = digits.split(|c: char| !c.is_ascii_hexdigit()).next()?;
        u32::from_str_radix(digits, 16).ok()
    };
    let (needed, there) = line.split_once('(')?.1.split_once(" > ")?;
    let used = there.split_once(" - ").and_then(|(_, used)| number(used));
    let pages = number(needed)?.checked_add(used.unwrap_or(0))?;
    Some(pages.div_ceil(256))
}

/// Domains that `xl list` shows beside dom0, by number.
pub(super) fn listed(lines: &[String]) -> Vec<u32> {
    let number = |line: &String| {
        // The name of a domain that is dying is `(null)`; no name has blanks.
        let id = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
        (id != 0).then_some(id)
    };
    lines.iter().filter_map(number).collect()
}

/// How many pages Xen says a domain holds, in what its debug key `q` prints.
pub(super) fn pages_held(lines: &[String], domid: u32) -> Option<u64> {
    let title = format!("General information for domain {domid}:");
    let at = lines.iter().rposition(|line| line.contains(&title))?;
    // The next domain's title ends what is said of this one.
    let about = lines[at + 1..].iter();
    let mut about = about.take_while(|line| !line.contains("General information for domain "));
    about.find_map(|line| {
        let (_, rest) = line.split_once(" nr_pages=")?;
        rest.split(' ').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provision::qemu::GOOD;
    use crate::stack::Via;

    const DOMAIN: Domain = Domain {
        config: "xen-cfg/guest.cfg",
        settings: &["pvshim_extra=\"x y\""],
        virtualised: true,
        shared_console: false,
    };

    fn job(kernel: &str) -> Job {
        Job {
            kernel: kernel.into(),
            ..Job::plain(Via::Xl)
        }
    }

    #[test]
    fn a_plain_job_leaves_the_configuration_alone_but_for_its_end() {
        let words = settings(&[job("/k")], 0, &DOMAIN, GOOD);
        let (own, rest): (Vec<_>, Vec<_>) = words.iter().partition(|word| word.starts_with("on_"));
        assert!(own.iter().all(|word| word.ends_with("=\"preserve\"")));
        assert_eq!(rest, ["pvshim_extra=\"x y\""]);
    }

    #[test]
    fn a_qemu_without_nested_paging_has_shadow_paging() {
        let hap = |domain: &Domain, qemu| {
            settings(&[job("/k")], 0, domain, qemu).contains(&"hap=0".to_owned())
        };
        let found = [(7, 2), (8, 2), (9, 0), (10, 0)].map(|(a, b)| hap(&DOMAIN, Version(a, b)));
        assert_eq!(found, [false, true, false, false]);
        let pv = Domain {
            virtualised: false,
            ..DOMAIN
        };
        assert!(!hap(&pv, Version(8, 2)));
    }

    #[test]
    fn sizes_and_files_replace_those_of_the_configuration() {
        let job = Job {
            mem_mib: Some(64),
            vcpus: Some(2),
            initrd: Some("/i".into()),
            ..job("/k")
        };
        let text = create_command(&[job], 0, &DOMAIN, GOOD);
        assert!(
            text.starts_with("cd /repo; create xen-cfg/guest.cfg 'on_poweroff="),
            "{text}"
        );
        let sizes = "'memory=64' 'maxmem=64' 'vcpus=2' 'maxvcpus=2' 'ramdisk=\"/jobs/initrd0\"'";
        assert!(text.contains(sizes), "{text}");
    }

    #[test]
    fn the_command_line_survives_shell_and_xl() {
        let job = Job {
            cmdline: "a=\"b\" c\\d 'e' $f,g".into(),
            ..job("/k")
        };
        let text = create_command(&[job], 0, &DOMAIN, GOOD);
        let expected = "'extra=\"a=\\\"b\\\" c\\\\d '\\''e'\\'' $f,g\"'";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn only_the_first_kernel_is_at_the_usual_place() {
        let jobs = [job("/a"), job("/b"), job("/a"), job("/b")];
        let places: Vec<_> = (0..4).map(|index| kernel_of(&jobs, index)).collect();
        assert_eq!(places, [None, Some(1), None, Some(1)]);
        let files: Vec<_> = payload(Path::new("/nonexistent"), &jobs);
        let names: Vec<_> = files.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(names, [&format!("repo/{KERNEL}"), "jobs/kernel1"]);
    }

    #[test]
    fn every_configuration_names_the_image_that_build_makes() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xen-cfg");
        for name in ["guest.cfg", "guest-pvshim.cfg", "guest-smp.cfg"] {
            let text = std::fs::read_to_string(root.join(name)).unwrap();
            assert!(
                text.lines()
                    .any(|line| line == format!("kernel = \"{KERNEL}\"")),
                "{name}"
            );
        }
    }

    #[test]
    fn too_little_memory_is_told_from_other_faults() {
        let small = |line: &str| match unbuilt(&["Parsing".into(), line.into()]) {
            End::Unbuilt { least_mib, .. } => least_mib,
            other => panic!("{other:?}"),
        };
        let mapping = "xc: error: panic: xg_dom_x86.c:159: count_pgtables: not enough memory for \
                       initial mapping (0x401 > 0x400): Out of memory";
        assert_eq!(small(mapping), Some(5));
        let shim = "xc: error: panic: xg_dom_core.c:536: xc_dom_chk_alloc_pages: segment kernel too \
                    large (0x800 > 0x400 - 0x200 pages): Out of memory";
        assert_eq!(small(shim), Some(10));
        assert_eq!(
            small("libxl: error: Domain 1:cannot (re-)build domain: -3"),
            None
        );
    }

    #[test]
    fn a_domain_that_is_not_gone_is_seen() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let dom0 = "Name                ID   Mem VCPUs\tState\tTime(s)\n\
                    Domain-0             0   528     1     r-----       8.2\n";
        assert!(listed(&lines(dom0)).is_empty());
        let zombie = format!("{dom0}(null)               4     0     1     --psr-       0.6\n");
        assert_eq!(listed(&lines(&zombie)), [4]);

        let said = "(XEN) General information for domain 0:\n\
                    (XEN)     nr_pages=135168 xenheap_pages=2 dirty_cpus={} max_pages=135168\n\
                    (XEN) General information for domain 4:\n\
                    (XEN)     refcnt=1 dying=2 pause_count=2\n\
                    (XEN)     nr_pages=1 xenheap_pages=0 dirty_cpus={} max_pages=33024\n\
                    (XEN) General information for domain 5:\n\
                    (XEN)     refcnt=3 dying=0 pause_count=0\n";
        let found = |domid| pages_held(&lines(said), domid);
        assert_eq!((found(4), found(5), found(6)), (Some(1), None, None));
        assert_eq!(found(0), Some(135_168));
    }

    #[test]
    fn xl_is_understood() {
        let created = "Waiting for domain guest (domid 7) to die [pid 61]";
        assert_eq!(xl_event(created), Some(XlEvent::Created(7)));
        let shutdown = "Domain 7 has shut down, reason code 3 0x3";
        assert_eq!(xl_event(shutdown), Some(XlEvent::Shutdown(Shutdown::Crash)));
        assert_eq!(xl_event("exit 0"), Some(XlEvent::Exit));
        assert_eq!(dumped("dumping core to /d/guest"), Some("/d/guest"));
        assert_eq!(xl_event("Parsing config from xen-cfg/guest.cfg"), None);
    }
}
