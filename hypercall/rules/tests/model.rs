//! Every rule holds on the model, or is skipped for a reason; and leaves no trace.

use model::{Kind, Layout, Order, Version};
use rules::{RULES, Verdict, book, on_model::OnModel};

fn layouts() -> Vec<Layout> {
    let mut all = Vec::new();
    for kind in [Kind::DomU, Kind::Dom0, Kind::Shim] {
        for debug in [false, true] {
            let version = Version {
                major: 4,
                minor: if debug { 20 } else { 17 },
            };
            all.push(Layout {
                debug,
                version,
                order: Order::Scattered,
                ..Layout::new(kind, 2048)
            });
        }
    }
    all
}

#[test]
fn the_table_of_rules_names_no_directory() {
    // Checkouts can share what was generated for one of them.
    let generated = include_str!(concat!(env!("OUT_DIR"), "/rules.rs"));
    assert!(generated.contains("pub mod r01_"));
    assert!(!generated.contains(env!("CARGO_MANIFEST_DIR")));
}

#[test]
fn every_rule_holds_on_the_model() {
    for layout in layouts() {
        let shared = OnModel::new(&layout);
        for rule in RULES {
            let own = rule.kills.then(|| OnModel::new(&layout));
            let report = rule.run(own.as_ref().unwrap_or(&shared));
            let verdict = report.outcome.verdict();
            let good = matches!(verdict, Verdict::Pass | Verdict::Skip);
            assert!(good, "{:?}, debug {}: {report}", layout.kind, layout.debug);
            if verdict == Verdict::Skip {
                assert!(!report.outcome.message().is_empty(), "{report}");
            }
        }
    }
}

#[test]
fn a_rule_leaves_no_trace() {
    for layout in layouts() {
        let machine = OnModel::new(&layout);
        let pages = machine.free_pages();
        let snapshot = || {
            let l4 = machine.model().boot().l4;
            let entries: Vec<_> = (0..512).filter(|i| !(256..272).contains(i)).collect();
            let frame = machine.model().frame_ptr(l4);
            // SAFETY: the frame is 512 words of the model's, read between its calls.
            entries
                .into_iter()
                .map(|i| unsafe { (*frame)[i] })
                .collect::<Vec<_>>()
        };
        let before = snapshot();
        for rule in RULES.iter().filter(|rule| !rule.kills) {
            rule.run(&machine);
            assert_eq!(machine.free_pages(), pages, "{rule:?} keeps pages");
            assert_eq!(snapshot(), before, "{rule:?} leaves something in the L4");
            if let Err(wrong) = machine.model().check_invariants() {
                panic!("{rule:?}: {wrong}");
            }
        }
    }
}

#[test]
fn rules_run_in_any_order() {
    let machine = OnModel::new(&layouts()[0]);
    for _ in 0..2 {
        for rule in RULES.iter().rev().filter(|rule| !rule.kills) {
            let report = rule.run(&machine);
            assert!(report.outcome.verdict() <= Verdict::Pass, "{report}");
        }
    }
}

#[test]
fn numbers_are_in_order_and_pages_complete() {
    assert!(RULES.windows(2).all(|pair| pair[0].number < pair[1].number));
    for rule in RULES {
        assert!(rule.statement.len() > 60, "{rule:?}");
        assert!(
            rule.source.contains("xen") || rule.source.contains("tools"),
            "{rule:?}"
        );
        assert!(rule.title.len() < 90, "{rule:?}");
    }
}

#[test]
fn a_run_can_be_read_back() {
    let machine = OnModel::new(&layouts()[0]);
    let mut lines = String::from("(XEN) something else\n");
    let summary = rules::run(&machine, &|_| true, &mut lines);
    lines.push_str("[0.1] rule R999 run\r\n");
    let results = book::parse(&lines);
    assert_eq!(results.len(), RULES.len() + 1);
    assert_eq!(results[&999].0, Verdict::Crash);
    let passed = results.values().filter(|r| r.0 == Verdict::Pass).count();
    assert_eq!(passed, summary.pass as usize);
    let book = book::render(&[("model", results)]);
    assert!(book.contains("## R09: While it is counted"));
    assert!(book.contains("- model: pass"));
}

#[test]
fn a_rule_is_found_by_name() {
    let found = |name: &str| RULES.iter().filter(|rule| rule.is_called(name)).count();
    assert_eq!(found("R9"), 1);
    assert_eq!(found("r09"), 1);
    assert_eq!(found("9"), 1);
    assert!(found("multicall") >= 1);
    assert_eq!(found("no such rule"), 0);
}

#[test]
fn a_seed_does_not_depend_on_frame_numbers() {
    let machines: Vec<_> = [Order::Linear, Order::Reversed, Order::Scattered]
        .into_iter()
        .map(|order| {
            OnModel::new(&Layout {
                order,
                ..Layout::new(Kind::DomU, 2048)
            })
        })
        .collect();
    for seed in 0..40 {
        let digests: Vec<_> = machines
            .iter()
            .map(|machine| {
                let pages = machine.free_pages();
                let digest = rules::differential::run(machine, seed, 500, None).unwrap();
                machine.model().check_invariants().unwrap();
                assert_eq!(machine.free_pages(), pages);
                digest
            })
            .collect();
        assert!(
            digests.iter().all(|digest| *digest == digests[0]),
            "{digests:?}"
        );
        let (done, refused) = digests[0].done;
        assert!(done > 50 && refused > 50, "{digests:?}");
    }
}

#[test]
fn what_is_withheld_stands_in_no_list() {
    let withheld: Vec<_> = RULES.iter().filter(|rule| rule.withheld).collect();
    assert!(!withheld.is_empty());
    let verdicts =
        book::Results::from([(withheld[0].number, (Verdict::Pass, "said by R78".into()))]);
    let book = book::render(&[("dom0", verdicts)]);
    for rule in withheld {
        assert!(rule.kills, "{rule:?} runs by default");
        for text in [rule.title, rule.statement, rule.why, rule.costs, rule.file] {
            assert!(!book.contains(text), "the book has {text}");
        }
        assert!(book.contains(&format!("| R{:02}: withheld |  |", rule.number)));
        assert!(!rule.is_called(rule.title) && rule.is_called(&rule.number.to_string()));
    }
    assert!(!book.contains("said by R78"));
}
