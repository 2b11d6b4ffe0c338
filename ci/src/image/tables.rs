//! What modules registered in the image, and whether the kernel can boot with it.
//!
//! Every entry of a linker table leaves a line in the section `.registry` (`linker::record`): its
//! kind, then its parts, with tabs between them. The kernel orders its init calls by the function that
//! orders them here.

use std::collections::BTreeSet;

use linker::order::{Call, find, order};
use linker::subarch::{Subarch, Subarches};
use linker::tables::Level;
use object::{Object, ObjectSection};

/// A capability.
#[derive(Debug, Clone)]
pub(crate) struct Capability {
    ident: String,
    pub(crate) name: String,
    pub(crate) because: String,
    pub(crate) subarches: Subarches,
}

/// An entry of another table.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    kind: String,
    name: String,
    needs: String,
    rest: Vec<String>,
}

/// An init call.
#[derive(Debug)]
struct InitCall<'t> {
    name: &'t str,
    level: Level,
    subarches: Subarches,
    after: &'t [String],
}

impl Call for InitCall<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn level(&self) -> Level {
        self.level
    }

    fn subarches(&self) -> Subarches {
        self.subarches
    }

    fn after(&self) -> impl Iterator<Item = &str> {
        self.after.iter().map(String::as_str)
    }
}

/// All that is registered.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) capabilities: Vec<Capability>,
    entries: Vec<Entry>,
}

impl Tables {
    /// Reads the lines of an image.
    pub(crate) fn read(file: &object::File<'_>) -> Result<Self, String> {
        let section = file
            .section_by_name(".registry")
            .ok_or("no section .registry")?;
        let data = section.data().map_err(|error| error.to_string())?;
        let text = std::str::from_utf8(data).map_err(|_| ".registry is no text")?;
        Tables::parse(text)
    }

    /// Reads lines.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut tables = Tables::default();
        for line in text.lines() {
            let mut parts = line.split('\t').map(str::to_owned);
            let mut next = || {
                parts
                    .next()
                    .ok_or_else(|| format!("no whole entry: {line}"))
            };
            let kind = next()?;
            if kind == "capability" {
                let (ident, name, because) = (next()?, next()?, next()?);
                let sets = parts.map(|set| {
                    Subarches::from_name(&set).ok_or_else(|| format!("no way of running: {set}"))
                });
                tables.capabilities.push(Capability {
                    ident,
                    name,
                    because,
                    subarches: sets.collect::<Result<_, _>>()?,
                });
            } else {
                let (name, needs) = (next()?, next()?);
                let rest = parts.collect();
                tables.entries.push(Entry {
                    kind,
                    name,
                    needs,
                    rest,
                });
            }
        }
        tables.capabilities.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tables)
    }

    /// How many entries of a kind there are.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry.kind == kind)
            .count()
    }

    /// Whether the kernel can boot with them.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        let capabilities = self.capabilities.iter().map(|c| ("capability", &c.name));
        let entries = self.entries.iter().map(|e| (e.kind.as_str(), &e.name));
        for (kind, name) in capabilities.chain(entries) {
            if !seen.insert((kind, name)) {
                return Err(format!("two {kind}s are named {name}"));
            }
        }
        for Entry {
            kind, name, needs, ..
        } in &self.entries
        {
            self.subarches(needs).ok_or_else(|| {
                format!("{kind} {name} needs {needs}, which is not in the table of capabilities")
            })?;
        }
        let calls = self.init_calls();
        if calls.len() != self.count("init call") {
            return Err("an init call has no level that there is".into());
        }
        calls
            .iter()
            .try_for_each(|call| dependencies(&calls, call))?;
        calls
            .iter()
            .try_for_each(|call| cycle(&calls, &mut vec![call.name]))
    }

    /// Names of the init calls that are made on `subarch`, in order.
    pub(crate) fn order(&self, subarch: Subarch) -> Vec<&str> {
        order(&self.init_calls(), subarch)
            .map(|call| call.name)
            .collect()
    }

    fn subarches(&self, needs: &str) -> Option<Subarches> {
        let capability = self.capabilities.iter().find(|c| c.ident == needs);
        capability.map(|capability| capability.subarches)
    }

    fn init_calls(&self) -> Vec<InitCall<'_>> {
        let calls = self
            .entries
            .iter()
            .filter(|entry| entry.kind == "init call");
        calls.filter_map(|call| self.init_call(call)).collect()
    }

    /// The entry as an init call; `None` if it is not whole.
    fn init_call<'t>(&'t self, entry: &'t Entry) -> Option<InitCall<'t>> {
        let (level, after) = entry.rest.split_first()?;
        Some(InitCall {
            name: &entry.name,
            level: Level::ALL
                .into_iter()
                .find(|known| format!("{known:?}") == *level)?,
            subarches: self.subarches(&entry.needs)?,
            after,
        })
    }
}

