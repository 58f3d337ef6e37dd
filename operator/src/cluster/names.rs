//! Syntax of names, labels and annotations in Kubernetes. Used by the validation and the builders.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::problem::ClusterProblem;

/// Returns whether the text is a DNS label: up to 63 lower-case letters, digits and hyphens, with a
/// hyphen at neither end.
pub(super) fn is_dns_label(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len())
        && text.chars().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Returns whether the text is a label or annotation key: `name` or `domain/name`.
fn is_qualified_name(text: &str) -> bool {
    let (domain, part) = text
        .split_once('/')
        .map_or((None, text), |(domain, part)| (Some(domain), part));
    let known = |domain: &str| domain.len() <= 253 && domain.split('.').all(is_dns_label);
    domain.is_none_or(known) && !part.is_empty() && is_label_value(part)
}

/// Returns whether the text is a label value; may be empty.
pub(super) fn is_label_value(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let end = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 63
        && text.chars().all(inside)
        && text.chars().next().is_none_or(end)
        && text.chars().next_back().is_none_or(end)
}

/// Checks labels against the syntax of Kubernetes.
pub(super) fn check_labels(field: &str, labels: &BTreeMap<String, String>) -> Result<(), ClusterProblem> {
    for (name, value) in labels {
        if !is_qualified_name(name) {
            return Err(ClusterProblem::invalid_spec(format!(
                "{field}: {name:?} is not a label key"
            )));
        }
        if !is_label_value(value) {
            return Err(ClusterProblem::invalid_spec(format!(
                "{field}: {value:?} is not a label value: up to 63 letters, digits, '-', '_' and '.'"
            )));
        }
    }
    Ok(())
}

/// Checks annotations against the syntax of Kubernetes.
pub(super) fn check_annotations(
    field: &str,
    annotations: &BTreeMap<String, String>,
) -> Result<(), ClusterProblem> {
    match annotations.keys().find(|name| !is_qualified_name(name)) {
        Some(name) => Err(ClusterProblem::invalid_spec(format!(
            "{field}: {name:?} is not an annotation key"
        ))),
        None => Ok(()),
    }
}

/// Returns the first 16 hexadecimal digits of a text's SHA-256, enough to distinguish the
/// renderings of one cluster.
pub(super) fn short_hash(text: &str) -> String {
    Sha256::digest(text)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Returns a name of at most 63 characters: a longer one is truncated and ends with a hash of
/// itself.
pub(super) fn truncate_name(name: &str) -> String {
    if name.len() <= 63 {
        return name.to_owned();
    }
    let kept: String = name.chars().take(46).collect();
    format!("{}-{}", kept.trim_end_matches('-'), short_hash(name))
}

/// Returns the name of a Service of an additional listener, and of the route to it: that of the
/// agent with this slot, or the one for the first contact.
pub(super) fn listener_service(cluster: &str, listener: &str, slot: Option<u16>) -> String {
    truncate_name(&match slot {
        Some(slot) => format!("{cluster}-{listener}-{slot}"),
        None => format!("{cluster}-{listener}-bootstrap"),
    })
}

/// Converts `flushInterval` to `flush-interval`.
pub(super) fn to_kebab_case(name: &str) -> String {
    let mut kebab = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            kebab.push('-');
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    kebab
}

#[cfg(test)]
mod tests {
    use streamhouse_core::settings::SETTING_DEFINITIONS;

    use super::*;

    #[test]
    fn names_are_judged_as_kubernetes_does() {
        assert!(
            is_dns_label("events-1") && !is_dns_label("Events") && !is_dns_label("-a") && !is_dns_label("")
        );
        assert!(!is_dns_label(&"a".repeat(64)));
        for key in ["release", "app.kubernetes.io/name", "a_b.C-1"] {
            assert!(is_qualified_name(key), "{key}");
        }
        for key in ["", "/a", "a/", "a/b/c", "Under_score.io/a", "-a"] {
            assert!(!is_qualified_name(key), "{key}");
        }
        assert!(
            is_label_value("") && is_label_value("v1.2_3") && !is_label_value("a b") && !is_label_value("a-")
        );
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let (one, other) = (
            truncate_name(&format!("{}-a", "n".repeat(70))),
            truncate_name(&format!("{}-b", "n".repeat(70))),
        );
        assert_eq!((one.len(), other.len()), (63, 63));
        assert_ne!(one, other);
        assert_eq!(truncate_name("short"), "short");
    }

    #[test]
    fn every_setting_is_known_by_both_its_names() {
        for definition in SETTING_DEFINITIONS {
            assert_eq!(to_kebab_case(&definition.camel_name()), definition.name);
        }
    }
}
