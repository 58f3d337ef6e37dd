//! The demonstration's alert rules: those of consumers and producers, with shorter times and a
//! label by which Alertmanager routes them to the webhook.

use anyhow::ensure;
use regex_lite::Regex;

/// The first group that is not part of the demonstration.
const FIRST_OTHER_GROUP: &str = "name: streamhouse-agent";

/// Returns the rules of the repository's file with shorter times.
///
/// # Errors
///
/// Fails if the file has not the expected groups.
pub(super) fn shorten(text: &str) -> anyhow::Result<String> {
    let begin = text.lines().position(|line| line.starts_with("groups:"));
    let end = text.lines().position(|line| line.ends_with(FIRST_OTHER_GROUP));
    let (Some(begin), Some(end)) = (begin, end) else {
        anyhow::bail!("the alert rules have no group that ends those of consumers and producers");
    };
    let (waits, severity) = (Regex::new("^( *)for: .*")?, Regex::new("^( *)(severity: .*)")?);
    let lines = text.lines().take(end).skip(begin).map(|line| {
        let line = line
            .replace("name: streamhouse-", "name: demo-")
            .replace("[2m]", "[20s]");
        let line = waits.replace(&line, "${1}for: 10s").into_owned();
        severity
            .replace(&line, "${1}${2}\n${1}demo: \"true\"")
            .into_owned()
            + "\n"
    });
    let rules: String = lines.collect();
    ensure!(rules.contains("demo: \"true\""), "the demo has no alert rules");
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_consumers_and_producers_get_short_times_and_the_label() {
        let rules = shorten(include_str!(
            "../../../../config/prometheus/streamhouse.rules.yml"
        ))
        .unwrap();
        assert!(rules.starts_with("groups:\n"));
        assert!(rules.contains("- name: demo-consumer\n") && rules.contains("- name: demo-producer\n"));
        assert!(!rules.contains("streamhouse-agent") && !rules.contains("[2m]"));
        let count = |text: &str| rules.matches(text).count();
        assert_eq!(count("demo: \"true\"\n"), count("- alert: "));
        let waits: Vec<&str> = rules.lines().filter(|line| line.contains(" for: ")).collect();
        assert!(waits.iter().all(|line| line.trim() == "for: 10s") && !waits.is_empty());
    }

    #[test]
    fn a_file_without_the_groups_is_refused() {
        shorten("groups:\n").unwrap_err();
        shorten("groups:\n  - name: streamhouse-agent\n").unwrap_err();
    }
}
