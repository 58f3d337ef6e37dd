//! What the demonstration asks Prometheus and Alertmanager.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use streamhouse_testkit::http_get;

use crate::dev_stack::{DevStack, PortName};
use crate::programs::prepare_program;

const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// The demonstration's alerts at Alertmanager: those with the label `demo="true"`.
const ALERTS_PATH: &str = "/api/v2/alerts?filter=demo%3D%22true%22";

/// Where the two servers answer.
#[derive(Debug)]
pub(super) struct MonitoringClient {
    prometheus: SocketAddr,
    alertmanager: SocketAddr,
}

impl MonitoringClient {
    pub(super) fn new(stack: &DevStack) -> MonitoringClient {
        let address = |name| SocketAddr::from((Ipv4Addr::LOCALHOST, stack.port(name)));
        MonitoringClient {
            prometheus: address(PortName::Prometheus),
            alertmanager: address(PortName::Alertmanager),
        }
    }

    /// Returns what promtool prints for an expression, if it has a result.
    pub(super) fn query(&self, expression: &str) -> Option<String> {
        let promtool = prepare_program("promtool")
            .args(["query", "instant"])
            .arg(format!("http://{}", self.prometheus))
            .arg(expression);
        let mut process = promtool.start().ok()?;
        let status = process.wait(QUERY_TIMEOUT).ok()?;
        let output = process.stdout();
        // promtool prints an empty line when there is no series.
        (status.success() && output.contains(" => ")).then_some(output)
    }

    /// Returns how many alert rules Prometheus has loaded.
    ///
    /// # Errors
    ///
    /// Fails if Prometheus does not answer.
    pub(super) fn count_alert_rules(&self) -> anyhow::Result<usize> {
        let answer = http_get(self.prometheus, "/api/v1/rules?type=alert")?;
        ensure!(answer.status == 200, "Prometheus does not show its rules");
        let answer: Value =
            serde_json::from_str(&answer.body).context("Prometheus does not show its rules as JSON")?;
        Ok(count_rules(&answer))
    }

    /// Returns whether Alertmanager has an alert of the demonstration.
    pub(super) fn has_alert(&self, name: &str) -> bool {
        let answer = http_get(self.alertmanager, ALERTS_PATH);
        let alerts = answer.map(|answer| serde_json::from_str::<Value>(&answer.body));
        alerts.is_ok_and(|alerts| alerts.is_ok_and(|alerts| has_name(&alerts, name)))
    }
}

fn count_rules(answer: &Value) -> usize {
    let groups = answer["data"]["groups"].as_array().into_iter().flatten();
    groups
        .map(|group| group["rules"].as_array().map_or(0, Vec::len))
        .sum()
}

fn has_name(alerts: &Value, name: &str) -> bool {
    let mut alerts = alerts.as_array().into_iter().flatten();
    alerts.any(|alert| alert["labels"]["alertname"] == name)
}

/// Returns the series of promtool's output without their time.
pub(super) fn list_series(output: &str) -> impl Iterator<Item = &str> {
    let series = output.lines().filter(|line| line.contains(" => "));
    series.map(|line| line.split_once(" @[").map_or(line, |(series, _)| series))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_shown_without_their_time() {
        let output = "\nup{job=\"node\"} => 1 @[1700000000.1]\n";
        assert_eq!(list_series(output).collect::<Vec<_>>(), ["up{job=\"node\"} => 1"]);
    }

    #[test]
    fn rules_of_all_groups_are_counted() {
        let answer = serde_json::json!({"data": {"groups": [{"rules": [{}, {}]}, {"rules": [{}]}]}});
        assert_eq!(count_rules(&answer), 3);
        assert_eq!(count_rules(&Value::Null), 0);
    }

    #[test]
    fn alerts_are_found_by_their_name() {
        let alerts = serde_json::json!([{"labels": {"alertname": "HighConsumerLag", "demo": "true"}}]);
        assert!(has_name(&alerts, "HighConsumerLag") && !has_name(&alerts, "High"));
    }
}
