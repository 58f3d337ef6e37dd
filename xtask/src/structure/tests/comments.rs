//! The width of comments.

use super::super::comments;
use super::{places, workspace};

fn check(text: &str) -> Vec<String> {
    places(&comments::check(&workspace(&[("a/src/lib.rs", text)]), 20))
}

#[test]
fn a_comment_wider_than_the_limit_is_a_breach() {
    assert_eq!(
        check("//! Twenty columns.\n//! Twenty-one columns\n"),
        ["a/src/lib.rs:2"]
    );
    assert_eq!(
        check("/// Documentation that is wide.\nfn f() {}\n"),
        ["a/src/lib.rs:1"]
    );
    assert_eq!(
        check("fn f() {\n    // A comment that is wide.\n}\n"),
        ["a/src/lib.rs:2"]
    );
}

#[test]
fn code_and_strings_may_be_wider() {
    let code = "const TEXT: &str = r\"\n// A line of a string, which is wide.\n\"; // beside code, wide\n";
    assert_eq!(check(code), [""; 0]);
}

#[test]
fn tables_links_and_fences_may_be_wider() {
    let text = "//! | a table | of two columns |\n//! https://example.org/long\n//! ```text\n//! what is drawn in a fence\n//! ```\n";
    assert_eq!(check(text), [""; 0]);
}

#[test]
fn what_follows_a_fence_is_looked_at_again() {
    let text = "//! ```\n//! what is drawn in a fence\n//! ```\n//! Words that do not fit.\n";
    assert_eq!(check(text), ["a/src/lib.rs:4"]);
}
