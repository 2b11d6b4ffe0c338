//! Random requests, as a guest that has lost its mind makes them. Whatever they are and whatever
//! they answer, every count is right after each, and no table is ever writable.

mod common;

use common::Guest;
use hypercall::{Mfn, Op, abi::multicall::multicall_entry, abi::xen::DOMID_SELF};
use model::{Kind, Layout, Mode, Order, Type, entry};
use proptest::prelude::*;

/// Pages to play with, beside the initial tables.
const POOL: usize = 14;
/// Slots of tables that are used: first, some, both ends of Xen's, last.
const SLOTS: [usize; 8] = [0, 1, 2, 255, 256, 271, 272, 511];
/// Addresses that those slots translate, here and there.
const VAS: [u64; 6] = [0, 0x1000, 0x2000, 0x20_0000, 0x4000_0000, 0x80_0000_0000];

#[derive(Clone, Debug)]
enum Request {
    /// `mmu_update` requests: table, slot, target, flags, command.
    Update(Vec<(usize, usize, usize, u64, u64)>),
    Ext(u32, usize),
    VaMapping(usize, usize, u64, u64),
    /// A store to a page that the guest may write.
    Poke(usize, usize, usize, u64),
    /// Accesses, which fill the TLB and set bits.
    Store(usize, u64),
    Load(usize),
    Gdt(Vec<usize>),
    Descriptor(usize, usize, u64),
    Assist(u64, bool),
    Multicall(Vec<(u64, u64)>),
    Exchange(usize),
    Vcpu(usize),
    SchedOut(usize),
}

fn flags() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => Just(common::RO),
        4 => Just(common::RW),
        4 => Just(common::TABLE),
        2 => Just(0),
        1 => Just(entry::P | entry::RW),
        1 => (0u32..12).prop_map(|bit| entry::P | entry::U | 1 << bit),
        1 => (52u32..64).prop_map(|bit| entry::P | entry::U | 1 << bit),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let target = 0..POOL + 9;
    // Often the L1 table of the lowest addresses.
    let table = prop_oneof![Just(2usize), target.clone()];
    let update = (table, 0..SLOTS.len(), target.clone(), flags(), 0u64..5);
    prop_oneof![
        6 => prop::collection::vec(update, 1..5).prop_map(Request::Update),
        6 => (0u32..19, target.clone()).prop_map(|(cmd, page)| Request::Ext(cmd, page)),
        2 => (0..VAS.len(), target.clone(), flags(), 0u64..7)
            .prop_map(|(va, page, flags, flush)| Request::VaMapping(va, page, flags, flush)),
        6 => (0..POOL, 0..SLOTS.len(), target.clone(), flags())
            .prop_map(|(page, slot, target, flags)| Request::Poke(page, slot, target, flags)),
        2 => (0..VAS.len(), any::<u64>()).prop_map(|(va, value)| Request::Store(va, value)),
        2 => (0..VAS.len()).prop_map(Request::Load),
        1 => prop::collection::vec(target.clone(), 0..3).prop_map(Request::Gdt),
        1 => (target.clone(), 0..SLOTS.len(), any::<u64>())
            .prop_map(|(page, slot, value)| Request::Descriptor(page, slot, value)),
        1 => (0u64..34, any::<bool>()).prop_map(|(kind, on)| Request::Assist(kind, on)),
        1 => prop::collection::vec((any::<u64>(), flags()), 0..4).prop_map(Request::Multicall),
        1 => target.prop_map(Request::Exchange),
        1 => (0usize..2).prop_map(Request::Vcpu),
        1 => (0usize..2).prop_map(Request::SchedOut),
    ]
}

struct World {
    guest: Guest,
    pages: Vec<Mfn>,
}

impl World {
    fn new(kind: Kind, pcid: bool) -> Self {
        let base = 0xffff_ffff_8000_0000;
        let guest = Guest::new(&Layout {
            kernel: (base, base + 0x1_0000),
            order: Order::Scattered,
            vcpus: 2,
            spare_pages: 4,
            survive_crash: true,
            pcid,
            ..Layout::new(kind, 1100)
        });
        let mut pages: Vec<_> = (0..POOL).map(|_| guest.page()).collect();
        // The first three are tables of the lowest addresses to begin with, the third an L1.
        guest.poke(pages[1], 0, entry::entry(pages[2], common::TABLE));
        guest.poke(pages[0], 0, entry::entry(pages[1], common::TABLE));
        let root = hypercall::MachAddr::of_entry(guest.l4(), 0);
        let value = entry::entry(pages[0], common::TABLE);
        assert_eq!(guest.update(root, value), 0);
        let boot = guest.model.boot();
        pages.extend((0..4).map(|i| guest.model.mfn(boot.pt_pfn.add(i)).unwrap()));
        pages.extend([
            guest.model.mfn(hypercall::Pfn::truncate(3)).unwrap(),
            boot.shared_info,
            guest.model.foreign_mfn(),
            Mfn::truncate(0x10),
            Mfn::MAX,
        ]);
        guest.model.run_on(1);
        assert_eq!(guest.ext(5, boot.l4.as_u64(), 0), 0);
        guest.model.run_on(0);
        Self { guest, pages }
    }

