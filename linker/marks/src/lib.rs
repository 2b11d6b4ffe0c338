//! Marks for what is not needed for good, where it stands, as `__init` and `__initdata` are in
//! Linux.
//!
//! A mark is an attribute of a function, of a variable, or of an `impl` whose functions it is to
//! hold for. It names a section of the linked image that the kernel gives back, or keeps apart;
//! `cargo xtask build` refuses an image in which what stays refers to what goes. Instances of generic
//! functions of other crates, closures and constants have no mark: what of them the compiler does
//! not put into a marked function stays.

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// Only the boot needs it. A variable must start as zeros.
#[proc_macro_attribute]
pub fn init(_: TokenStream, item: TokenStream) -> TokenStream {
    mark(item, "init")
}

/// Only a kernel with page tables of its own needs it: without PV. A variable must start as zeros.
#[proc_macro_attribute]
pub fn native(_: TokenStream, item: TokenStream) -> TokenStream {
    mark(item, "native")
}

/// The function may refer to what is marked [`native`](macro@native), as it goes there only where
/// that was not given back; Linux' `__ref`.
#[proc_macro_attribute]
pub fn asks_first(_: TokenStream, item: TokenStream) -> TokenStream {
    // In its caller it would no longer be told apart.
    let mut marked: TokenStream = parse("#[inline(never)]");
    marked.extend(mark(item, "ref"));
    marked
}

/// Adds the mark to whatever the item is.
fn mark(item: TokenStream, group: &str) -> TokenStream {
    let word = |word: &'static str| move |token: &TokenTree| matches!(token, TokenTree::Ident(ident) if ident.to_string() == word);
    let mut words = item.clone().into_iter();
    if words.clone().any(|token| word("impl")(&token)) && !words.any(|token| word("fn")(&token)) {
        return item
            .into_iter()
            .map(|token| members(token, group))
            .collect();
    }
    let section = if item.clone().into_iter().any(|token| word("fn")(&token)) {
        format!(".{group}.text")
    } else if item.clone().into_iter().any(|token| word("static")(&token)) {
        format!(".bss.{group}")
    } else {
        return parse("compile_error!(\"only functions, variables and `impl`s can be marked\");");
    };
    let mut marked = parse(&format!(
        "#[cfg_attr(target_os = \"none\", unsafe(link_section = \"{section}\"))]"
    ));
    marked.extend(item);
    marked
}

/// Marks the functions in the body of an `impl`: whatever ends with a body of its own.
fn members(token: TokenTree, group: &str) -> TokenTree {
    let TokenTree::Group(body) = &token else {
        return token;
    };
    if body.delimiter() != Delimiter::Brace {
        return token;
    }
    let mut marked = TokenStream::new();
    let mut member = Vec::new();
    for token in body.stream() {
        let ends = match &token {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            TokenTree::Punct(punct) => punct.as_char() == ';',
            _ => false,
        };
        let is_function = matches!(&token, TokenTree::Group(_));
        member.push(token);
        if ends {
            let whole = member.drain(..).collect();
            marked.extend(if is_function {
                mark(whole, group)
            } else {
                whole
            });
        }
    }
    marked.extend(member);
    let mut whole = Group::new(Delimiter::Brace, marked);
    whole.set_span(body.span());
    TokenTree::Group(whole)
}

/// The tokens of a text of this crate's own.
fn parse(text: &str) -> TokenStream {
    text.parse().unwrap_or_default()
}
