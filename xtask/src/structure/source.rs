//! One Rust file, parsed: what it declares, and every path it mentions outside its tests.
//!
//! Guarantees: only items under `#[cfg(test)]` are left out, not what follows them. Paths inside
//! macros are found by their tokens, paths in attributes (`with = "crate::…"`) by their text.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// A path that the file mentions.
#[derive(Debug, Clone)]
pub(crate) struct PathMention {
    /// The inline modules around it, from the file's own module down.
    pub(crate) inside: Vec<String>,
    /// Its segments, such as `crate`, `fetch`, `Tail`.
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
    /// Whether it is a `use`, and the name that it brings in; `*` for a glob.
    pub(crate) brings: Option<String>,
}

/// A type that the file declares.
#[derive(Debug, Clone)]
pub(crate) struct DeclaredType {
    pub(crate) name: String,
    pub(crate) line: usize,
}

/// What the rules want to know of one file.
#[derive(Debug, Default)]
pub(crate) struct ParsedSource {
    pub(crate) mentions: Vec<PathMention>,
    /// Structs, enums, traits, unions and type aliases.
    pub(crate) types: Vec<DeclaredType>,
    /// Names of all items, each with the inline modules around it.
    pub(crate) items: BTreeSet<(Vec<String>, String)>,
    /// `mod name;` and `mod name { … }`, with the inline modules around it; true: only under
    /// `#[cfg(test)]`.
    pub(crate) modules: Vec<(Vec<String>, String, bool)>,
    /// Lines with unsafe code, tests included.
    pub(crate) unsafe_lines: Vec<usize>,
    /// Lines with `#[ignore]`, tests included.
    pub(crate) ignored_lines: Vec<usize>,
    /// The file's lines before or outside its `#[cfg(test)]` items.
    pub(crate) own_lines: usize,
    /// Lines that begin inside a string literal.
    pub(crate) string_lines: BTreeSet<usize>,
}

/// Parses the text of a file.
pub(crate) fn parse(text: &str) -> syn::Result<ParsedSource> {
    let file = syn::parse_file(text)?;
    let mut reader = SourceReader::default();
    reader.visit_file(&file);
    let mut source = reader.source;
    source.own_lines = text.lines().count().saturating_sub(reader.test_lines);
    if let Ok(tokens) = text.parse::<TokenStream>() {
        literals(tokens, &mut source.string_lines);
    }
    Ok(source)
}

fn literals(tokens: TokenStream, lines: &mut BTreeSet<usize>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => literals(group.stream(), lines),
            TokenTree::Literal(literal) => {
                let (first, last) = (literal.span().start().line, literal.span().end().line);
                lines.extend(first + 1..=last);
            }
            _ => {}
        }
    }
}

#[derive(Default)]
struct SourceReader {
    source: ParsedSource,
    inside: Vec<String>,
    /// How many `#[cfg(test)]` items are around.
    tests: usize,
    test_lines: usize,
}

impl SourceReader {
    fn mention(&mut self, segments: Vec<String>, line: usize, brings: Option<String>) {
        if self.tests == 0 {
            self.source.mentions.push(PathMention {
                inside: self.inside.clone(),
                segments,
                line,
                brings,
            });
        }
    }

    fn declare(&mut self, name: &syn::Ident, is_type: bool) {
        if self.tests > 0 {
            return;
        }
        self.source.items.insert((self.inside.clone(), plain(name)));
        if is_type {
            self.source.types.push(DeclaredType {
                name: plain(name),
                line: name.span().start().line,
            });
        }
    }

    fn use_tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |name: &syn::Ident| {
            let mut path = before.to_vec();
            // `use a::b::{self}` names `a::b`.
            if name != "self" || path.is_empty() {
                path.push(plain(name));
            }
            path
        };
        match tree {
            syn::UseTree::Path(path) => self.use_tree(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) => {
                let path = with(&name.ident);
                let brings = path.last().cloned();
                self.mention(path, name.ident.span().start().line, brings);
            }
            syn::UseTree::Rename(rename) => {
                let (path, brings) = (with(&rename.ident), plain(&rename.rename));
                self.mention(path, rename.ident.span().start().line, Some(brings));
            }
            syn::UseTree::Glob(glob) => {
                let line = glob.star_token.spans[0].start().line;
                self.mention(before.to_vec(), line, Some("*".to_owned()));
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(tree, before);
                }
            }
        }
    }

    /// Paths, `unsafe` and `ignore` among the tokens of a macro.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut line, mut colons) = (0, 0);
        let all: Vec<TokenTree> = tokens.into_iter().collect();
        for (index, token) in all.iter().enumerate() {
            match token {
                TokenTree::Ident(word) => {
                    if colons != 2 {
                        self.end_of_path(&mut path, line);
                        line = word.span().start().line;
                    }
                    path.push(plain(word));
                    let next = all.get(index + 1);
                    let opens = |token: &TokenTree| matches!(token, TokenTree::Group(group) if group.delimiter() == proc_macro2::Delimiter::Brace);
                    let declares = |token: &TokenTree| matches!(token, TokenTree::Ident(word) if ["fn", "impl", "trait", "extern"].contains(&word.to_string().as_str()));
                    if word == "unsafe" && next.is_some_and(|next| opens(next) || declares(next)) {
                        self.source.unsafe_lines.push(word.span().start().line);
                    }
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    if colons == 2 && group.delimiter() == proc_macro2::Delimiter::Brace {
                        // `use crate::{a, b}` inside a macro: each name at the group's top stands
                        // for a path.
                        for inner in names_of_group(group.stream()) {
                            let mut whole = path.clone();
                            whole.push(inner);
                            self.mention(whole, line, None);
                        }
                    }
                    self.end_of_path(&mut path, line);
                    colons = 0;
                    self.attribute_group(&all, index, group);
                    self.tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.end_of_path(&mut path, line);
                    colons = 0;
                }
            }
        }
        self.end_of_path(&mut path, line);
    }

    fn end_of_path(&mut self, path: &mut Vec<String>, line: usize) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.mention(path, line, None);
        }
    }

    fn attribute_group(&mut self, all: &[TokenTree], index: usize, group: &proc_macro2::Group) {
        let after_hash =
            index > 0 && matches!(&all[index - 1], TokenTree::Punct(punct) if punct.as_char() == '#');
        let first = group.stream().into_iter().next();
        if after_hash && matches!(first, Some(TokenTree::Ident(word)) if word == "ignore") {
            self.source.ignored_lines.push(group.span_open().start().line);
        }
    }

    /// Paths in the strings of an attribute.
    fn attribute_strings(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.attribute_strings(group.stream()),
                TokenTree::Literal(literal) => {
                    let text = literal.to_string();
                    let path = text.trim_matches('"');
                    if path.starts_with("crate::") {
                        let segments = path.split("::").map(str::to_owned).collect();
                        self.mention(segments, literal.span().start().line, None);
                    }
                }
                _ => {}
            }
        }
    }

    fn whole_module(&mut self, module: &syn::ItemMod) {
        let name = plain(&module.ident);
        self.source
            .modules
            .push((self.inside.clone(), name.clone(), self.tests > 0));
        self.inside.push(name);
        visit::visit_item_mod(self, module);
        self.inside.pop();
    }
}

