//! What the client library promises: a listing of its public items, which shows every change of the
//! interface in review.
//!
//! Owns `client/public-api.txt`. It is made from the source by itself, so it needs no build and
//! does not depend on the toolchain: items are followed from the library's root through `pub mod`
//! and `pub use`, without bodies, private fields and documentation.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use syn::visit_mut::{self, VisitMut};

use crate::repository::FileTree;
use crate::structure::crates::{CrateModules, WorkspaceCrates};

const KRATE: &str = "client";
const LISTING: &str = "client/public-api.txt";
const HEAD: &str = "// The public interface of streamhouse-client. Made from the code; do not edit (cargo xtask public-api --update).\n";

/// Fails if the listing is not what the code says.
pub(crate) fn check(root: &Path, tree: &FileTree) -> anyhow::Result<()> {
    let now = listing(tree)?;
    let before = std::fs::read_to_string(root.join(LISTING)).unwrap_or_default();
    for line in difference(&before, &now) {
        eprintln!("{line}");
    }
    anyhow::ensure!(
        now == before,
        "the public interface of the client library has changed; if that is meant: cargo xtask public-api --update"
    );
    println!("    {LISTING} is what the code says");
    Ok(())
}

/// Writes the listing.
pub(crate) fn update(root: &Path, tree: &FileTree) -> anyhow::Result<()> {
    std::fs::write(root.join(LISTING), listing(tree)?).with_context(|| format!("cannot write {LISTING}"))
}

/// Lines that are gone, then lines that are new.
fn difference(before: &str, now: &str) -> Vec<String> {
    let (old, new): (BTreeSet<&str>, BTreeSet<&str>) = (before.lines().collect(), now.lines().collect());
    let gone = old.difference(&new).map(|line| format!("- {line}"));
    gone.chain(new.difference(&old).map(|line| format!("+ {line}")))
        .collect()
}

fn listing(tree: &FileTree) -> anyhow::Result<String> {
    let (workspace, breaches) = WorkspaceCrates::parse(tree);
    anyhow::ensure!(
        breaches.is_empty(),
        "the code cannot be parsed: cargo xtask structure says where"
    );
    let modules = workspace.modules(KRATE);
    let mut library = PublicLibrary {
        items: Vec::new(),
        modules: &modules,
    };
    for file in &modules.files {
        library.read(file.module.clone(), syn::parse_file(&file.text)?.items);
    }
    let mut text = HEAD.to_owned();
    library.list(&[], "streamhouse_client", &mut text);
    Ok(text)
}

/// Every item of the crate with the module that it stands in.
struct PublicLibrary<'a> {
    items: Vec<(Vec<String>, syn::Item)>,
    modules: &'a CrateModules<'a>,
}

impl PublicLibrary<'_> {
    fn read(&mut self, module: Vec<String>, items: Vec<syn::Item>) {
        for mut item in items {
            if let syn::Item::Mod(inner) = &mut item
                && let Some((_, content)) = inner.content.take()
                && !is_test(&inner.attrs)
            {
                let below = [module.as_slice(), &[inner.ident.to_string()]].concat();
                self.read(below, content);
            }
            self.items.push((module.clone(), item));
        }
    }

    fn of<'s>(&'s self, module: &'s [String]) -> impl Iterator<Item = &'s syn::Item> {
        self.items
            .iter()
            .filter(move |(own, _)| own == module)
            .map(|(_, item)| item)
    }

    /// Lists a public module under its public path, then the public modules in it.
    fn list(&self, module: &[String], path: &str, text: &mut String) {
        let mut listed: Vec<syn::Item> = Vec::new();
        let mut inner: Vec<String> = Vec::new();
        for item in self.of(module) {
            match item {
                syn::Item::Mod(item) if is_public(&item.vis) && !is_test(&item.attrs) => {
                    inner.push(item.ident.to_string())
                }
                syn::Item::Use(item) if is_public(&item.vis) => {
                    for (segments, name) in leaves(&item.tree, &[]) {
                        listed.extend(self.exported(module, &segments, &name));
                    }
                }
                item => listed.extend(self.with_impls(module, item)),
            }
        }
        if !listed.is_empty() {
            let items = listed.into_iter().map(|mut item| {
                InterfaceOnly.visit_item_mut(&mut item);
                item
            });
            let file = syn::File {
                shebang: None,
                attrs: Vec::new(),
                items: items.collect(),
            };
            text.push_str(&format!("\n// {path}\n{}", prettyplease::unparse(&file)));
        }
        inner.sort();
        for name in inner {
            self.list(
                &[module, std::slice::from_ref(&name)].concat(),
                &format!("{path}::{name}"),
                text,
            );
        }
    }

    /// What a `pub use` brings: the items themselves if they are this crate's, else the `use`.
    fn exported(&self, module: &[String], segments: &[String], name: &str) -> Vec<syn::Item> {
        let elsewhere = || {
            let (path, last) = (segments.join("::"), segments.last().map_or("", String::as_str));
            let text = match name {
                "*" => format!("pub use {path}::*;"),
                name if name == last => format!("pub use {path};"),
                name => format!("pub use {path} as {name};"),
            };
            syn::parse_str(&text).into_iter().collect()
        };
        let (path, last) = if name == "*" {
            (segments, None)
        } else {
            (&segments[..segments.len() - 1], segments.last())
        };
        let Some(target) = self.modules.declares(module, path, last.map(String::as_str)) else {
            return elsewhere();
        };
        let items = self.of(&target);
        let wanted = items.filter(|item| last.is_none_or(|last| item_name(item).as_ref() == Some(last)));
        wanted.flat_map(|item| self.with_impls(&target, item)).collect()
    }

    /// A public item, and all that is implemented for it in the crate.
    fn with_impls(&self, module: &[String], item: &syn::Item) -> Vec<syn::Item> {
        let Some(name) = item_name(item).filter(|_| is_public_item(item)) else {
            return Vec::new();
        };
        let mut all = vec![item.clone()];
        for (place, block_item) in &self.items {
            if let syn::Item::Impl(block) = block_item
                && let syn::Type::Path(own) = &*block.self_ty
                && own.path.segments.last().is_some_and(|last| last.ident == name)
                && self.modules.declares(place, &[], Some(&name)).as_deref() == Some(module)
            {
                all.push(block_item.clone());
            }
        }
        all
    }
}

