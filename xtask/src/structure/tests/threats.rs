//! The tests of the threat model.

use super::super::threats;
use super::{places, tree};

const TESTS: (&str, &str) = (
    "agent/src/access.rs",
    "//! Tests.\n#[test]\nfn strangers_are_refused() {}\n\n#[tokio::test(flavor = \"multi_thread\")]\n\
     async fn friends_are_let_in() {}\n\nfn helps() {}\n",
);

fn check(line: &str) -> Vec<String> {
    places(&threats::check(&tree(&[
        TESTS,
        ("docs/concepts/security.md", line),
    ])))
}

fn link(test: &str) -> String {
    format!("Strangers cannot come in: [`{test}`](../../agent/src/access.rs).")
}

#[test]
fn a_line_with_cannot_names_a_test() {
    assert_eq!(
        check("Strangers cannot come in."),
        ["docs/concepts/security.md:1"]
    );
    assert_eq!(check("| Cannot | a table |"), ["docs/concepts/security.md:1"]);
    assert_eq!(check("Strangers do not come in."), [""; 0]);
    assert_eq!(check(&link("strangers_are_refused")), [""; 0]);
    assert_eq!(check(&link("friends_are_let_in")), [""; 0]);
}

#[test]
fn a_test_that_is_named_exists() {
    for name in ["strangers_are_let_in", "strangers_are", "helps"] {
        assert_eq!(check(&link(name)), ["docs/concepts/security.md:1"], "{name}");
    }
    let elsewhere = "See [`strangers_are_refused`](../../agent/src/other.rs).";
    assert_eq!(check(elsewhere), ["docs/concepts/security.md:1"]);
}

#[test]
fn other_documents_and_links_are_not_looked_at() {
    let other = tree(&[("docs/a.md", "One cannot.")]);
    assert_eq!(threats::check(&other), []);
    assert_eq!(
        check("[`acl`](users.md) and [agents](../agent/src/none.rs)"),
        [""; 0]
    );
}
