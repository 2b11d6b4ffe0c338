//! The rooms of the kernel, which are the modules right below its crate, and their order: a room uses
//! those below it and never names one above. `guest/rooms.txt` lists them; nothing else may stand in
//! `guest/src`, and no path in it may lead up.
//!
//! Paths are found in the text: `crate::room`, `super::` as far as it leads out of a room, and the
//! groups of a `use`. Inline modules called `tests` are not looked at: a test may use what it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use crate::exit::{Failure, Result};

/// A path that leads from one room to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrow {
    from: String,
    to: String,
    /// The first place: file and line.
    file: String,
    line: usize,
}

impl fmt::Display for Arrow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} uses {}, which is above it ({}:{})",
            self.from, self.to, self.file, self.line
        )
    }
}

/// The rooms and what leads from one to another.
#[derive(Debug, Default)]
pub(crate) struct House {
    /// All rooms that there are.
    rooms: BTreeSet<String>,
    /// One arrow for each pair of rooms.
    arrows: BTreeMap<(String, String), Arrow>,
}

impl House {
    /// Reads the sources below `src`.
    pub(crate) fn read(src: &Path) -> Result<House> {
        let mut house = House::default();
        house.read_dir(src, &[])?;
        Ok(house)
    }

    fn read_dir(&mut self, dir: &Path, place: &[String]) -> Result<()> {
        let entries = std::fs::read_dir(dir).map_err(Failure::file("read", dir))?;
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let mut place = place.to_vec();
            if !matches!(&*stem, "mod" | "lib" | "main") {
                place.push(stem.into_owned());
            }
            if path.is_dir() {
                self.read_dir(&path, &place)?;
            } else if path.extension().is_some_and(|e| e == "rs") && !place.is_empty() {
                let text = std::fs::read_to_string(&path).map_err(Failure::file("read", &path))?;
                self.add(&place, &path.display().to_string(), &text);
            }
        }
        Ok(())
    }

    /// Adds what a file says; `place` is its module, from the room on.
    fn add(&mut self, place: &[String], file: &str, text: &str) {
        let from = &place[0];
        self.rooms.insert(from.clone());
        for (to, line) in paths(place.len(), text) {
            if to != *from {
                let arrow = Arrow {
                    from: from.clone(),
                    to: to.clone(),
                    file: file.into(),
                    line,
                };
                self.arrows.entry((from.clone(), to)).or_insert(arrow);
            }
        }
    }

    /// What does not fit an order, given from the ground up.
    pub(crate) fn judge(&self, order: &[String]) -> Vec<String> {
        let floor = |room: &String| order.iter().position(|other| other == room);
        let mut faults: Vec<String> = Vec::new();
        for room in self.rooms.iter().filter(|room| floor(room).is_none()) {
            faults.push(format!("{room} is not in the list of rooms"));
        }
        for room in order.iter().filter(|room| !self.rooms.contains(*room)) {
            faults.push(format!("{room} is in the list, but there is no such room"));
        }
        let known = self
            .arrows
            .values()
            .filter(|arrow| self.rooms.contains(&arrow.to));
        for arrow in known {
            if floor(&arrow.from) < floor(&arrow.to) {
                faults.push(arrow.to_string());
            }
        }
        faults
    }

    /// In figures.
    pub(crate) fn summary(&self, order: &[String]) -> String {
        let floor = |room: &String| order.iter().position(|other| other == room);
        let inside = self
            .arrows
            .values()
            .filter(|arrow| self.rooms.contains(&arrow.to));
        let up = inside
            .clone()
            .filter(|arrow| floor(&arrow.from) < floor(&arrow.to));
        format!(
            "{} rooms, {} arrows, {} of them up",
            self.rooms.len(),
            inside.count(),
            up.count()
        )
    }
}

/// The rooms of a list, one a line from the ground up: its first word. Other lines are blank or begin
/// with `#`.
pub(crate) fn order(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// A word of the source: a name, or a sign that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    /// `::`
    Path,
    Open,
    Close,
    Comma,
    Other,
}

/// The words of a text with their lines, without comments and literals.
fn tokens(text: &str) -> Vec<(Token, usize)> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let rest = &text[at..];
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal(rest) {
            length
        } else if bytes[at].is_ascii_alphabetic() || bytes[at] == b'_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            tokens.push((Token::Name(name.into()), line));
            name.len()
        } else if rest.starts_with("::") {
            tokens.push((Token::Path, line));
            2
        } else {
            let token = match bytes[at] {
                b'{' => Some(Token::Open),
                b'}' => Some(Token::Close),
                b',' => Some(Token::Comma),
                c if c.is_ascii_whitespace() => None,
                _ => Some(Token::Other),
            };
            tokens.extend(token.map(|token| (token, line)));
            rest.chars().next().map_or(1, char::len_utf8)
        };
        line += rest[..skip].matches('\n').count();
        at += skip;
    }
    tokens
}

/// The length of the literal that a text begins with: a string, raw or not, or a character.
fn literal(text: &str) -> Option<usize> {
    let raw = text.trim_start_matches(['b', 'c']);
    let prefix = text.len() - raw.len();
    if let Some(body) = raw.strip_prefix('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let body = body[hashes..].strip_prefix('"')?;
        let length = body.find(&end).map_or(body.len(), |at| at + end.len());
        return Some(prefix + 1 + hashes + 1 + length);
    }
    if prefix > 1 {
        return None;
    }
    let quote = raw.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut characters = raw.char_indices().skip(1);
    let mut inside = 0;
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => {
                characters.next();
            }
            // A lifetime has no closing quote right behind its first letter.
            _ if quote == '\'' && inside > 0 && c != '\'' => return None,
            _ if c == quote => return Some(prefix + at + 1),
            _ => {}
        }
        inside += 1;
    }
    None
}

