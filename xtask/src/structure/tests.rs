//! Each rule, biting.

mod circles;
mod comments;
mod doctests;
mod environment;
mod levels;
mod links;
mod manifests;
mod names;
mod sizes;
mod threats;
mod words;

use super::StructureBreach;
use super::crates::WorkspaceCrates;
use crate::repository::FileTree;

fn tree(files: &[(&str, &str)]) -> FileTree {
    files.iter().copied().collect()
}

/// The Rust files of a repository that can all be parsed.
fn workspace(files: &[(&str, &str)]) -> WorkspaceCrates {
    let (workspace, breaches) = WorkspaceCrates::parse(&tree(files));
    assert_eq!(breaches, [], "the files of the test are Rust");
    workspace
}

/// Where each breach is, without what it says.
fn places(breaches: &[StructureBreach]) -> Vec<String> {
    let place = |breach: &StructureBreach| format!("{}:{}", breach.path, breach.line);
    breaches.iter().map(place).collect()
}

#[test]
fn a_file_that_is_no_rust_is_a_breach() {
    let (_, breaches) = WorkspaceCrates::parse(&tree(&[("agent/src/lib.rs", "//! Head.\nfn {")]));
    assert_eq!(places(&breaches), ["agent/src/lib.rs:2"]);
}

#[test]
fn a_breach_names_its_place_first() {
    let breach = StructureBreach::new("agent/src/lib.rs", 7, "is wrong");
    assert_eq!(breach.to_string(), "agent/src/lib.rs:7: is wrong");
}
