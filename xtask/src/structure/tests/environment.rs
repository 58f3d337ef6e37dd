//! Who may read the environment.

use super::super::environment;
use super::{places, workspace};

const READS: &str = "fn f() { let _ = std::env::var(\"A\"); }\n";

#[test]
fn a_read_of_the_environment_is_a_breach() {
    for read in [
        "std::env::var(\"A\")",
        "std::env::var_os(\"A\")",
        "std::env::vars()",
        "std::env::vars_os()",
    ] {
        let text = format!("fn f() {{ let _ = {read}; }}\n");
        let found = workspace(&[("client/src/a.rs", &text)]);
        assert_eq!(
            places(&environment::check(&found)),
            ["client/src/a.rs:1"],
            "{read}"
        );
    }
}

#[test]
fn an_import_that_hides_the_read_is_a_breach() {
    let found = workspace(&[("cli/src/a.rs", "use std::env::{var, args};\n")]);
    assert_eq!(places(&environment::check(&found)), ["cli/src/a.rs:1"]);
}

#[test]
fn settings_and_entry_points_read_the_environment() {
    let paths = [
        "core/src/settings/load.rs",
        "operator/src/settings.rs",
        "agent/src/main.rs",
        "agent/src/process.rs",
    ];
    for path in paths {
        assert_eq!(environment::check(&workspace(&[(path, READS)])), [], "{path}");
    }
}

#[test]
fn tests_read_the_environment_and_code_after_them_does_not() {
    let tests = format!("#[cfg(test)]\nmod tests {{ {READS} }}\n");
    assert_eq!(environment::check(&workspace(&[("agent/src/a.rs", &tests)])), []);
    let found = workspace(&[("agent/src/a.rs", &(tests + READS))]);
    assert_eq!(places(&environment::check(&found)), ["agent/src/a.rs:4"]);
}

#[test]
fn the_switch_that_writes_documents_is_no_setting() {
    let found = workspace(&[(
        "core/src/a.rs",
        "fn f() { let _ = std::env::var_os(\"UPDATE_DOCS\"); }\n",
    )]);
    assert_eq!(environment::check(&found), []);
}
