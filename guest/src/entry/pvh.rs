//! The way in without paravirtualisation: the PVH entry, taken by Xen for a domain of that type
//! and by QEMU and other monitors that load the image themselves.
//!
//! The loader enters in 32-bit protected mode without paging, flat segments, EBX = physical address
//! of `hvm_start_info` (`xen/include/public/arch-x86/hvm/start_info.h`). This builds the tables that
//! Xen's domain builder would have built for a PV kernel: the first 8 MiB of memory at VIRT_BASE in
//! 4 KiB pages, and beside that the table of the fixmap, empty. It chooses between four and five
//! levels, enters long mode and jumps to where the kernel is linked.
//!
//! Five levels are used if the processor has them (CPUID.7.ECX bit 16) and no word of the command
//! line is `no5lvl`. This must be decided here: with paging on, the number of levels cannot change.
//!
//! The tables lie behind the image, zeroed with the rest of its .bss (`linker::early_tables`). Until
//! [`boot`](crate::boot::pvh) clears them, entries 0 of the upper levels map the same memory at its
//! physical address, where this code runs as paging begins.

use core::arch::global_asm;

/// Present, writable, accessed, dirty: what every entry gets.
const FLAGS: u64 = 0x63;

xen_pv_rt::elf_notes! {
    {
        // Eight bytes, since that is what QEMU reads for a 64-bit image.
        XEN_ELFNOTE_PHYS32_ENTRY: ".quad" "pvh_start - {base}";
    }
    base = const linker::VIRT_BASE,
}

