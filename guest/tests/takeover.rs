//! The takeover on the host, for every kind of domain, order of machine frames and size.

mod common;

use common::{MIB, World, expect};
use model::{Kind, Layout, Order};

const KINDS: [Kind; 3] = [Kind::DomU, Kind::Dom0, Kind::Shim];

#[test]
fn every_domain_is_taken_over() {
    for kind in KINDS {
        for order in [Order::Linear, Order::Reversed, Order::Scattered] {
            for pages in [16 * MIB, 16 * MIB + 77, 64 * MIB, 250 * MIB] {
                let world = World::new(&Layout {
                    order,
                    debug: true,
                    l1tf: true,
                    ..Layout::new(kind, pages)
                });
                expect::clean(&world);
                assert_eq!(world.model.counters().emulated_stores, 0);
            }
        }
    }
}