/// Each name that a `use` brings, with the path to it.
fn leaves(tree: &syn::UseTree, before: &[String]) -> Vec<(Vec<String>, String)> {
    let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
    match tree {
        syn::UseTree::Path(path) => leaves(&path.tree, &with(&path.ident)),
        syn::UseTree::Name(name) => vec![(with(&name.ident), name.ident.to_string())],
        syn::UseTree::Rename(rename) => vec![(with(&rename.ident), rename.rename.to_string())],
        syn::UseTree::Glob(_) => vec![(before.to_vec(), "*".to_owned())],
        syn::UseTree::Group(group) => group.items.iter().flat_map(|tree| leaves(tree, before)).collect(),
    }
}

fn is_public(visibility: &syn::Visibility) -> bool {
    matches!(visibility, syn::Visibility::Public(_))
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        matches!(&attribute.meta, syn::Meta::List(list) if list.path.is_ident("cfg") && list.tokens.to_string() == "test")
    })
}

fn is_public_item(item: &syn::Item) -> bool {
    match item {
        syn::Item::Const(item) => is_public(&item.vis),
        syn::Item::Enum(item) => is_public(&item.vis),
        syn::Item::Fn(item) => is_public(&item.vis),
        syn::Item::Static(item) => is_public(&item.vis),
        syn::Item::Struct(item) => is_public(&item.vis),
        syn::Item::Trait(item) => is_public(&item.vis),
        syn::Item::Type(item) => is_public(&item.vis),
        _ => false,
    }
}

fn item_name(item: &syn::Item) -> Option<String> {
    let name = match item {
        syn::Item::Const(item) => &item.ident,
        syn::Item::Enum(item) => &item.ident,
        syn::Item::Fn(item) => &item.sig.ident,
        syn::Item::Static(item) => &item.ident,
        syn::Item::Struct(item) => &item.ident,
        syn::Item::Trait(item) => &item.ident,
        syn::Item::Type(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// Takes out all that users of the library do not see.
struct InterfaceOnly;

impl VisitMut for InterfaceOnly {
    fn visit_attributes_mut(&mut self, attributes: &mut Vec<syn::Attribute>) {
        const KEPT: &[&str] = &[
            "derive",
            "non_exhaustive",
            "deprecated",
            "must_use",
            "cfg",
            "default",
        ];
        attributes.retain(|attribute| KEPT.iter().any(|kept| attribute.path().is_ident(kept)));
    }

    fn visit_block_mut(&mut self, block: &mut syn::Block) {
        block.stmts.clear();
    }

    fn visit_fields_named_mut(&mut self, fields: &mut syn::FieldsNamed) {
        // Fields of an enum's variant have no visibility of their own; `visit_variant_mut` keeps
        // them.
        let all = std::mem::take(&mut fields.named);
        fields.named = all.into_iter().filter(|field| is_public(&field.vis)).collect();
        visit_mut::visit_fields_named_mut(self, fields);
    }

    fn visit_fields_unnamed_mut(&mut self, fields: &mut syn::FieldsUnnamed) {
        for field in &mut fields.unnamed {
            if !is_public(&field.vis) {
                // A private field of a tuple keeps its place, and hides its type.
                field.ty = syn::parse_quote!(_);
            }
        }
        visit_mut::visit_fields_unnamed_mut(self, fields);
    }

    fn visit_variant_mut(&mut self, variant: &mut syn::Variant) {
        self.visit_attributes_mut(&mut variant.attrs);
        for field in &mut variant.fields {
            self.visit_attributes_mut(&mut field.attrs);
        }
    }

    fn visit_expr_mut(&mut self, _: &mut syn::Expr) {}

    fn visit_item_impl_mut(&mut self, block: &mut syn::ItemImpl) {
        if block.trait_.is_some() {
            // What a trait asks for is known from the trait; its types are not.
            block.items.retain(|item| matches!(item, syn::ImplItem::Type(_)));
        } else {
            block.items.retain(|item| match item {
                syn::ImplItem::Fn(item) => is_public(&item.vis) && !is_test(&item.attrs),
                syn::ImplItem::Const(item) => is_public(&item.vis),
                _ => false,
            });
        }
        visit_mut::visit_item_impl_mut(self, block);
    }
}

#[cfg(test)]
mod tests;
