//! The part `monitoring` of a cluster: what Prometheus and Grafana are given.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema;

/// What Prometheus and Grafana are given. Each is made where its API is installed.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// How Prometheus scrapes the agents.
    #[serde(default)]
    pub service_monitor: ServiceMonitorSpec,
    /// The alerts.
    #[serde(default)]
    pub prometheus_rule: PrometheusRuleSpec,
    /// The dashboards.
    #[serde(default)]
    pub dashboards: DashboardsSpec,
}

/// How Prometheus scrapes the agents.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMonitorSpec {
    /// Whether a ServiceMonitor is made.
    #[serde(default)]
    pub enabled: bool,
    /// Labels by which a Prometheus selects it; kube-prometheus-stack wants `release: NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub labels: BTreeMap<String, String>,
    /// The namespace it is made in; the cluster's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// How often, such as 30s; Prometheus' own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub interval: Option<String>,
    /// How long a scrape may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub scrape_timeout: Option<String>,
    /// Further relabelings, as in a ServiceMonitor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::free_form_list")]
    pub relabelings: Vec<Value>,
    /// Further relabelings of the metrics, as in a ServiceMonitor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::free_form_list")]
    pub metric_relabelings: Vec<Value>,
    /// How the agents' certificate is checked, as in a ServiceMonitor. When absent it follows from the certificate of `listeners.http`;
    /// needed where that has one and the ServiceMonitor is in another namespace, from which no Secret of this one can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub tls_config: Option<Value>,
}

/// The alerts.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusRuleSpec {
    /// Whether a PrometheusRule is made.
    #[serde(default)]
    pub enabled: bool,
    /// Labels by which a Prometheus selects it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub labels: BTreeMap<String, String>,
    /// The namespace it is made in; the cluster's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Other thresholds, by the alert's name, in the unit of the alert.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::thresholds")]
    pub thresholds: BTreeMap<String, String>,
    /// How long an alert's condition must hold before it fires (`for` of its rule), where not as long as usual, by the alert's
    /// name, such as 30s or 1h30m.
    #[serde(default, rename = "for", skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::waits")]
    pub waits: BTreeMap<String, String>,
    /// Alerts to leave out, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128)))]
    pub disabled_alerts: Vec<String>,
}

/// The dashboards.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DashboardsSpec {
    /// Whether a ConfigMap with the dashboard is made, labelled `grafana_dashboard: "1"` for Grafana's sidecar.
    #[serde(default)]
    pub enabled: bool,
    /// Further labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub labels: BTreeMap<String, String>,
    /// The namespace it is made in; the cluster's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Grafana's folder; StreamHouse when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub folder: Option<String>,
}
