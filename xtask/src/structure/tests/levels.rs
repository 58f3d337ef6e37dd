//! The levels of a crate, and each way to import against them.

use super::super::levels;
use super::super::limits::{CrateLevels, KnownImport};
use super::{places, workspace};

const LEVELS: &[CrateLevels] = &[("agent", &[&["server"], &["produce", "fetch"], &["store"]])];

/// The breaches of a crate whose module `name` has this text.
fn check_with(name: &str, text: &str, known: &[KnownImport]) -> Vec<String> {
    let own = format!("agent/src/{name}.rs");
    let mut files = vec![
        (
            "agent/src/lib.rs",
            "pub use server::Listener;\nmod server;\nmod produce;\nmod fetch;\nmod store;\n",
        ),
        (
            "agent/src/server.rs",
            "pub struct Listener;\npub mod inner { pub struct Deep; }\n",
        ),
        ("agent/src/produce.rs", "pub struct Batch;\n"),
        ("agent/src/fetch.rs", "pub struct Tail;\n"),
        ("agent/src/store.rs", "pub struct Objects;\n"),
    ];
    files.retain(|(path, _)| *path != own);
    files.push((&own, text));
    places(&levels::check(&workspace(&files), LEVELS, known))
}

fn check(name: &str, text: &str) -> Vec<String> {
    check_with(name, text, &[])
}

#[test]
fn imports_that_go_down_are_free() {
    assert_eq!(check("fetch", "use crate::store::Objects;\n"), [""; 0]);
}

#[test]
fn an_import_that_goes_up_is_a_breach() {
    assert_eq!(
        check("store", "\nuse crate::server::Listener;\n"),
        ["agent/src/store.rs:2"]
    );
}

#[test]
fn an_import_that_goes_sideways_is_a_breach() {
    assert_eq!(
        check("fetch", "use crate::produce::Batch;\n"),
        ["agent/src/fetch.rs:1"]
    );
}

#[test]
fn an_import_in_a_group_is_a_breach() {
    assert_eq!(
        check(
            "store",
            "use crate::{\n    store,\n    fetch::{self, Tail},\n};\n"
        ),
        ["agent/src/store.rs:3"; 2]
    );
    assert_eq!(
        check("store", "use {std::fmt, crate::{fetch as f}};\n"),
        ["agent/src/store.rs:1"]
    );
}

#[test]
fn a_path_in_code_is_a_breach() {
    assert_eq!(
        check("store", "fn f() {\n    crate::server::listen();\n}\n"),
        ["agent/src/store.rs:2"]
    );
    assert_eq!(
        check("store", "fn f(_: &crate::fetch::Tail) {}\n"),
        ["agent/src/store.rs:1"]
    );
    assert_eq!(
        check("store", "impl From<super::fetch::Tail> for () {}\n"),
        ["agent/src/store.rs:1"]
    );
}

#[test]
fn a_path_by_super_is_a_breach() {
    assert_eq!(
        check("store", "use super::fetch::Tail;\n"),
        ["agent/src/store.rs:1"]
    );
    assert_eq!(
        check("store", "mod a { mod b { use super::super::super::fetch; } }\n"),
        ["agent/src/store.rs:1"]
    );
    assert_eq!(check("store", "mod a { use super::super::store; }\n"), [""; 0]);
}

#[test]
fn a_path_in_a_macro_is_a_breach() {
    assert_eq!(
        check(
            "store",
            "fn f() {\n    println!(\"{}\", crate::server::name());\n}\n"
        ),
        ["agent/src/store.rs:2"]
    );
    assert_eq!(
        check("store", "macro_rules! m { () => { $crate::fetch::Tail } }\n"),
        ["agent/src/store.rs:1"]
    );
}

#[test]
fn a_path_in_an_attribute_is_a_breach() {
    assert_eq!(
        check("store", "#[serde(with = \"crate::fetch::text\")]\nstruct S;\n"),
        ["agent/src/store.rs:1"]
    );
}

#[test]
fn a_name_that_the_crate_exports_belongs_to_the_module_that_declares_it() {
    assert_eq!(check("store", "use crate::Listener;\n"), ["agent/src/store.rs:1"]);
}

#[test]
fn code_after_a_test_module_is_looked_at_and_tests_are_not() {
    let text = "#[cfg(test)]\nmod tests {\n    use crate::server::Listener;\n}\n\nuse crate::fetch::Tail;\n";
    assert_eq!(check("store", text), ["agent/src/store.rs:6"]);
}

#[test]
fn code_that_tests_leave_out_is_looked_at() {
    assert_eq!(
        check("store", "#[cfg(not(test))]\nuse crate::fetch::Tail;\n"),
        ["agent/src/store.rs:2"]
    );
    assert_eq!(
        check(
            "store",
            "#[cfg(any(test, feature = \"faults\"))]\nuse crate::fetch::Tail;\n"
        ),
        ["agent/src/store.rs:2"]
    );
}

#[test]
fn words_in_comments_and_strings_import_nothing() {
    assert_eq!(
        check("store", "// crate::server\nconst S: &str = \"crate::server\";\n"),
        [""; 0]
    );
}

#[test]
fn a_known_import_is_free_and_must_go_when_it_is_gone() {
    let known: &[KnownImport] = &[("agent", "store", "fetch")];
    assert_eq!(check_with("store", "use crate::fetch::Tail;\n", known), [""; 0]);
    assert_eq!(
        check_with("store", "\n", known),
        ["xtask/src/structure/limits.rs:1"]
    );
}

#[test]
fn a_module_without_a_level_is_a_breach() {
    assert_eq!(check("clock", "\n"), ["agent/src/clock.rs:1"]);
}

#[test]
fn a_crate_without_levels_is_a_breach() {
    let found = workspace(&[("gateway/src/lib.rs", "\n")]);
    assert_eq!(
        places(&levels::check(&found, LEVELS, &[])),
        ["gateway/Cargo.toml:1"]
    );
}

#[test]
fn a_program_that_imports_its_library_by_name_is_looked_at() {
    let levels: &[CrateLevels] = &[("agent", &[&["server"], &["main"]])];
    let files = [
        ("agent/src/lib.rs", "pub mod server;\n"),
        ("agent/src/server.rs", "\n"),
        ("agent/src/main.rs", "use streamhouse_agent::server;\n"),
    ];
    assert_eq!(
        places(&levels::check(&workspace(&files), levels, &[])),
        ["agent/src/main.rs:1"]
    );
}
