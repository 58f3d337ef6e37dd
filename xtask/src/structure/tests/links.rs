//! Links of documents and their anchors.

use super::super::links;
use super::{places, tree};

fn check(files: &[(&str, &str)]) -> Vec<String> {
    places(&links::check(&tree(files)))
}

#[test]
fn a_link_to_no_file_is_a_breach() {
    let files = [
        ("README.md", "one\n\n[b](docs/b.md) and [c](docs/c.md)\n"),
        ("docs/b.md", "[up](../README.md)\n"),
    ];
    assert_eq!(check(&files), ["README.md:3"]);
}

#[test]
fn a_link_out_of_the_repository_is_a_breach() {
    assert_eq!(check(&[("docs/a.md", "[a](../../b.md)\n")]), ["docs/a.md:1"]);
}

#[test]
fn pictures_references_and_folders_are_links() {
    let text = "![p](p.png)\n\n[a][x] [f](docs) [g](docs/)\n\n[x]: gone.md\n";
    assert_eq!(
        check(&[("a.md", text), ("docs/b.md", "b\n")]),
        ["a.md:1", "a.md:3"]
    );
}

#[test]
fn a_link_to_no_heading_is_a_breach() {
    let b = ("docs/b.md", "# The way, of `a` record\n\n## Twice\n\n## Twice\n");
    let good =
        "[1](docs/b.md#the-way-of-a-record) [2](docs/b.md#twice) [3](docs/b.md#twice-1) [4](#own)\n\n# Own\n";
    assert_eq!(check(&[("a.md", good), b]), [""; 0]);
    assert_eq!(check(&[("a.md", "[1](docs/b.md#the-way)\n"), b]), ["a.md:1"]);
    assert_eq!(check(&[("a.md", "[1](docs/b.md#twice-2)\n"), b]), ["a.md:1"]);
    assert_eq!(check(&[("a.md", "text\n[1](#own)\n")]), ["a.md:2"]);
}

#[test]
fn an_anchor_keeps_letters_hyphens_and_underscores_only() {
    let text = "[1](#a_b---c-42)\n\n# A_b - c. (42)!\n";
    assert_eq!(check(&[("a.md", text)]), [""; 0]);
}

#[test]
fn anchors_in_html_count() {
    assert_eq!(check(&[("a.md", "[1](#here)\n\n<a id=\"here\"></a>\n")]), [""; 0]);
}

#[test]
fn links_elsewhere_and_links_in_code_are_left_alone() {
    let text = "<https://example.org> [m](mailto:a@example.org) `[a](b.md)`\n\n```\n[a](b.md)\n```\n";
    assert_eq!(check(&[("a.md", text)]), [""; 0]);
}
