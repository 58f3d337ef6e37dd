//! Names of types.

use super::super::limits::NameLimits;
use super::super::names::{check, measure};
use super::{places, workspace};

fn limits(one_word_percent: usize, repeated: usize) -> [NameLimits; 1] {
    [NameLimits {
        krate: "agent",
        one_word_percent,
        repeated,
    }]
}

#[test]
fn a_larger_share_of_one_word_names_is_a_breach() {
    let text = "struct Tail;\nenum State {}\ntrait ObjectStore {}\ntype Result<T> = T;\n";
    let measured = measure(&workspace(&[("agent/src/lib.rs", text)]));
    assert_eq!((measured[0].types, measured[0].one_word), (4, 3));
    assert_eq!(check(&measured, &limits(75, 0)), []);
    assert_eq!(places(&check(&measured, &limits(74, 0))), ["agent/Cargo.toml:1"]);
}

#[test]
fn a_name_of_capitals_and_numbers_is_one_word() {
    let text = "struct S3;\nstruct CRC;\nstruct S3Store;\nstruct OpenTLSPort;\n";
    let measured = measure(&workspace(&[("agent/src/lib.rs", text)]));
    assert_eq!(measured[0].one_word, 2);
}

#[test]
fn one_name_for_two_types_of_a_crate_is_a_breach() {
    let files = [
        ("agent/src/a.rs", "struct State;\n"),
        ("agent/src/b.rs", "mod inner { struct State; }\n"),
        ("client/src/lib.rs", "struct State;\n"),
    ];
    let measured = measure(&workspace(&files));
    let measured = &measured[..1];
    assert_eq!(check(measured, &limits(100, 1)), []);
    let breaches = check(measured, &limits(100, 0));
    assert_eq!(places(&breaches), ["agent/Cargo.toml:1"]);
    assert!(
        breaches[0]
            .to_string()
            .ends_with("State (agent/src/a.rs:1, agent/src/b.rs:1)")
    );
}

#[test]
fn types_of_tests_do_not_count() {
    let text = "struct ObjectStore;\n#[cfg(test)]\nmod tests { struct World; }\n";
    let files = [
        ("agent/src/lib.rs", text),
        ("agent/src/a/tests.rs", "struct World;\n"),
    ];
    let measured = measure(&workspace(&files));
    assert_eq!((measured[0].types, measured[0].one_word), (1, 0));
}

#[test]
fn a_crate_without_limits_is_a_breach() {
    let measured = measure(&workspace(&[("gateway/src/lib.rs", "struct HttpGateway;\n")]));
    assert_eq!(
        places(&check(&measured, &limits(100, 0))),
        ["gateway/Cargo.toml:1"]
    );
}