    fn carry_out(&self, request: &Request) {
        let g = &self.guest;
        let page = |index: usize| self.pages[index];
        match request {
            Request::Update(list) => {
                let list: Vec<_> = list
                    .iter()
                    .map(|&(table, slot, target, flags, cmd)| {
                        let ptr = page(table).addr().as_u64() + SLOTS[slot] as u64 * 8 + cmd;
                        // The M2P is not the point here.
                        (ptr, entry::entry(page(target), flags))
                    })
                    .collect();
                let (result, done) = g.update_list(&list);
                assert_eq!(result == 0, done as usize == list.len());
            }
            Request::Ext(cmd, target) => {
                // Bitmaps of vCPUs are pointers: none here. An LDT is an address.
                if !matches!(cmd, 8 | 9) {
                    let other = page((target + 1) % self.pages.len());
                    g.ext(*cmd, page(*target).as_u64(), other.as_u64());
                }
            }
            &Request::VaMapping(va, target, flags, flush) => {
                g.va_mapping(VAS[va], entry::entry(page(target), flags), flush & 7);
            }
            &Request::Poke(target, slot, value, flags) => {
                let frame = g.model.frame(page(target)).unwrap();
                let writable = frame.type_count == 0 || frame.kind == Type::Writable;
                if writable && frame.owner == model::Owner::Guest {
                    g.poke(page(target), SLOTS[slot], entry::entry(page(value), flags));
                }
            }
            &Request::Store(va, value) => {
                let _ = g.model.store(VAS[va], value);
            }
            &Request::Load(va) => {
                let _ = g.model.load(VAS[va]);
                let _ = g.model.access(VAS[va], model::Access::Write, Mode::User);
            }
            Request::Gdt(pages) => {
                let frames: Vec<_> = pages.iter().map(|&i| page(i).as_u64()).collect();
                let args = [frames.as_ptr() as u64, 512 * frames.len() as u64, 0, 0, 0];
                g.call(Op::SetGdt, args);
            }
            &Request::Descriptor(target, slot, value) => {
                let at = page(target).addr().as_u64() + SLOTS[slot] as u64 * 8;
                g.call(Op::UpdateDescriptor, [at, value, 0, 0, 0]);
            }
            &Request::Assist(kind, on) => {
                g.call(Op::VmAssist, [!on as u64, kind, 0, 0, 0]);
            }
            Request::Multicall(list) => {
                let mut calls: Vec<_> = list
                    .iter()
                    .map(|&(random, flags)| {
                        let target = page(random as usize % self.pages.len());
                        let va = VAS[random as usize % VAS.len()];
                        multicall_entry {
                            op: Op::UpdateVaMapping as u64,
                            result: 0,
                            args: [va, entry::entry(target, flags), random % 7, 0, 0, 0],
                        }
                    })
                    .collect();
                let args = [calls.as_mut_ptr() as u64, calls.len() as u64, 0, 0, 0];
                assert_eq!(g.call(Op::Multicall, args), 0);
            }
            &Request::Exchange(target) => {
                // Give a page back and ask for one: perhaps the same, perhaps not.
                use hypercall::abi::memory::*;
                let frame = std::cell::Cell::new(page(target).as_u64());
                let list = xen_memory_reservation {
                    extent_start: frame.as_ptr(),
                    nr_extents: 1,
                    extent_order: 0,
                    mem_flags: 0,
                    domid: DOMID_SELF,
                };
                for cmd in [XENMEM_decrease_reservation, XENMEM_populate_physmap] {
                    let args = [cmd as u64, &raw const list as u64, 0, 0, 0];
                    g.call(Op::MemoryOp, args);
                    frame.set(5);
                }
            }
            &Request::Vcpu(vcpu) => g.model.run_on(vcpu),
            &Request::SchedOut(vcpu) => g.model.sched_out(vcpu),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn counts_are_right_after_every_request(
        kind in prop_oneof![Just(Kind::DomU), Just(Kind::Dom0)],
        pcid in any::<bool>(),
        preempt in prop_oneof![Just(None), (1u64..4).prop_map(Some)],
        requests in prop::collection::vec(request(), 1..60),
    ) {
        let world = World::new(kind, pcid);
        world.guest.model.preempt_every(preempt);
        for (step, request) in requests.iter().enumerate() {
            world.carry_out(request);
            if let Err(wrong) = world.guest.model.check_invariants() {
                prop_assert!(false, "after step {step}, {request:?}:\n{wrong}");
            }
        }
    }
}
