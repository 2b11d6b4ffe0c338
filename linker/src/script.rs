//! The linker script, made for a kernel: the template with the kernel's modules in it.
//!
//! The script parts what is needed for good from what is not, by module. All it has to go by are
//! section names, which hold the mangled name of what is in them, so modules become patterns of
//! mangled names. A pattern that catches too little costs memory, one that catches too much is found
//! when references are followed: neither can break a kernel that the build lets pass.

/// The template: a line with the name of a group in braces stands for one line for each pattern.
const TEMPLATE: &str = include_str!("../image.ld");

/// What belongs to each group: modules by path, such as `kernel::boot`, and crates by name.
#[derive(Clone, Copy, Debug)]
pub struct Groups<'a> {
    /// What only the boot needs.
    pub init: &'a [&'a str],
    /// What only a PV guest needs.
    pub pv: &'a [&'a str],
    /// What only a kernel with page tables of its own needs.
    pub native: &'a [&'a str],
}

/// The script for a kernel with these modules, which must be compiled with
/// `-C symbol-mangling-version=v0`.
#[must_use]
pub fn script(groups: &Groups<'_>) -> String {
    let Groups { init, pv, native } = groups;
    [("{init}", init), ("{pv}", pv), ("{native}", native)]
        .iter()
        .fold(TEMPLATE.to_owned(), |script, (name, modules)| {
            expand(&script, name, modules)
        })
}

/// Has each line that contains `name` once for each pattern of the modules.
fn expand(script: &str, name: &str, modules: &[&str]) -> String {
    let patterns: Vec<_> = modules.iter().flat_map(|module| patterns(module)).collect();
    let mut lines = Vec::new();
    for line in script.lines() {
        match line.contains(name) {
            true => lines.extend(patterns.iter().map(|p| line.replace(name, p))),
            false => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

/// What the mangled name of whatever is in a module contains: the path behind the crate's hash, or,
/// when the crate was named before, behind a reference to it.
fn patterns(module: &str) -> Vec<String> {
    let mangled = |parts: &[&str]| -> String {
        let one = |part: &&str| format!("{}{part}", part.len());
        parts.iter().map(one).collect()
    };
    let parts: Vec<_> = module.split("::").collect();
    let path = mangled(&parts);
    match &parts[1..] {
        // A crate's name at the very end only says who made an instance of something generic.
        [] => vec![format!("*_{path}[1-9]*")],
        // A single name behind a reference could be any module's.
        [_] => vec![format!("*_{path}*")],
        inner => vec![format!("*_{path}*"), format!("*_{}*", mangled(inner))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a pattern of `*`, `[1-9]` and letters matches, as the linker does it.
    fn matches(pattern: &str, name: &str) -> bool {
        if let Some(rest) = pattern.strip_prefix('*') {
            let mut tails = (0..=name.len()).filter_map(|at| name.get(at..));
            return tails.any(|tail| matches(rest, tail));
        }
        if let Some(rest) = pattern.strip_prefix("[1-9]") {
            let digit = name.starts_with(|c: char| ('1'..='9').contains(&c));
            return digit && matches(rest, &name[1..]);
        }
        match (pattern.chars().next(), name.chars().next()) {
            (None, None) => true,
            (Some(p), Some(n)) if p == n => matches(&pattern[1..], &name[1..]),
            _ => false,
        }
    }

    fn catches(module: &str, name: &str) -> bool {
        patterns(module)
            .iter()
            .any(|pattern| matches(pattern, name))
    }

    #[test]
    fn functions_of_a_module_are_caught_and_others_are_not() {
        let parse = "_RNvNtNtCsfLfy6EI15iL_5guest4boot7cmdline5parse";
        assert!(catches("guest::boot", parse));
        assert!(catches("guest::boot::cmdline", parse));
        assert!(!catches("guest::mm", parse));
        let start = "_RNvNtCsfLfy6EI15iL_5guest8rebooted5start";
        assert!(!catches("guest::boot", start), "a part of another name");
    }

    #[test]
    fn instances_go_with_the_module_that_they_are_made_of() {
        // `mm::kernel::with` for a closure in `boot::pv`, whose crate was named before.
        let with = "_RINvNtNtCsfLfy6EI15iL_5guest2mm6kernel4withuNCNvNtNtB6_4boot2pv6memory0E";
        assert!(catches("guest::boot::pv", with));
        assert!(!catches(
            "guest::entry",
            "_RNvMNtNtCsfLfy_5guest2mm5entryNtB2_3Pte3new"
        ));
    }

    #[test]
    fn a_crate_is_not_caught_by_what_it_only_makes_instances_of() {
        assert!(catches("rules", "_RNvNtCs2Bv_5rules4twin3run"));
        let debug = "_RNvXsa_NtCsg3_4core3fmtRyNtB5_5Debug3fmtCs2Bv_5rules";
        assert!(!catches("rules", debug));
    }

    #[test]
    fn every_group_is_filled_in() {
        let groups = Groups {
            init: &["kernel::boot", "once"],
            pv: &["kernel::pv"],
            native: &["kernel::native::idt"],
        };
        let script = script(&groups);
        for line in [
            "*(.text.*_6kernel4boot*)",
            "*(.text.*_4once[1-9]*)",
            "*(.rodata.*_6kernel4boot*)",
            "*(.bss.*_6kernel4boot*)",
            "*(.text.*_6kernel2pv*)",
            "*(.text.*_6native3idt*)",
            "*(.bss.*_6kernel6native3idt*)",
        ] {
            assert!(script.lines().any(|found| found.trim() == line), "{line}");
        }
        for name in ["{init}", "{pv}", "{native}"] {
            assert!(!script.contains(name), "{name}");
        }
    }
}