global_asm!(
    ".pushsection .init.text.entry, \"ax\", @progbits",
    ".set base, {base}",
    ".set flags, {flags}",
    ".set l5, __early_tables - base",
    ".set l4, l5 + 0x1000",
    ".set l3, l5 + 0x2000",
    ".set l2, l5 + 0x3000",
    ".set l1, l5 + 0x4000",
    ".set fix_l1, l5 + 0x8000",
    ".code32",
    "pvh_start:",
    "    cld",
    "    cli",
    "    movl %ebx, %ebp",
    // Without long mode there is nothing to go on to.
    "    movl $0x80000000, %eax",
    "    cpuid",
    "    cmpl $0x80000001, %eax",
    "    jb .Lshort",
    "    movl $0x80000001, %eax",
    "    cpuid",
    "    btl $29, %edx",
    "    jc .Llong",
    // Said where somebody may hear it: a PC's first serial port, and the port whose lines Xen logs.
    ".Lshort:",
    "    movl $(pvh_short - base), %esi",
    ".Lsay:",
    "    lodsb",
    "    testb %al, %al",
    "    jz .Lsaid",
    "    outb %al, $0xe9",
    "    movw $0x3f8, %dx",
    "    outb %al, %dx",
    "    jmp .Lsay",
    // A crash, for QEMU's debug-exit device; elsewhere a fault that nobody takes.
    ".Lsaid:",
    "    movb $0x13, %al",
    "    outb %al, $0xf4",
    "    ud2",
    ".Llong:",
    // All four L1 tables: page n of memory at place n.
    "    movl $l1, %edi",
    "    movl $flags, %eax",
    "1:  movl %eax, (%edi)",
    "    addl $0x1000, %eax",
    "    addl $8, %edi",
    "    cmpl $(l1 + 0x4000), %edi",
    "    jne 1b",
    // VIRT_BASE is entry 510 of its L3 table, and the fixmap ends the same L2 table; entries 0 are for
    // this code.
    "    movl $(l1 + flags), l2",
    "    movl $(l1 + 0x1000 + flags), l2 + 8",
    "    movl $(l1 + 0x2000 + flags), l2 + 16",
    "    movl $(l1 + 0x3000 + flags), l2 + 24",
    "    movl $(l2 + flags), l3",
    "    movl $(l2 + flags), l3 + 510 * 8",
    "    movl $(fix_l1 + flags), l2 + 511 * 8",
    "    movl $(l3 + flags), l4",
    "    movl $(l3 + flags), l4 + 511 * 8",
    "    movl $(l4 + flags), l5",
    "    movl $(l4 + flags), l5 + 511 * 8",
    "",
    "    xorl %eax, %eax",
    "    cpuid",
    "    cmpl $7, %eax",
    "    jb .Lfour",
    "    movl $7, %eax",
    "    xorl %ecx, %ecx",
    "    cpuid",
    "    btl $16, %ecx",
    "    jnc .Lfour",
    // The command line, if it can be reached from here.
    "    cmpl $0, {cmdline} + 4(%ebp)",
    "    jne .Lfive",
    "    movl {cmdline}(%ebp), %esi",
    "    testl %esi, %esi",
    "    jz .Lfive",
    ".Lblanks:",
    "    movb (%esi), %al",
    "    testb %al, %al",
    "    jz .Lfive",
    "    cmpb $32, %al",
    "    ja .Lword",
    "    incl %esi",
    "    jmp .Lblanks",
    ".Lword:",
    // "no5l" and "vl", little-endian, and then a blank or the end.
    // Behind a word "--" nothing is for the kernel.
    "    cmpw $0x2d2d, (%esi)",
    "    jne .Lown",
    "    cmpb $32, 2(%esi)",
    "    jbe .Lfive",
    ".Lown:",
    "    cmpl $0x6c356f6e, (%esi)",
    "    jne .Lskip",
    "    cmpw $0x6c76, 4(%esi)",
    "    jne .Lskip",
    "    cmpb $32, 6(%esi)",
    "    jbe .Lfour",
    ".Lskip:",
    "    incl %esi",
    "    cmpb $32, (%esi)",
    "    ja .Lskip",
    "    jmp .Lblanks",
    "",
    // CR4: PAE, and LA57 for five levels.
    ".Lfive:",
    "    movl $l5, %edx",
    "    movl $0x1020, %eax",
    "    jmp .Lpaging",
    ".Lfour:",
    "    movl $l4, %edx",
    "    movl $0x20, %eax",
    ".Lpaging:",
    "    movl %eax, %cr4",
    "    movl %edx, %cr3",
    // EFER: long mode, and no-execute if the processor has it. Without, the kernel says so itself.
    "    movl $0x80000001, %eax",
    "    cpuid",
    "    movl %edx, %esi",
    "    shrl $9, %esi",
    "    andl $0x800, %esi",
    "    movl $0xc0000080, %ecx",
    "    rdmsr",
    "    orl $0x100, %eax",
    "    orl %esi, %eax",
    "    wrmsr",
    // CR0: paging, write protection for the kernel too, and x87 errors as exceptions.
    "    movl %cr0, %eax",
    "    orl $0x80010021, %eax",
    "    movl %eax, %cr0",
    "    lgdt pvh_gdt_pointer - base",
    "    ljmp $8, $(pvh_long - base)",
    ".code64",
    "pvh_long:",
    "    movabsq $pvh_linked, %rax",
    "    jmpq *%rax",
    "pvh_linked:",
    "    movl $16, %eax",
    "    movl %eax, %ds",
    "    movl %eax, %es",
    "    movl %eax, %ss",
    "    xorl %eax, %eax",
    "    movl %eax, %fs",
    "    movl %eax, %gs",
    "    leaq __stack_top(%rip), %rsp",
    "    movl %ebp, %edi",
    "    xorl %ebp, %ebp",
    "    call {start}",
    "    ud2",
    "pvh_short:",
    "    .asciz \"the processor has no long mode: the kernel has 64 bits\\nverdict: crash reason=\\\"no long mode\\\"\\n\"",
    // Flat segments, until the kernel loads its own: code of 64 bits, data.
    ".balign 8",
    "pvh_gdt:",
    "    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
    "pvh_gdt_pointer:",
    "    .word pvh_gdt_pointer - pvh_gdt - 1",
    "    .quad pvh_gdt - base",
    ".popsection",
    base = const linker::VIRT_BASE,
    flags = const FLAGS,
    cmdline = const core::mem::offset_of!(pvh::start_info::StartInfo, cmdline_paddr),
    start = sym crate::boot::pvh::start,
    options(att_syntax)
);
