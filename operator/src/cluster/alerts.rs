//! The alerts of a cluster, derived from the rules file that every other Prometheus loads
//! (`config/prometheus/streamhouse.rules.yml`): which alerts a cluster has, and their expressions
//! for one cluster. The conventions of the file are in its first lines and enforced by
//! `hack/check-observability.sh`. Used by `validate` for the names and by `build` for the rules.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;
use serde_json::{Map, Value, json};

const RULES_FILE: &str = include_str!("../../../config/prometheus/streamhouse.rules.yml");
/// Groups about machines and about the operator, which no cluster has.
const EXCLUDED_GROUPS: [&str; 2] = ["streamhouse-system", "streamhouse-operator"];
/// Groups about client programs. Their series have the name of the cluster and a namespace of their
/// own. Series without the name of a cluster belong to no cluster: the chart has these alerts for
/// them, once for all clusters.
const CLIENT_GROUPS: [&str; 2] = ["streamhouse-consumer", "streamhouse-producer"];
/// Beginnings of selectors in these groups whose series come from agents.
const AGENT_SERIES: [&str; 2] = [
    "streamhouse_group_lag_records{",
    "streamhouse_group_committed_offset{",
];
/// Matcher in every selector of a cluster's series.
const ANY_CLUSTER: &str = r#"streamhouse_cluster=~".*""#;
/// Alerts that would fire for every cluster that is stopped intentionally.
const RUNNING_ONLY_ALERTS: [&str; 1] = ["AgentsAbsent"];

#[derive(Debug, Default, Deserialize)]
struct AlertFile {
    groups: Vec<AlertGroup>,
}

#[derive(Debug, Deserialize)]
struct AlertGroup {
    name: String,
    rules: Vec<Map<String, Value>>,
}

/// The groups of a cluster.
static GROUPS: LazyLock<Vec<AlertGroup>> = LazyLock::new(|| {
    // The file is compiled in, and a test parses it.
    let file: AlertFile = serde_yaml_ng::from_str(RULES_FILE).unwrap_or_default();
    let ours = |group: &AlertGroup| !EXCLUDED_GROUPS.contains(&group.name.as_str());
    file.groups.into_iter().filter(ours).collect()
});

/// The cluster that rules are rendered for, with the overrides of its spec.
#[derive(Debug, Clone, Copy)]
pub struct AlertScope<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Namespace of the cluster.
    pub namespace: &'a str,
    /// Whether the cluster has agents.
    pub is_running: bool,
    /// Thresholds that override the default, by alert.
    pub thresholds: &'a BTreeMap<String, String>,
    /// Durations (`for`) that override the default, by alert.
    pub waits: &'a BTreeMap<String, String>,
    /// Alerts to leave out.
    pub disabled: &'a [String],
}

/// Returns the names of a cluster's alerts, in the order of the file.
pub fn alert_names() -> impl Iterator<Item = &'static str> {
    GROUPS
        .iter()
        .flat_map(|group| &group.rules)
        .filter_map(alert_name)
}

/// Returns the default threshold of an alert; `None` if a cluster has no such alert or it has no
/// threshold.
pub fn default_threshold(alert: &str) -> Option<&'static str> {
    let rule = GROUPS
        .iter()
        .flat_map(|group| &group.rules)
        .find(|rule| alert_name(rule) == Some(alert))?;
    rule.get("annotations")?.get("threshold")?.as_str()
}

/// Renders the groups of one cluster, as in a PrometheusRule.
pub fn alert_groups(cluster: AlertScope<'_>) -> Vec<Value> {
    let mut groups = Vec::new();
    for group in GROUPS.iter() {
        let of_clients = CLIENT_GROUPS.contains(&group.name.as_str());
        let wanted = |rule: &&Map<String, Value>| {
            let name = alert_name(rule).unwrap_or_default();
            !cluster.disabled.iter().any(|disabled| disabled == name)
                && (cluster.is_running || !RUNNING_ONLY_ALERTS.contains(&name))
        };
        let rules: Vec<Value> = group
            .rules
            .iter()
            .filter(wanted)
            .map(|rule| adapt_rule(rule, of_clients, cluster))
            .collect();
        if !rules.is_empty() {
            groups.push(json!({ "name": group.name, "rules": rules }));
        }
    }
    groups
}

