//! Circles of imports.

use super::super::circles;
use super::{places, workspace};

const LIB: (&str, &str) = ("agent/src/lib.rs", "mod a;\nmod b;\nmod c;\n");

#[test]
fn two_files_that_import_each_other_are_a_breach() {
    let found = workspace(&[
        LIB,
        ("agent/src/a.rs", "\nuse crate::b::B;\npub struct A;\n"),
        ("agent/src/b.rs", "use crate::a::A;\npub struct B;\n"),
    ]);
    assert_eq!(places(&circles::check(&found, &[])), ["agent/src/a.rs:2"]);
}

#[test]
fn a_circle_of_three_is_a_breach_and_a_line_is_none() {
    let a = ("agent/src/a.rs", "use crate::b::B;\npub struct A;\n");
    let b = ("agent/src/b.rs", "use crate::c::C;\npub struct B;\n");
    let line = workspace(&[LIB, a, b, ("agent/src/c.rs", "pub struct C;\n")]);
    assert_eq!(circles::check(&line, &[]), []);
    let circle = workspace(&[LIB, a, b, ("agent/src/c.rs", "pub struct C(crate::a::A);\n")]);
    let breaches = circles::check(&circle, &[]);
    assert_eq!(places(&breaches), ["agent/src/a.rs:1"]);
    assert!(
        breaches[0]
            .to_string()
            .ends_with("agent/src/a.rs \u{2194} agent/src/b.rs \u{2194} agent/src/c.rs")
    );
}

#[test]
fn a_circle_through_a_re_export_is_a_breach() {
    let found = workspace(&[
        ("agent/src/lib.rs", "pub mod a;\nmod b;\n"),
        (
            "agent/src/a/mod.rs",
            "mod one;\nmod two;\npub use one::One;\npub use self::two::*;\n",
        ),
        ("agent/src/a/one.rs", "use super::Two;\npub struct One;\n"),
        ("agent/src/a/two.rs", "use crate::a::One;\npub struct Two;\n"),
    ]);
    assert_eq!(places(&circles::check(&found, &[])), ["agent/src/a/one.rs:1"]);
}

#[test]
fn a_module_and_what_lies_below_it_may_know_each_other() {
    let found = workspace(&[
        (
            "agent/src/a.rs",
            "mod inner;\nuse inner::Inner;\npub struct A(Inner);\n",
        ),
        ("agent/src/a/inner.rs", "use super::A;\npub struct Inner;\n"),
    ]);
    assert_eq!(circles::check(&found, &[]), []);
}

#[test]
fn a_circle_that_only_tests_close_is_none() {
    let found = workspace(&[
        LIB,
        ("agent/src/a.rs", "use crate::b::B;\npub struct A;\n"),
        (
            "agent/src/b.rs",
            "pub struct B;\n#[cfg(test)]\nmod tests { use crate::a::A; }\n",
        ),
    ]);
    assert_eq!(circles::check(&found, &[]), []);
}

#[test]
fn a_known_circle_is_free_and_must_be_written_anew_when_it_shrinks() {
    let a = ("agent/src/a.rs", "use crate::b::B;\npub struct A;\n");
    let b = ("agent/src/b.rs", "use crate::a::A;\npub struct B;\n");
    let known: &[&[&str]] = &[&["agent/src/a.rs", "agent/src/b.rs"]];
    assert_eq!(circles::check(&workspace(&[LIB, a, b]), known), []);
    let gone = workspace(&[LIB, a, ("agent/src/b.rs", "pub struct B;\n")]);
    assert_eq!(
        places(&circles::check(&gone, known)),
        ["xtask/src/structure/limits.rs:1"]
    );
    let larger: &[&[&str]] = &[&["agent/src/a.rs", "agent/src/b.rs", "agent/src/c.rs"]];
    let shrunk = circles::check(&workspace(&[LIB, a, b]), larger);
    assert_eq!(
        places(&shrunk),
        ["agent/src/a.rs:1", "xtask/src/structure/limits.rs:1"]
    );
}
