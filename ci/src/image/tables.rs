//! The linker tables of the linked image, read and judged.
//!
//! Every name is its table's own, and the init calls can be sorted: no cycle, no name that is
//! missing, none that the same subarch lacks. The kernel sorts by the same function, so that what
//! passes here boots in the order that is shown here.

use std::collections::BTreeSet;

use linker::order::order;
use linker::read::{Broken, CapabilityRead, InitCallRead, ItemRead, Reader};
use linker::subarch::Subarch;

use super::{Loaded, range};

/// All tables.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) capabilities: Vec<CapabilityRead>,
    pub(crate) init_calls: Vec<InitCallRead>,
    pub(crate) self_tests: Vec<ItemRead>,
    pub(crate) commands: Vec<ItemRead>,
}

impl Tables {
    /// Reads those of an image from its bytes.
    pub(crate) fn read(file: &object::File<'_>, bytes: &[u8]) -> Result<Self, String> {
        let memory = Loaded::new(file, bytes);
        let table = |name: &str| {
            let section = format!("linkme_{name}");
            let range = range(file, &section).ok_or(format!("no section {section}"))?;
            Ok::<_, String>(Reader::new(&memory, range))
        };
        let broken = |error: Broken| error.to_string();
        Ok(Tables {
            capabilities: table("CAPABILITIES")?.capabilities().map_err(broken)?,
            init_calls: table("INIT_CALLS")?.init_calls().map_err(broken)?,
            self_tests: table("SELFTESTS")?.self_tests().map_err(broken)?,
            commands: table("COMMANDS")?.commands().map_err(broken)?,
        })
    }

    /// Whether the kernel can boot with them.
    pub(crate) fn check(&self) -> Result<(), String> {
        let capabilities = self.capabilities.iter().map(|c| c.name.as_str());
        unique("capabilities", capabilities)?;
        for (what, items) in self.items() {
            unique(what, items.clone().map(|item| item.name.as_str()))?;
            for item in items {
                self.declared(what, item)?;
            }
        }
        for subarch in Subarch::ALL {
            order(&self.init_calls, subarch).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Names of the init calls that are made on `subarch`, in order.
    pub(crate) fn order(&self, subarch: Subarch) -> Vec<&str> {
        order(&self.init_calls, subarch).map_or(Vec::new(), |calls| {
            calls.iter().map(|call| call.item.name.as_str()).collect()
        })
    }

    fn items(&self) -> [(&'static str, impl Iterator<Item = &ItemRead> + Clone); 3] {
        fn each<T>(table: &[T], item: fn(&T) -> &ItemRead) -> Vec<&ItemRead> {
            table.iter().map(item).collect()
        }
        [
            ("init calls", each(&self.init_calls, |call| &call.item)),
            ("self-tests", each(&self.self_tests, |item| item)),
            ("commands", each(&self.commands, |item| item)),
        ]
        .map(|(what, items)| (what, items.into_iter()))
    }

    /// What an entry needs must be in the table of capabilities, or boot would not speak of it.
    fn declared(&self, what: &str, item: &ItemRead) -> Result<(), String> {
        match self.capabilities.contains(&item.needs) {
            true => Ok(()),
            false => Err(format!(
                "{} of the {what} needs {}, which is not in the table of capabilities",
                item.name, item.needs.name
            )),
        }
    }
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(format!("two {what} are named {name}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use linker::subarch::Subarches;
    use linker::tables::Level;

    fn capability(name: &str, subarches: Subarches) -> CapabilityRead {
        CapabilityRead {
            name: name.into(),
            because: String::new(),
            subarches,
        }
    }

    fn item(name: &str) -> ItemRead {
        ItemRead {
            address: 0,
            name: name.into(),
            needs: capability("kernel", Subarches::all()),
            run: 0,
        }
    }

    fn call(name: &str, after: &[&str]) -> InitCallRead {
        InitCallRead {
            item: item(name),
            level: Level::Core,
            after: after.iter().map(|name| (*name).into()).collect(),
        }
    }

    fn good() -> Tables {
        Tables {
            capabilities: vec![
                capability("kernel", Subarches::all()),
                capability("events", Subarches::XEN_PV),
            ],
            init_calls: vec![call("timer", &["events"]), call("events", &[])],
            self_tests: vec![item("a"), item("b")],
            ..Tables::default()
        }
    }

    fn refused(change: impl FnOnce(&mut Tables)) -> String {
        let mut tables = good();
        change(&mut tables);
        tables.check().unwrap_err()
    }

    #[test]
    fn good_tables_pass_and_have_an_order() {
        let tables = good();
        assert_eq!(tables.check(), Ok(()));
        assert_eq!(tables.order(Subarch::Bare), ["events", "timer"]);
    }

    #[test]
    fn a_cycle_is_refused() {
        let error = refused(|tables| tables.init_calls[1].after.push("timer".into()));
        assert_eq!(
            error,
            "init calls wait for each other: events after timer after events"
        );
    }

    #[test]
    fn a_missing_dependency_is_refused() {
        let error = refused(|tables| drop(tables.init_calls.pop()));
        assert_eq!(
            error,
            "init call timer comes after events, which no table has"
        );
    }

    #[test]
    fn a_dependency_that_a_subarch_lacks_is_refused() {
        let error = refused(|tables| {
            tables.init_calls[1].item.needs = capability("events", Subarches::XEN_PV);
        });
        assert_eq!(
            error,
            "init call timer comes after events, which is not made on xen-pvh, bare"
        );
    }

    #[test]
    fn names_are_unique_and_needs_are_declared() {
        let error = refused(|tables| tables.self_tests.push(item("a")));
        assert_eq!(error, "two self-tests are named a");
        let error = refused(|tables| tables.capabilities.clear());
        assert!(error.ends_with("needs kernel, which is not in the table of capabilities"));
    }
}