/// The rooms that the paths of a text lead to, with their lines. The text is that of a module `depth`
/// steps below the crate.
fn paths(depth: usize, text: &str) -> Vec<(String, usize)> {
    let tokens = tokens(text);
    let name = |at: usize| match tokens.get(at) {
        Some((Token::Name(name), _)) => Some(name.as_str()),
        _ => None,
    };
    let is = |at: usize, token: Token| tokens.get(at).is_some_and(|(found, _)| *found == token);
    let mut found = Vec::new();
    // Inline modules that are open: at which depth of braces.
    let mut inline = Vec::new();
    let mut braces = 0_usize;
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at].0 {
            Token::Open => braces += 1,
            Token::Close => {
                braces = braces.saturating_sub(1);
                if inline.last() == Some(&braces) {
                    inline.pop();
                }
            }
            Token::Name(word) if word == "mod" && is(at + 2, Token::Open) => {
                if name(at + 1) == Some("tests") {
                    at = past_group(&tokens, at + 2);
                    continue;
                }
                inline.push(braces);
                braces += 1;
                at += 3;
                continue;
            }
            Token::Name(word)
                if is(at + 1, Token::Path) && !is(at.wrapping_sub(1), Token::Path) =>
            {
                let mut next = at;
                let mut ups = 0;
                while name(next) == Some("super") && is(next + 1, Token::Path) {
                    ups += 1;
                    next += 2;
                }
                let top = depth + inline.len();
                let from_crate = word == "crate" || ups > 0 && ups == top;
                if word == "crate" {
                    next = at + 2;
                }
                if from_crate {
                    firsts(&tokens, next, &mut found);
                }
                // What is inside of a group is looked at as part of it; braces are counted as usual.
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Behind the group that opens at `at`.
fn past_group(tokens: &[(Token, usize)], mut at: usize) -> usize {
    let mut open = 0;
    while let Some((token, _)) = tokens.get(at) {
        at += 1;
        match token {
            Token::Open => open += 1,
            Token::Close if open == 1 => break,
            Token::Close => open -= 1,
            _ => {}
        }
    }
    at
}

/// The first names of what stands at `at`: one, or those of a group.
fn firsts(tokens: &[(Token, usize)], at: usize, found: &mut Vec<(String, usize)>) {
    match tokens.get(at) {
        Some((Token::Name(name), line)) => found.push((name.clone(), *line)),
        Some((Token::Open, _)) => {
            let end = past_group(tokens, at);
            let mut depth = 0;
            let mut first = false;
            for (token, line) in &tokens[at..end] {
                match token {
                    Token::Open => {
                        depth += 1;
                        first = depth == 1;
                    }
                    Token::Close => depth -= 1,
                    Token::Comma => first = depth == 1,
                    Token::Name(name) if first => {
                        found.push((name.clone(), *line));
                        first = false;
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn house(files: &[(&str, &str)]) -> House {
        let mut house = House::default();
        for (place, text) in files {
            let place: Vec<_> = place.split('/').map(str::to_owned).collect();
            house.add(&place, "file", text);
        }
        house
    }

    /// The kernel itself: no arrow leads up.
    #[test]
    fn the_kernel_is_built_from_the_ground_up() {
        let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest");
        let list = std::fs::read_to_string(guest.join("rooms.txt")).unwrap();
        let order = order(&list);
        let house = House::read(&guest.join("src")).unwrap();
        println!("{}", house.summary(&order));
        let faults = house.judge(&order);
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn an_arrow_up_is_named_with_its_place() {
        let order = order("# rooms\nlow   what all need\nhigh  above it\n");
        let good = house(&[("low", ""), ("high", "use crate::low::X;")]);
        assert!(good.judge(&order).is_empty());
        assert_eq!(good.summary(&order), "2 rooms, 1 arrows, 0 of them up");
        for up in [
            "\nuse crate::high::X;",
            "\nuse crate::{high, low};",
            "\nuse super::high;",
            "\nuse crate::{low::{self, high}, high::X};",
            "\nfn f() { crate::high::f(); }",
            "\nmacro_rules! m { () => { $crate::high::f() }; }",
            "\nmod inner { use super::super::high; }",
        ] {
            let bad = house(&[("low", up), ("high", "")]);
            let faults = bad.judge(&order);
            assert_eq!(
                faults,
                ["low uses high, which is above it (file:2)"],
                "{up}"
            );
        }
        for fine in [
            "// use crate::high::X;",
            "const X: &str = \"crate::high\"; const Y: char = '\"'; // crate::high",
            "use crate::low::high;",
            "use crate::{low::high};",
            "mod inner { use super::high; }",
            "#[cfg(test)] mod tests { use crate::high; }",
            "fn f<'a>(x: &'a str) -> &'a str { x }",
        ] {
            let good = house(&[("low", fine), ("high", "")]);
            assert!(good.judge(&order).is_empty(), "{fine}");
        }
    }

    #[test]
    fn a_room_is_a_file_or_a_directory() {
        let order = order("low\nhigh\n");
        let inside = house(&[("low/part", "use super::high;"), ("high", "")]);
        assert!(inside.judge(&order).is_empty());
        let out = house(&[("low/part", "use super::super::high;"), ("high", "")]);
        assert_eq!(out.judge(&order).len(), 1);
    }

    #[test]
    fn the_list_and_the_rooms_agree() {
        let found = house(&[("low", ""), ("new", "")]).judge(&order("low\ngone\n"));
        assert_eq!(
            found,
            [
                "new is not in the list of rooms",
                "gone is in the list, but there is no such room"
            ]
        );
    }
}