/// Checks what a call comes after.
fn dependencies(calls: &[InitCall<'_>], call: &InitCall<'_>) -> Result<(), String> {
    for name in call.after() {
        let what = format!("init call {} comes after {name}", call.name);
        let Some(before) = find(calls, name) else {
            return Err(format!("{what}, which no table has"));
        };
        let lacking = call.subarches.difference(before.subarches);
        if !lacking.is_empty() {
            return Err(format!("{what}, which is not made on {lacking}"));
        }
        if before.level > call.level {
            return Err(format!("{what} of the later level {}", before.level.name()));
        }
    }
    Ok(())
}

/// Follows what the last of a path comes after, and refuses to come by a call twice.
fn cycle<'t>(calls: &'t [InitCall<'t>], path: &mut Vec<&'t str>) -> Result<(), String> {
    let last = path.last().and_then(|name| find(calls, name));
    for next in last.into_iter().flat_map(|call| call.after) {
        path.push(next);
        if let Some(start) = path[..path.len() - 1].iter().position(|name| name == next) {
            let names = path[start..].join(" after ");
            return Err(format!("init calls wait for each other: {names}"));
        }
        cycle(calls, path)?;
        path.pop();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "capability\tALL\tkernel\t\tXEN_PV\tXEN_PVH\tBARE\n\
        capability\tPV\tcallbacks\tXen calls PV guests only\tXEN_PV\n\
        init call\ttimer\tALL\tCore\tevents\n\
        init call\tevents\tALL\tCore\n\
        self-test\ta\tPV\nself-test\tb\tALL\n";

    fn refused(more: &str) -> String {
        let tables = Tables::parse(&format!("{GOOD}{more}\n")).unwrap();
        tables.check().unwrap_err()
    }

    #[test]
    fn good_tables_pass_and_have_an_order() {
        let tables = Tables::parse(GOOD).unwrap();
        assert_eq!(tables.check(), Ok(()));
        assert_eq!(tables.order(Subarch::Bare), ["events", "timer"]);
        assert_eq!((tables.count("self-test"), tables.count("command")), (2, 0));
        assert_eq!(tables.capabilities[0].subarches, Subarches::XEN_PV);
    }

    #[test]
    fn what_could_not_boot_is_refused_by_name() {
        for (more, says) in [
            (
                "init call\ta\tALL\tCore\tb\ninit call\tb\tALL\tCore\ta",
                "init calls wait for each other: a after b after a",
            ),
            (
                "init call\ta\tALL\tCore\tevnets",
                "init call a comes after evnets, which no table has",
            ),
            (
                "init call\ta\tPV\tCore\ninit call\tb\tALL\tCore\ta",
                "init call b comes after a, which is not made on xen-pvh, bare",
            ),
            (
                "init call\ta\tALL\tService\ninit call\tb\tALL\tMemory\ta",
                "init call b comes after a of the later level service",
            ),
            (
                "init call\ta\tALL\tLate",
                "an init call has no level that there is",
            ),
            ("self-test\ta\tALL", "two self-tests are named a"),
            (
                "command\ta\tEVENTS",
                "command a needs EVENTS, which is not in the table of capabilities",
            ),
        ] {
            assert_eq!(refused(more), says);
        }
    }

    #[test]
    fn lines_that_are_not_whole_are_refused() {
        assert!(
            Tables::parse("command\tx")
                .unwrap_err()
                .contains("command\tx")
        );
        assert!(
            Tables::parse("capability\tA\ta\t\tMOON")
                .unwrap_err()
                .contains("MOON")
        );
    }
}
