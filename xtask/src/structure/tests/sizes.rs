//! Sizes and headers.

use super::super::sizes;
use super::{places, workspace};

fn file(lines: usize, tests: usize) -> String {
    let functions: String = (1..lines)
        .map(|number| format!("fn f{number}() {{}}\n"))
        .collect();
    let tests = "    fn t() {}\n".repeat(tests);
    format!("//! Head.\n{functions}#[cfg(test)]\nmod tests {{\n{tests}}}\n")
}

#[test]
fn a_file_of_more_than_500_lines_is_a_breach() {
    let found = workspace(&[
        ("agent/src/a.rs", &file(500, 0)),
        ("agent/src/b.rs", &file(501, 0)),
    ]);
    assert_eq!(places(&sizes::check(&found)), ["agent/src/b.rs:500"]);
}

#[test]
fn the_lines_of_a_test_module_do_not_count() {
    let found = workspace(&[("agent/src/a.rs", &file(400, 300))]);
    assert_eq!(sizes::check(&found), []);
}

#[test]
fn code_after_a_test_module_counts() {
    let text = file(400, 10) + &"fn g() {}\n".repeat(101);
    let found = workspace(&[("agent/src/a.rs", &text)]);
    assert_eq!(places(&sizes::check(&found)), ["agent/src/a.rs:500"]);
}

#[test]
fn a_file_of_tests_may_have_1000_lines_and_no_more() {
    let fits = "//! Head.\n".to_owned() + &"fn f() {}\n".repeat(999);
    let long = fits.clone() + "fn g() {}\n";
    let found = workspace(&[("agent/tests/a.rs", &fits), ("agent/src/b/tests.rs", &long)]);
    assert_eq!(places(&sizes::check(&found)), ["agent/src/b/tests.rs:1000"]);
}

#[test]
fn a_file_without_a_header_is_a_breach() {
    let found = workspace(&[
        ("agent/src/a.rs", "// Not a header.\n"),
        ("agent/src/b.rs", "//! A header.\n"),
    ]);
    assert_eq!(places(&sizes::check(&found)), ["agent/src/a.rs:1"]);
}

#[test]
fn files_above_the_aim_are_counted() {
    let found = workspace(&[
        ("agent/src/a.rs", &file(300, 0)),
        ("agent/src/b.rs", &file(301, 0)),
    ]);
    assert_eq!(sizes::count(&found), (2, 1));
}
