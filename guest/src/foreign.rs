//! Words of the command line that are not the kernel's, though nobody meant anything else by it.
//!
//! Whoever stands between a user and the kernel adds words by itself: Xen passes on what it was told
//! about ACPI, GRUB's scripts put a word where a file's name once was, xl has settings that are
//! words, and a distribution's boot entry is written for Linux. The user cannot leave them away, so
//! they must not end the boot; they are said in the log and mean nothing here. The list is of whole
//! names: a name that is not in it is unknown, as a mistyped one of the kernel's is.

/// Who adds words, and the names of theirs: what stands before `=`.
const OWNERS: &[(&str, &[&str])] = &[
    // What its own line says of these, it appends to dom0's: `create_dom0`, xen/arch/x86/setup.c.
    ("Xen", &["acpi", "noapic"]),
    // util/grub.d/20_linux_xen.in, 10_linux.in, `single` in their recovery entries; BOOT_IMAGE is of
    // grub-core/loader/i386/linux.c.
    ("GRUB", &["placeholder", "BOOT_IMAGE", "ro", "rw", "single"]),
    // `root=` of a configuration is put before `extra=`: `parse_cmdline`, tools/xl/xl_parse.c.
    ("xl", &["root"]),
    // xend did the same with an `ip=`; `initrd` is SYSLINUX's, `auto` and `vga` are LILO's.
    ("a loader", &["ip", "initrd", "auto", "vga"]),
    // What it gives each domain: `kernelopts`, `kernelopts_common`, qubes/config.py, and
    // templates/libvirt/xen.xml; and dom0's boot entry.
    (
        "Qubes",
        &[
            "nomodeset",
            "rd_NO_PLYMOUTH",
            "rd.plymouth.enable",
            "plymouth.enable",
            "plymouth.ignore-serial-consoles",
            "xen_privcmd.unrestricted",
            "xen_scrub_pages",
            "systemd.machine_id",
            "selinux",
            "apparmor",
            "security",
            "swiotlb",
            "iommu",
            "usbcore.authorized_default",
            "rd.luks.uuid",
            "rd.lvm.lv",
            "rd.driver.pre",
            "rd.qubes.hide_all_usb",
        ],
    ),
    // Defaults of boot entries for Linux, which pygrub and pvgrub pass on.
    (
        "a boot entry for Linux",
        &[
            "console",
            "earlyprintk",
            "quiet",
            "splash",
            "rhgb",
            "panic",
            "rootflags",
            "rootfstype",
            "net.ifnames",
            "biosdevname",
            "crashkernel",
            "resume",
            "noresume",
        ],
    ),
];

/// Whose a word is, if it is one of these.
#[must_use]
pub fn owner(word: &[u8]) -> Option<&'static str> {
    let name = word.split(|byte| *byte == b'=').next()?;
    let found = OWNERS
        .iter()
        .find(|(_, names)| names.iter().any(|known| known.as_bytes() == name))?;
    Some(found.0)
}
