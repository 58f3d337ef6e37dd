//! Rust examples of documents.

use super::super::doctests;
use super::{places, tree};

const INCLUDED: (&str, &str) = (
    "tests/src/lib.rs",
    "#[doc = include_str!(\"../../docs/a.md\")]\nstruct Guide;\n",
);

fn check(files: &[(&str, &str)]) -> Vec<String> {
    places(&doctests::check(&tree(files)))
}

#[test]
fn a_rust_block_that_no_test_includes_is_a_breach() {
    let text = "One.\n\n```rust,no_run\nlet a = 1;\n```\n";
    assert_eq!(
        check(&[INCLUDED, ("docs/a.md", text), ("docs/b.md", text)]),
        ["docs/b.md:3"]
    );
}

#[test]
fn a_block_is_ignored_only_with_a_reason() {
    let text = "```rust,ignore (a part)\nx\n```\n```rust,ignore\nx\n```\n```rust,ignore ()\nx\n```\n";
    assert_eq!(
        check(&[INCLUDED, ("docs/a.md", text)]),
        ["docs/a.md:4", "docs/a.md:7"]
    );
}

#[test]
fn other_languages_are_not_looked_at() {
    assert_eq!(
        check(&[("docs/b.md", "```sh\nls\n```\n```\nrust\n```\n    rust\n")]),
        [""; 0]
    );
}
