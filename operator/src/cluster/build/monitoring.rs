//! Builds the ServiceMonitor, the PrometheusRule, and the ConfigMap with the dashboard.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Map, Value, json};

use super::{
    Child,
    object::{Draft, short_hash},
};
use crate::cluster::{
    alerts::{self, For},
    children::ManagedKind,
    desired::{Desired, Scrape},
    inputs::Inputs,
    labels,
    merge::merge,
};

const MONITORING: &str = "monitoring";
/// Value of the label `job`, by which alerts and dashboard select the agents.
const JOB: &str = "streamhouse-agents";
const DASHBOARD: &str = "streamhouse-overview";

static OVERVIEW: LazyLock<Value> = LazyLock::new(|| {
    // The file is compiled in, and a test parses it.
    serde_json::from_str(include_str!(
        "../../../../grafana/dashboards/streamhouse-overview.json"
    ))
    .unwrap_or_default()
});

/// Builds the ServiceMonitor. Each series is labelled with its cluster.
pub(super) fn service_monitor(desired: &Desired, inputs: &Inputs) -> Option<Child> {
    let scrape = desired.service_monitor.as_ref()?;
    let set =
        |label: &str, value: &str| json!({ "action": "replace", "targetLabel": label, "replacement": value });
    let ours = [set("job", JOB), set("streamhouse_cluster", &desired.name)];
    let relabelings: Vec<Value> = ours
        .into_iter()
        .chain(scrape.relabelings.iter().cloned())
        .collect();
    let mut endpoint = Map::new();
    endpoint.insert("port".to_owned(), json!("http"));
    endpoint.insert("path".to_owned(), json!("/metrics"));
    endpoint.insert("relabelings".to_owned(), Value::Array(relabelings));
    if !scrape.metric_relabelings.is_empty() {
        endpoint.insert("metricRelabelings".to_owned(), json!(scrape.metric_relabelings));
    }
    for (name, value) in [("interval", &scrape.interval), ("scrapeTimeout", &scrape.timeout)] {
        if let Some(value) = value {
            endpoint.insert(name.to_owned(), json!(value));
        }
    }
    if desired.http.is_tls() {
        endpoint.insert("scheme".to_owned(), json!("https"));
        endpoint.insert("tlsConfig".to_owned(), tls_config(desired, scrape, inputs));
    }
    let draft = Draft::new(desired, ManagedKind::ServiceMonitor, desired.service()).component(MONITORING);
    Some(
        draft
            .within(&scrape.namespace)
            .labels(&scrape.labels)
            .body(json!({ "spec": {
        "selector": { "matchLabels": labels::selector(&desired.name) },
        "namespaceSelector": { "matchNames": [desired.namespace] },
        "endpoints": [endpoint],
    } })),
    )
}

/// Returns the TLS configuration. Prometheus connects to the addresses of pods; the certificate
/// names the Service.
fn tls_config(desired: &Desired, scrape: &Scrape, inputs: &Inputs) -> Value {
    let mut config = json!({ "serverName": format!("{}.{}.svc", desired.service(), desired.namespace) });
    match (&scrape.tls_config, &desired.http.certificate) {
        (Some(given), _) => merge(&mut config, given),
        (None, Some(certificate)) if inputs.http_authority => {
            config["ca"] = json!({ "secret": { "name": certificate.secret, "key": "ca.crt" } });
        }
        // A public CA, which Prometheus trusts by default.
        (None, _) => {}
    }
    config
}

/// Builds the PrometheusRule of the cluster.
pub(super) fn prometheus_rule(desired: &Desired) -> Option<Child> {
    let wanted = desired.alerts.as_ref()?;
    let groups = alerts::groups(For {
        cluster: &desired.name,
        namespace: &desired.namespace,
        runs: desired.scale.least() > 0,
        thresholds: &wanted.thresholds,
        waits: &wanted.waits,
        disabled: &wanted.disabled,
    });
    let name = format!("{}-alerts", desired.name);
    let draft = Draft::new(desired, ManagedKind::PrometheusRule, name).component(MONITORING);
    Some(
        draft
            .within(&wanted.namespace)
            .labels(&wanted.labels)
            .body(json!({ "spec": { "groups": groups } })),
    )
}

/// Builds the ConfigMap of the dashboard for Grafana's sidecar.
pub(super) fn dashboard(desired: &Desired) -> Option<Child> {
    let wanted = desired.dashboard.as_ref()?;
    let mut labels = wanted.labels.clone();
    labels.insert("grafana_dashboard".to_owned(), "1".to_owned());
    let name = format!("{}-dashboard", desired.name);
    let draft = Draft::new(desired, ManagedKind::ConfigMap, name).component(MONITORING);
    let draft = draft.within(&wanted.namespace).labels(&labels);
    let folder = ("grafana_folder".to_owned(), wanted.folder.clone());
    let file = format!("{DASHBOARD}-{}-{}.json", desired.namespace, desired.name);
    let data: BTreeMap<String, String> = [(file, overview(desired).to_string())].into();
    Some(draft.annotations([folder]).body(json!({ "data": data })))
}

/// Returns the dashboard with a unique uid, which Grafana requires, and with this cluster as its
/// default selection.
fn overview(desired: &Desired) -> Value {
    let mut overview = OVERVIEW.clone();
    let place = format!("{}/{}", desired.namespace, desired.name);
    overview["uid"] = json!(format!("streamhouse-{}", short_hash(&place)));
    overview["title"] = json!(format!("StreamHouse {place}"));
    let variables = overview
        .get_mut("templating")
        .and_then(|templating| templating.get_mut("list"));
    for variable in variables.and_then(Value::as_array_mut).into_iter().flatten() {
        let own = match variable.get("name").and_then(Value::as_str) {
            Some("cluster") => &desired.name,
            Some("namespace") => &desired.namespace,
            _ => continue,
        };
        variable["current"] = json!({ "selected": true, "text": [own], "value": [own] });
    }
    overview
}
