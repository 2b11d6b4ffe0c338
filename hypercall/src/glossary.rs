//! The words of this workspace, once each: the field's where the field has one.
//!
//! # Numbers and memory
//!
//! | word | meaning | in Xen or Linux |
//! |---|---|---|
//! | machine frame, [`Mfn`](crate::Mfn) | a 4 KiB page of the host's memory | `mfn_t` |
//! | pseudo-physical frame, [`Pfn`](crate::Pfn) | the domain's own number of a page, from 0 up | `pfn` in the PV ABI, `gfn` in Xen |
//! | p2m list | the machine frame of each pfn, kept by the guest, rewritten by the tools on restore | `mfn_list`, `xen_p2m_addr` |
//! | M2P table | the pfn of each machine frame, kept by Xen, readable by all | `machine_to_phys_mapping` |
//! | populated | a pfn that has a machine frame | |
//! | direct map | every populated pfn at a fixed distance, in 4 KiB pages | `__va` |
//! | init memory | code and data that only the boot uses, given back when it ends | `__init`, `.init.text` |
//!
//! # Tables and entries
//!
//! | word | meaning | in Xen or Linux |
//! |---|---|---|
//! | L1 … L4 (L5) | levels of tables, from the page up | `PGT_l1_page_table` … |
//! | pte, pmd, pud, p4d, pgd | an entry of L1, L2, L3, L4, L5; with four levels the pgd *is* the p4d | the same |
//! | fold | to treat a level that the processor lacks as the identity | `pgtable_l5_enabled` |
//! | root | the table that CR3 or the user CR3 refers to | `guest_table`, `guest_table_user` |
//! | link, unlink | to make an entry refer to a table, or no longer | `pmd_populate`, `pmd_clear` |
//! | seal, unseal | to take and give the right to write a frame's memory, before it is a table and after | `make_lowmem_page_readonly` |
//! | orphan | a frame that a refusal left without a holder, until the allocator takes it back | |
//! | domain | what all vCPUs of a guest share: frames, their records, spaces | `struct domain` |
//! | space | a kernel's root, and user mode's beside it | `struct mm_struct` |
//! | record, plan | what a frame is to the kernel; what it will be once the queues are flushed | |
//! | transition | how a frame's record changes with one request: planned when that is queued, applied when Xen has done it | |
//! | chunk | 2 MiB of pseudo-physical memory, by which the direct map and the records grow: an L1 table and a page of records | |
//! | log | the planned transitions of one vCPU's queue, and what waits for its flush; it applies its own only | |
//! | space's kernel half | the entries of a root for the kernel's regions: made at the takeover, the same in every space, never changed | |
//! | pin | to have Xen keep a table validated while nothing refers to it | `MMUEXT_PIN_Ln_TABLE` |
//! | type, type count | what Xen lets a frame be (writable, table of a level, …), and how often it is used so | `PGT_*`, `type_info` |
//! | validate | Xen checks every entry of a table when the table gets its type | `alloc_lN_table` |
//! | hold, let go | a vCPU's right to work on a part of the tables, the kernel's half or a space's user half, beside other vCPUs | `mmap_lock`, `page_table_lock` |
//! | takeover | to go on with the tables that Xen built for the domain | |
//! | audit | to compare records, tables and, on the model, Xen's own counts | |
//!
//! # Requests
//!
//! | word | meaning | in Xen or Linux |
//! |---|---|---|
//! | update | one entry to be written | `struct mmu_update` |
//! | operation, ext op | pin, unpin, base pointers, TLB flushes | `struct mmuext_op` |
//! | batch | updates and operations collected, and sent in one hypercall | `xen_mc_batch` |
//! | queued | in a batch, not sent | |
//! | lazy mode, section | a context in which updates may stay queued | `arch_enter_lazy_mmu_mode` |
//! | flush | to send the batch; of translations: *TLB flush* | `xen_mc_flush` |
//! | refused | Xen answered a request with an error | `-EINVAL`, … |
//! | blame | to find the request of a batch that was refused, and who queued it | |
//!
//! # Running
//!
//! | word | meaning | in Xen or Linux |
//! |---|---|---|
//! | event channel, port | Xen's interrupts, and their numbers | `evtchn_port_t` |
//! | upcall | Xen's entry into the guest for events | `HYPERVISOR_callback` |
//! | start_info, shared_info, vcpu_info | the pages and records shared with Xen | the same |
//! | subarch | a way of running: Xen PV, Xen PVH, bare | `X86_SUBARCH_XEN` |
//! | capability | what only some subarches have | |
//! | verdict | the line that ends a run: pass, fail or crash | |
//!
//! # Testing
//!
//! | word | meaning | in Xen or Linux |
//! |---|---|---|
//! | rule | a statement about Xen that can be tested, on the model and on Xen itself | |
//! | model | Xen's checks of page tables, on the host | |
//! | test bench | what a rule's test works with, put back when the test ends | |
//! | differential run | the same random requests on two machines, whose results must be the same | |
//! | local checks, Xen's checks | what the kernel refuses by itself; what only Xen refuses | |
//! | handler | what is called when a port is raised, with its own context | `irq_handler_t` with `dev_id` |
