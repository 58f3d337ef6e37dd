//! Builds the ServiceMonitor, the PrometheusRule, and the ConfigMap with the dashboard.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Map, Value, json};

use super::{
    ChildObject,
    object::{ObjectBuilder, short_hash},
};
use crate::cluster::{
    alerts::{self, AlertScope},
    children::ManagedKind,
    desired::{DesiredCluster, ScrapeConfig},
    inputs::BuildInputs,
    labels::{self, MONITORING_COMPONENT},
    merge::merge,
};

/// Value of the label `job`, by which alerts and dashboard select the agents.
const SCRAPE_JOB: &str = "streamhouse-agents";
const DASHBOARD_FILE_PREFIX: &str = "streamhouse-overview";

static DASHBOARD_TEMPLATE: LazyLock<Value> = LazyLock::new(|| {
    // The file is compiled in, and a test parses it.
    serde_json::from_str(include_str!(
        "../../../../grafana/dashboards/streamhouse-overview.json"
    ))
    .unwrap_or_default()
});

/// Builds the ServiceMonitor. Each series is labelled with its cluster.
pub(super) fn service_monitor(desired: &DesiredCluster, inputs: &BuildInputs) -> Option<ChildObject> {
    let scrape = desired.service_monitor.as_ref()?;
    let set =
        |label: &str, value: &str| json!({ "action": "replace", "targetLabel": label, "replacement": value });
    let ours = [set("job", SCRAPE_JOB), set("streamhouse_cluster", &desired.name)];
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
    if desired.http.has_tls() {
        endpoint.insert("scheme".to_owned(), json!("https"));
        endpoint.insert("tlsConfig".to_owned(), tls_config(desired, scrape, inputs));
    }
    let draft = ObjectBuilder::new(desired, ManagedKind::ServiceMonitor, desired.service_name())
        .component(MONITORING_COMPONENT);
    Some(
        draft
            .namespace(&scrape.namespace)
            .labels(&scrape.labels)
            .build(json!({ "spec": {
        "selector": { "matchLabels": labels::agent_selector(&desired.name) },
        "namespaceSelector": { "matchNames": [desired.namespace] },
        "endpoints": [endpoint],
    } })),
    )
}

/// Returns the TLS configuration. Prometheus connects to the addresses of pods; the certificate
/// names the Service.
fn tls_config(desired: &DesiredCluster, scrape: &ScrapeConfig, inputs: &BuildInputs) -> Value {
    let mut config = json!({ "serverName": format!("{}.{}.svc", desired.service_name(), desired.namespace) });
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
pub(super) fn prometheus_rule(desired: &DesiredCluster) -> Option<ChildObject> {
    let wanted = desired.alerts.as_ref()?;
    let groups = alerts::alert_groups(AlertScope {
        cluster: &desired.name,
        namespace: &desired.namespace,
        is_running: desired.scale.min_replicas() > 0,
        thresholds: &wanted.thresholds,
        waits: &wanted.waits,
        disabled: &wanted.disabled,
    });
    let name = format!("{}-alerts", desired.name);
    let draft =
        ObjectBuilder::new(desired, ManagedKind::PrometheusRule, name).component(MONITORING_COMPONENT);
    Some(
        draft
            .namespace(&wanted.namespace)
            .labels(&wanted.labels)
            .build(json!({ "spec": { "groups": groups } })),
    )
}

/// Builds the ConfigMap of the dashboard for Grafana's sidecar.
pub(super) fn dashboard(desired: &DesiredCluster) -> Option<ChildObject> {
    let wanted = desired.dashboard.as_ref()?;
    let mut labels = wanted.labels.clone();
    labels.insert("grafana_dashboard".to_owned(), "1".to_owned());
    let name = format!("{}-dashboard", desired.name);
    let draft = ObjectBuilder::new(desired, ManagedKind::ConfigMap, name).component(MONITORING_COMPONENT);
    let draft = draft.namespace(&wanted.namespace).labels(&labels);
    let folder = ("grafana_folder".to_owned(), wanted.folder.clone());
    let file = format!(
        "{DASHBOARD_FILE_PREFIX}-{}-{}.json",
        desired.namespace, desired.name
    );
    let data: BTreeMap<String, String> = [(file, dashboard_json(desired).to_string())].into();
    Some(draft.annotations([folder]).build(json!({ "data": data })))
}

/// Returns the dashboard with a unique uid, which Grafana requires, and with this cluster as its
/// default selection.
fn dashboard_json(desired: &DesiredCluster) -> Value {
    let mut overview = DASHBOARD_TEMPLATE.clone();
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