fn alert_name(rule: &Map<String, Value>) -> Option<&str> {
    rule.get("alert")?.as_str()
}

/// Renders the rule for one cluster with its overrides.
fn adapt_rule(rule: &Map<String, Value>, of_clients: bool, cluster: AlertScope<'_>) -> Value {
    let mut rule = rule.clone();
    let mut expression = rule
        .get("expr")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let of_cluster = format!(r#"streamhouse_cluster="{}""#, cluster.cluster);
    let of_agents = format!(r#"{of_cluster},namespace="{}""#, cluster.namespace);
    if of_clients {
        for series in AGENT_SERIES {
            expression =
                expression.replace(&format!("{series}{ANY_CLUSTER}"), &format!("{series}{of_agents}"));
        }
        expression = expression.replace(ANY_CLUSTER, &of_cluster);
    } else {
        expression = expression.replace(ANY_CLUSTER, &of_agents);
    }
    if let Some(wanted) = alert_name(&rule)
        .and_then(|name| cluster.waits.get(name))
        .cloned()
    {
        rule.insert("for".to_owned(), Value::String(wanted));
    }
    if let Some(wanted) = alert_name(&rule)
        .and_then(|name| cluster.thresholds.get(name))
        .cloned()
        && let Some(annotation) = rule
            .get_mut("annotations")
            .and_then(|annotations| annotations.get_mut("threshold"))
    {
        let usual = annotation.as_str().unwrap_or_default();
        for comparison in ["> ", "< "] {
            expression = replace_threshold(&expression, comparison, usual, &wanted);
        }
        *annotation = Value::String(wanted);
    }
    rule.insert("expr".to_owned(), Value::String(expression));
    Value::Object(rule)
}

/// Replaces the number of a comparison with `usual` by `wanted`; `> 10` does not match the
/// beginning of `> 100`.
fn replace_threshold(expression: &str, comparison: &str, usual: &str, wanted: &str) -> String {
    let searched = format!("{comparison}{usual}");
    let whole = |at: &(usize, &str)| {
        let rest = expression.get(at.0 + searched.len()..).unwrap_or_default();
        !rest.starts_with(|next: char| next.is_ascii_digit() || next == '.')
    };
    match expression.match_indices(&searched).find(whole) {
        Some((at, _)) => {
            let (before, after) = expression.split_at(at);
            let after = after.get(searched.len()..).unwrap_or_default();
            format!("{before}{comparison}{wanted}{after}")
        }
        None => expression.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(of: AlertScope<'_>) -> BTreeMap<String, Value> {
        let groups = alert_groups(of);
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
        rules
            .map(|rule| (rule["alert"].as_str().unwrap().to_owned(), rule.clone()))
            .collect()
    }

    fn cluster<'a>(thresholds: &'a BTreeMap<String, String>, disabled: &'a [String]) -> AlertScope<'a> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        AlertScope {
            waits: &NONE,
            cluster: "events",
            namespace: "team-a",
            is_running: true,
            thresholds,
            disabled,
        }
    }

    #[test]
    fn a_cluster_has_the_alerts_of_its_own_parts_only() {
        let rules = rules(cluster(&BTreeMap::new(), &[]));
        assert_eq!(rules.len(), alert_names().count());
        for name in [
            "HighConsumerLag",
            "ProducerThroughputDrop",
            "AgentDown",
            "InvariantViolated",
        ] {
            assert!(rules.contains_key(name), "{name}");
        }
        assert!(!rules.contains_key("DiskSpaceLow") && !rules.contains_key("OperatorNoLeader"));
    }

    #[test]
    fn every_selector_is_narrowed_to_the_cluster() {
        let rules = rules(cluster(&BTreeMap::new(), &[]));
        for (name, rule) in &rules {
            let expression = rule["expr"].as_str().unwrap();
            assert!(
                !expression.contains(ANY_CLUSTER) && expression.contains("events"),
                "{name}: {expression}"
            );
        }
        let lag = rules["HighConsumerLag"]["expr"].as_str().unwrap();
        assert!(
            lag.contains(r#"streamhouse_consumer_lag_records{streamhouse_cluster="events"}"#)
                && lag.contains(
                    r#"streamhouse_group_lag_records{streamhouse_cluster="events",namespace="team-a"}"#
                ),
            "{lag}"
        );
        let down = rules["AgentDown"]["expr"].as_str().unwrap();
        assert!(
            down.contains(r#"streamhouse_cluster="events",namespace="team-a""#),
            "{down}"
        );
    }

    /// A series without the name of a cluster is selected by the copy of the alerts in the chart
    /// only, so that it alerts once however many clusters there are.
    #[test]
    fn clients_without_the_name_of_a_cluster_alert_once() {
        const OF_NO_CLUSTER: &str =
            include_str!("../../../charts/streamhouse-operator/files/clients.rules.yml");
        let file: AlertFile = serde_yaml_ng::from_str(OF_NO_CLUSTER).unwrap();
        let names = |group: &AlertGroup| {
            let names = group.rules.iter().filter_map(alert_name);
            names.map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        let clients = GROUPS
            .iter()
            .filter(|group| CLIENT_GROUPS.contains(&group.name.as_str()));
        assert_eq!(
            file.groups.iter().flat_map(names).collect::<Vec<_>>(),
            clients.flat_map(names).collect::<Vec<_>>()
        );
        for rule in file.groups.iter().flat_map(|group| &group.rules) {
            let expression = rule["expr"].as_str().unwrap();
            for selector in expression.split("streamhouse_cluster").skip(1) {
                let named = selector.starts_with(['=', '!']);
                assert!(
                    !named || selector.starts_with("=\"\"") || selector.starts_with("!=\"\""),
                    "{expression}"
                );
            }
        }
        for rule in rules(cluster(&BTreeMap::new(), &[])).values() {
            let expression = rule["expr"].as_str().unwrap();
            assert!(!expression.contains("streamhouse_cluster=~"), "{expression}");
        }
    }

    #[test]
    fn every_threshold_can_be_another() {
        let with_threshold: Vec<&str> = alert_names()
            .filter(|name| default_threshold(name).is_some())
            .collect();
        assert!(with_threshold.len() > 15);
        let wanted = with_threshold
            .iter()
            .map(|name| (name.to_string(), "123456.5".to_owned()))
            .collect();
        let changed = rules(cluster(&wanted, &[]));
        let usual = rules(cluster(&BTreeMap::new(), &[]));
        for name in with_threshold {
            let expression = changed[name]["expr"].as_str().unwrap();
            assert_eq!(expression.matches("123456.5").count(), 1, "{name}: {expression}");
            let back = expression.replace("123456.5", default_threshold(name).unwrap());
            assert_eq!(back, usual[name]["expr"].as_str().unwrap());
            assert_eq!(changed[name]["annotations"]["threshold"], "123456.5");
        }
    }

    #[test]
    fn every_alert_can_wait_for_another_time() {
        let waits = alert_names()
            .map(|name| (name.to_owned(), "17m".to_owned()))
            .collect();
        let thresholds = BTreeMap::new();
        let changed = rules(AlertScope {
            waits: &waits,
            ..cluster(&thresholds, &[])
        });
        for (name, usual) in rules(cluster(&thresholds, &[])) {
            let mut expected = usual.clone();
            expected["for"] = json!("17m");
            assert_eq!(changed[&name], expected);
            assert_ne!(usual["for"], "17m");
        }
    }

    #[test]
    fn a_number_is_not_taken_for_the_beginning_of_another() {
        assert_eq!(
            replace_threshold("a > 100 and b > 10", "> ", "10", "7"),
            "a > 100 and b > 7"
        );
        assert_eq!(replace_threshold("a > 1.5", "> ", "1", "7"), "a > 1.5");
    }

    #[test]
    fn disabled_alerts_are_left_out_and_a_stopped_cluster_is_not_told_of() {
        let disabled = ["AgentDown".to_owned()];
        let thresholds = BTreeMap::new();
        let stopped = AlertScope {
            is_running: false,
            ..cluster(&thresholds, &disabled)
        };
        let rules = rules(stopped);
        assert!(!rules.contains_key("AgentDown") && !rules.contains_key("AgentsAbsent"));
        assert_eq!(rules.len(), alert_names().count() - 2);
    }
}