/// The names at the top of a group's tokens that begin its parts: of `a, b::{c}` these are `a` and
/// `b`.
fn names_of_group(tokens: TokenStream) -> Vec<String> {
    let (mut names, mut begins) = (Vec::new(), true);
    for token in tokens {
        match token {
            TokenTree::Ident(word) if begins => {
                names.push(plain(&word));
                begins = false;
            }
            TokenTree::Punct(punct) if punct.as_char() == ',' => begins = true,
            _ => {}
        }
    }
    names
}

/// Without `r#`.
fn plain(name: &syn::Ident) -> String {
    let name = name.to_string();
    name.strip_prefix("r#").map_or(name.clone(), str::to_owned)
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && matches!(&attribute.meta, syn::Meta::List(list) if only_in_tests(&list.tokens.to_string()))
    })
}

/// `test`, and `all(test, …)`; neither `not(test)` nor `any(test, feature = "…")`.
fn only_in_tests(condition: &str) -> bool {
    let condition = condition.replace(' ', "");
    condition == "test" || condition.starts_with("all(test,")
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::ExternCrate(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::ForeignMod(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Union(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for SourceReader {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let test = is_test_only(attributes(item));
        self.tests += usize::from(test);
        match item {
            syn::Item::Mod(module) => self.whole_module(module),
            syn::Item::Use(item) => {
                self.use_tree(&item.tree, &[]);
                visit::visit_item_use(self, item);
            }
            other => {
                match other {
                    syn::Item::Struct(item) => self.declare(&item.ident, true),
                    syn::Item::Enum(item) => self.declare(&item.ident, true),
                    syn::Item::Trait(item) => self.declare(&item.ident, true),
                    syn::Item::Type(item) => self.declare(&item.ident, true),
                    syn::Item::Union(item) => self.declare(&item.ident, true),
                    syn::Item::Fn(item) => self.declare(&item.sig.ident, false),
                    syn::Item::Const(item) => self.declare(&item.ident, false),
                    syn::Item::Static(item) => self.declare(&item.ident, false),
                    syn::Item::Macro(item) => item.ident.iter().for_each(|name| self.declare(name, false)),
                    _ => {}
                }
                visit::visit_item(self, other);
            }
        }
        self.tests -= usize::from(test);
        if test && self.tests == 0 {
            let (first, last) = lines_of(item);
            self.test_lines += last.saturating_sub(first) + 1;
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        let test = is_test_only(&item.attrs);
        self.tests += usize::from(test);
        visit::visit_impl_item_fn(self, item);
        self.tests -= usize::from(test);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let segments = path.segments.iter().map(|segment| plain(&segment.ident));
            let line = path.segments[0].ident.span().start().line;
            self.mention(segments.collect(), line, None);
        }
        visit::visit_path(self, path);
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {
        // `pub(in crate::a)` says who may import, and imports nothing.
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("ignore") {
            self.source
                .ignored_lines
                .push(attribute.pound_token.span.start().line);
        }
        if let syn::Meta::List(list) = &attribute.meta {
            self.attribute_strings(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let Some(token) = &signature.unsafety {
            self.source.unsafe_lines.push(token.span.start().line);
        }
        visit::visit_signature(self, signature);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.source
            .unsafe_lines
            .push(block.unsafe_token.span.start().line);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let Some(token) = &item.unsafety {
            self.source.unsafe_lines.push(token.span.start().line);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        if let Some(token) = &item.unsafety {
            self.source.unsafe_lines.push(token.span.start().line);
        }
        visit::visit_item_trait(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
        if let Some(token) = &item.unsafety {
            self.source.unsafe_lines.push(token.span.start().line);
        }
        visit::visit_item_foreign_mod(self, item);
    }
}

fn lines_of(item: &syn::Item) -> (usize, usize) {
    let last = syn::spanned::Spanned::span(item).end().line;
    let first = attributes(item)
        .first()
        .map_or(syn::spanned::Spanned::span(item).start().line, |attribute| {
            attribute.pound_token.span.start().line
        });
    (first, last)
}
