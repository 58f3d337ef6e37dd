//! Words and code that have no place in the tree.

use super::super::words;
use super::{places, tree};
use crate::structure::crates::WorkspaceCrates;

fn check(path: &str, text: &str) -> Vec<String> {
    let tree = tree(&[(path, text)]);
    let (workspace, _) = WorkspaceCrates::parse(&tree);
    places(&words::check(&tree, &workspace))
}

#[test]
fn a_mark_of_unfinished_work_is_a_breach_in_every_file_of_text() {
    for mark in ["TODO", "FIXME", "XXX", "HACK"] {
        for path in [
            "a.md", "a.sql", "a.proto", "a.yaml", "a.sh", ".ci/run", ".env.dev",
        ] {
            assert_eq!(check(path, &format!("one\n{mark}: two\n")), [format!("{path}:2")]);
        }
    }
    assert_eq!(check("a.md", "HACKED and TODOS are words\n"), [""; 0]);
}

#[test]
fn a_path_of_one_machine_is_a_breach() {
    for path in [
        "/root/x",
        "/work/x",
        "/home/jo/x",
        "/Users/jo/x",
        "see `/root/.cargo`",
        "a=/home/jo/b",
    ] {
        assert_eq!(check("a.md", path), ["a.md:1"], "{path}");
    }
    for path in ["a/root/x", "~/work/x", "$HOME/work/x", "/homes/x", "${A}/root/b"] {
        assert_eq!(check("a.md", path), [""; 0], "{path}");
    }
}

#[test]
fn unsafe_code_is_a_breach_wherever_it_stands() {
    for code in [
        "fn f() { unsafe { g() } }",
        "unsafe fn f() {}",
        "unsafe impl Send for S {}",
        "unsafe trait T {}",
        "unsafe extern \"C\" {}",
        "struct S; impl S { unsafe fn f() {} }",
        "#[cfg(test)] mod tests { fn f() { unsafe { g() } } }",
        "fn f() { m!(unsafe { g() }) }",
    ] {
        assert_eq!(check("a/src/lib.rs", code), ["a/src/lib.rs:1"], "{code}");
    }
    assert_eq!(
        check("a/src/lib.rs", "// unsafe { }\nconst S: &str = \"unsafe {\";\n"),
        [""; 0]
    );
}

#[test]
fn a_skipped_test_is_a_breach() {
    assert_eq!(
        check("a/tests/a.rs", "#[test]\n#[ignore]\nfn t() {}\n"),
        ["a/tests/a.rs:2"]
    );
    assert_eq!(
        check("a/tests/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn t() {}\n"),
        ["a/tests/a.rs:2"]
    );
    assert_eq!(
        check("a/tests/a.rs", "m! {\n    #[ignore]\n    fn t() {}\n}\n"),
        ["a/tests/a.rs:2"]
    );
}
