//! The `monitoring` part of a cluster's spec: the ServiceMonitor, the PrometheusRule and the
//! dashboard.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema;

/// Prometheus and Grafana integration. An object is created only if its API is installed.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MonitoringSpec {
    /// ServiceMonitor for scraping the agents.
    #[serde(default)]
    pub service_monitor: ServiceMonitorSpec,
    /// PrometheusRule with the alerts.
    #[serde(default)]
    pub prometheus_rule: PrometheusRuleSpec,
    /// Grafana dashboard.
    #[serde(default)]
    pub dashboards: DashboardsSpec,
}

/// ServiceMonitor for scraping the agents.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMonitorSpec {
    /// Whether the operator creates a ServiceMonitor. Defaults to false.
    #[serde(default)]
    pub enabled: bool,
    /// Additional labels, by which a Prometheus selects the ServiceMonitor. kube-prometheus-stack
    /// requires `release: NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub labels: BTreeMap<String, String>,
    /// Namespace of the ServiceMonitor. Defaults to the cluster's namespace; the operator's
    /// settings must allow any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Scrape interval, such as `30s`. Defaults to Prometheus' global interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub interval: Option<String>,
    /// Scrape timeout, such as `10s`. Must not be longer than `interval`. Defaults to Prometheus'
    /// global timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub scrape_timeout: Option<String>,
    /// Additional relabelings of the targets, as in a ServiceMonitor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::free_form_list")]
    pub relabelings: Vec<Value>,
    /// Additional relabelings of the metrics, as in a ServiceMonitor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::free_form_list")]
    pub metric_relabelings: Vec<Value>,
    /// TLS configuration for scraping, as in a ServiceMonitor. By default it is derived from the
    /// certificate of `listeners.http`. Required if that listener uses TLS and the ServiceMonitor
    /// is in another namespace, where it cannot read Secrets of the cluster's namespace. Must not
    /// name files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub tls_config: Option<Value>,
}

/// PrometheusRule with the alerts.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusRuleSpec {
    /// Whether the operator creates a PrometheusRule. Defaults to false.
    #[serde(default)]
    pub enabled: bool,
    /// Additional labels, by which a Prometheus selects the PrometheusRule.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub labels: BTreeMap<String, String>,
    /// Namespace of the PrometheusRule. Defaults to the cluster's namespace; the operator's
    /// settings must allow any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Thresholds by alert name, in the unit of the alert. An alert that is absent has its default
    /// threshold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::thresholds")]
    pub thresholds: BTreeMap<String, String>,
    /// How long the condition of an alert must hold before the alert fires (`for` of the rule), by
    /// alert name, such as `30s` or `1h30m`. An alert that is absent has its default duration.
    #[serde(default, rename = "for", skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::waits")]
    pub waits: BTreeMap<String, String>,
    /// Names of alerts to leave out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128)))]
    pub disabled_alerts: Vec<String>,
}

/// Grafana dashboard.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DashboardsSpec {
    /// Whether the operator creates a ConfigMap with the dashboard, labelled `grafana_dashboard:
    /// "1"` for Grafana's sidecar. Defaults to false.
    #[serde(default)]
    pub enabled: bool,
    /// Additional labels of the ConfigMap.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub labels: BTreeMap<String, String>,
    /// Namespace of the ConfigMap. Defaults to the cluster's namespace; the operator's settings
    /// must allow any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Folder in Grafana. Defaults to `StreamHouse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub folder: Option<String>,
}
