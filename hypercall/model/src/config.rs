//! What to build: the domain's kind and size, how its memory is scattered, what Xen it runs on.

use hypercall::Mfn;

/// What the domain is. Xen and the builder treat each a little differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An ordinary guest, built by the tool stack.
    DomU,
    /// The first domain, built by Xen: it has the devices, and Xen emulates its stores to tables.
    Dom0,
    /// A guest in the PV shim: built by the Xen inside, with the pages of an ordinary guest.
    Shim,
}

impl Kind {
    /// Whether the domain has I/O memory and ports, and with them a say in caching.
    pub const fn has_io(self) -> bool {
        matches!(self, Self::Dom0)
    }
}

/// In which order pseudo-physical frames get machine frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// One after the other.
    Linear,
    /// From the top down beyond the initial mapping, as a debug Xen does for dom0.
    Reversed,
    /// All over the place, the same every time: nothing contiguous can be hoped for.
    Scattered,
}

/// Xen's version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    /// Such as 4.
    pub major: u16,
    /// Such as 17.
    pub minor: u16,
}

/// Everything that [`Model::build`](crate::Model::build) needs to know.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What the domain is.
    pub kind: Kind,
    /// Pages of memory it gets.
    pub nr_pages: u64,
    /// Virtual CPUs. The first one is up.
    pub vcpus: usize,
    /// Where pseudo-physical address 0 is mapped (`VIRT_BASE` of the ELF note).
    pub virt_base: u64,
    /// The kernel's image: first and one past the last virtual address.
    pub kernel: (u64, u64),
    /// Bytes of initrd; 0 for none.
    pub initrd_len: u64,
    /// The initrd is not mapped, but named by its PFN (`MOD_START_PFN` of the ELF notes).
    pub unmapped_initrd: bool,
    /// Where the p2m is mapped, away from the image (`INIT_P2M`). `None`: after the initrd.
    pub init_p2m: Option<u64>,
    /// Map the p2m with 2 MiB pages where it fills them, as Xen does for dom0 on most CPUs.
    pub large_p2m: bool,
    /// The command line.
    pub cmd_line: &'static str,
    /// How machine frames follow on each other.
    pub order: Order,
    /// The first machine frame of RAM. Below it there are devices.
    pub first_mfn: Mfn,
    /// Free machine frames, for domains that ask for more.
    pub spare_pages: u64,
    /// Xen's version.
    pub version: Version,
    /// Xen is a debug build: it takes bit 62 of L1 entries, and overwrites what a multicall should
    /// not read back.
    pub debug: bool,
    /// The CPU has the L1TF flaw, and a non-present entry with an address ends the domain.
    pub l1tf: bool,
    /// Xen uses PCIDs for the domain, so that kernel and user mode keep their translations when the
    /// other one runs. Without them those of user pages are global, and serve both.
    pub pcid: bool,
    /// A crash of the domain does not panic: hypercalls fail with `ESRCH` from then on.
    pub survive_crash: bool,
}

impl Layout {
    /// A domain of `nr_pages` whose kernel is 2 MiB at the usual place, on a release Xen.
    pub const fn new(kind: Kind, nr_pages: u64) -> Self {
        let virt_base = 0xffff_ffff_8000_0000;
        Self {
            kind,
            nr_pages,
            vcpus: 1,
            virt_base,
            kernel: (virt_base + 0x10_0000, virt_base + 0x30_0000),
            initrd_len: 0,
            unmapped_initrd: true,
            init_p2m: Some(0xffff_c000_0000_0000),
            large_p2m: false,
            cmd_line: "",
            order: Order::Linear,
            first_mfn: Mfn::truncate(0x1000),
            spare_pages: 64,
            version: Version {
                major: 4,
                minor: 17,
            },
            debug: false,
            l1tf: false,
            pcid: true,
            survive_crash: false,
        }
    }
}
