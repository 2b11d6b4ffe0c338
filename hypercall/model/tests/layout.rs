//! What the builder lays out, against what a kernel finds on real Xen.

mod common;

use common::Guest;
use hypercall::{Pfn, abi::start_info::start_info, mmu::Level};
use model::{Kind, Layout, Model, Order, Type, entry};

fn layouts() -> Vec<Layout> {
    let mut all = Vec::new();
    for kind in [Kind::DomU, Kind::Dom0, Kind::Shim] {
        for order in [Order::Linear, Order::Reversed, Order::Scattered] {
            for init_p2m in [None, Some(0xffff_c000_0000_0000)] {
                for unmapped_initrd in [false, true] {
                    all.push(Layout {
                        order,
                        init_p2m,
                        unmapped_initrd,
                        initrd_len: 5000,
                        ..Layout::new(kind, 8192)
                    });
                }
            }
        }
    }
    all
}

#[test]
fn every_layout_is_sound() {
    for layout in layouts() {
        let model = Model::build(&layout);
        let boot = model.boot();
        model.check_invariants().unwrap();
        assert_eq!(boot.virt_end % (4 << 20), 0, "{layout:?}");
        assert!(boot.virt_end - boot.stack_top >= 512 << 10, "{layout:?}");
        // All of the initial mapping is there, and nothing after it.
        for pfn in 0..(boot.virt_end - boot.virt_base) >> 12 {
            let walk = model.walk(boot.l4, boot.virt_base + (pfn << 12));
            let (mfn, rights) = walk.page.unwrap();
            assert_eq!(model.mfn(Pfn::truncate(pfn)), Some(mfn));
            assert_eq!(model.pfn(mfn), Some(Pfn::truncate(pfn)));
            let table = matches!(model.frame(mfn).unwrap().kind, Type::Table(_));
            assert_eq!(rights & entry::RW == 0, table, "pfn {pfn:#x}");
            // R41: what the flags look like.
            let (_, leaf) = walk.entry(Level::L1).unwrap();
            let rw = if table { 0 } else { entry::RW };
            let va = boot.virt_base + (pfn << 12);
            let image = va >= layout.kernel.0 && va < layout.kernel.1;
            let written = image || va == boot.start_info_va;
            let dirty = (layout.kind != Kind::DomU && written) as u64 * entry::D;
            let flags = leaf & !hypercall::addr::ADDR_MASK;
            assert_eq!(flags, 1 << 52 | 0x25 | rw | dirty, "pfn {pfn:#x}");
        }
        assert_eq!(model.walk(boot.l4, boot.virt_end).page, None);
        // The p2m reads as the model says.
        for (pfn, mfn) in model.p2m().iter().enumerate() {
            assert_eq!(model.load(boot.mfn_list + pfn as u64 * 8), Ok(mfn.as_u64()));
        }
        let m2p = model::XEN_VIRT_START + model.p2m()[17].as_u64() * 8;
        assert_eq!(model.load(m2p), Ok(17));
        model.check_invariants().unwrap();
    }
}

#[test]
fn a_domu_s_tables_come_by_level_and_xen_s_do_not() {
    let levels = |kind| {
        let model = Model::build(&Layout::new(kind, 4096));
        let boot = model.boot();
        (0..4)
            .map(|i| {
                let mfn = model.mfn(boot.pt_pfn.add(i)).unwrap();
                match model.frame(mfn).unwrap().kind {
                    Type::Table(level) => level as u8,
                    other => panic!("{other:?}"),
                }
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(levels(Kind::DomU), [4, 3, 2, 1]);
    assert_eq!(levels(Kind::Dom0), [4, 1, 2, 3]);
}

#[test]
fn start_info_says_what_boot_says() {
    for layout in layouts() {
        let model = Model::build(&layout);
        let boot = model.boot();
        let frame = model.mfn(boot.start_info_pfn).unwrap();
        // SAFETY: the builder wrote a `start_info` there, and nobody writes now.
        let info = unsafe { &*model.frame_ptr(frame).cast::<start_info>() };
        assert_eq!(info.nr_pages, layout.nr_pages);
        assert_eq!(info.pt_base, boot.pt_base);
        assert_eq!(info.mfn_list, boot.mfn_list);
        assert_eq!(info.first_p2m_pfn, boot.first_p2m_pfn);
        assert_eq!(info.nr_p2m_frames, boot.nr_p2m_frames);
        assert_eq!(info.mod_start, boot.mod_start);
        assert_eq!(info.store_mfn == 0, layout.kind == Kind::Dom0);
        assert_eq!(info.shared_info >> 12, boot.shared_info.as_u64());
        assert!(!model.p2m().contains(&boot.shared_info));
    }
}

#[test]
fn dom0_s_p2m_can_come_in_large_pages() {
    let guest = Guest::new(&Layout {
        large_p2m: true,
        ..Layout::new(Kind::Dom0, 1 << 19)
    });
    let boot = guest.model.boot();
    let walk = guest.model.walk(boot.l4, boot.mfn_list);
    assert!(walk.entry(Level::L1).is_none());
    let (_, large) = walk.entry(Level::L2).unwrap();
    assert_ne!(large & entry::PSE, 0);
    for pfn in [0, 511, 512, 1 << 18, (1 << 19) - 1] {
        let mfn = guest.model.p2m()[pfn];
        assert_eq!(
            guest.model.load(boot.mfn_list + pfn as u64 * 8),
            Ok(mfn.as_u64())
        );
        assert_eq!(guest.model.pfn(mfn), Some(Pfn::truncate(pfn as u64)));
    }
    guest.audit();
    // Taking such a mapping away gives all its pages up; making one is refused.
    let (slot, _) = walk.entry(Level::L2).unwrap();
    assert_eq!(guest.update(slot, 0), 0);
    guest.audit();
    assert_eq!(guest.update(slot, large), -22);
}

#[test]
fn order_is_as_asked() {
    let mfns = |order| {
        let layout = Layout {
            order,
            ..Layout::new(Kind::DomU, 4096)
        };
        Model::build(&layout).p2m().to_vec()
    };
    assert!(mfns(Order::Linear).windows(2).all(|w| w[1] == w[0].add(1)));
    assert!(
        mfns(Order::Reversed)
            .windows(2)
            .all(|w| w[0] == w[1].add(1))
    );
    let scattered = mfns(Order::Scattered);
    assert!(
        scattered
            .windows(2)
            .all(|w| w[1].as_u64().abs_diff(w[0].as_u64()) > 1)
    );
    assert_eq!(scattered, mfns(Order::Scattered));
}
