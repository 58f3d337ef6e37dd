//! Validates `spec.monitoring`.

use serde_json::Value;

use crate::{
    cluster::{
        alerts,
        desired::{AlertConfig, DashboardConfig, ListenerPort, ScrapeConfig},
        names,
        problem::ClusterProblem,
    },
    crd::{ClusterSpec, ConditionReason, ConditionType, MonitoringSpec},
};

use super::api_shapes;

const DEFAULT_FOLDER: &str = "StreamHouse";

/// Fields of a TLS configuration that name files of Prometheus itself.
const FILE_FIELDS: [&str; 3] = ["caFile", "certFile", "keyFile"];

/// The configuration of each object that is enabled and allowed.
pub(super) struct MonitoringConfigs {
    pub(super) service_monitor: Option<ScrapeConfig>,
    pub(super) alerts: Option<AlertConfig>,
    pub(super) dashboard: Option<DashboardConfig>,
    pub(super) refused: Vec<ClusterProblem>,
}

/// Returns the configuration of the ServiceMonitor, the PrometheusRule and the dashboard. Those in
/// a namespace that is neither the cluster's own nor one of `allowed` are refused, without an
/// effect on the rest of the cluster.
pub(super) fn monitoring(
    spec: &ClusterSpec,
    own: &str,
    http: &ListenerPort,
    allowed: &[String],
) -> Result<MonitoringConfigs, ClusterProblem> {
    let wanted = &spec.monitoring;
    let (scrape, alerts, dashboard) = (
        scrape(wanted, own, http)?,
        alerts(wanted, own)?,
        dashboard(wanted, own)?,
    );
    let mut refused = Vec::new();
    let mut is_allowed = |field: &str, enabled: bool, namespace: &String| {
        let allowed = namespace == own || allowed.contains(namespace);
        if enabled && !allowed {
            refused.push(refused_namespace(field, namespace));
        }
        enabled && allowed
    };
    let scrapes = is_allowed(
        "serviceMonitor",
        wanted.service_monitor.enabled,
        &scrape.namespace,
    );
    let warns = is_allowed(
        "prometheusRule",
        wanted.prometheus_rule.enabled,
        &alerts.namespace,
    );
    let shows = is_allowed("dashboards", wanted.dashboards.enabled, &dashboard.namespace);
    Ok(MonitoringConfigs {
        service_monitor: scrapes.then_some(scrape),
        alerts: warns.then_some(alerts),
        dashboard: shows.then_some(dashboard),
        refused,
    })
}

fn refused_namespace(field: &str, namespace: &str) -> ClusterProblem {
    ClusterProblem {
        condition: ConditionType::MonitoringAvailable,
        reason: ConditionReason::MonitoringNamespaceRefused,
        message: format!(
            "spec.monitoring.{field}.namespace: the operator may not write to the namespace {namespace}: remove the \
            field, or add the namespace to the chart's value monitoringNamespaces"
        ),
    }
}

/// Rejects what would make Prometheus read files of its own container.
fn check_tls_config(field: &str, config: Option<&Value>) -> Result<(), ClusterProblem> {
    let Some(config) = config else { return Ok(()) };
    let Some(fields) = config.as_object() else {
        return Err(ClusterProblem::invalid_spec(format!("{field} is not an object")));
    };
    match FILE_FIELDS.iter().find(|name| fields.contains_key(**name)) {
        Some(name) => Err(ClusterProblem::invalid_spec(format!(
            "{field}.{name} would make Prometheus read a file of its own: name a Secret or ConfigMap in ca, cert and \
            keySecret"
        ))),
        None => Ok(()),
    }
}

fn target_namespace(field: &str, wanted: Option<&String>, own: &str) -> Result<String, ClusterProblem> {
    match wanted {
        Some(namespace) if !names::is_dns_label(namespace) => Err(ClusterProblem::invalid_spec(format!(
            "spec.monitoring.{field}.namespace: {namespace:?} is not a namespace name"
        ))),
        Some(namespace) => Ok(namespace.clone()),
        None => Ok(own.to_owned()),
    }
}

fn scrape(wanted: &MonitoringSpec, own: &str, http: &ListenerPort) -> Result<ScrapeConfig, ClusterProblem> {
    const FIELD: &str = "spec.monitoring.serviceMonitor";
    let wanted = &wanted.service_monitor;
    names::check_labels(&format!("{FIELD}.labels"), &wanted.labels)?;
    let namespace = target_namespace("serviceMonitor", wanted.namespace.as_ref(), own)?;
    api_shapes::check_each_shape::<api_shapes::RelabelingConfig>(
        &format!("{FIELD}.relabelings"),
        &wanted.relabelings,
    )?;
    api_shapes::check_each_shape::<api_shapes::RelabelingConfig>(
        &format!("{FIELD}.metricRelabelings"),
        &wanted.metric_relabelings,
    )?;
    check_tls_config(&format!("{FIELD}.tlsConfig"), wanted.tls_config.as_ref())?;
    if wanted.enabled && http.has_tls() && namespace != own && wanted.tls_config.is_none() {
        return Err(ClusterProblem::invalid_spec(format!(
            "{FIELD} is in the namespace {namespace}, where the CA certificate in {own} cannot be read: set \
            {FIELD}.tlsConfig ({{}} for a public CA) or remove {FIELD}.namespace"
        )));
    }
    let read = |what: &str, text: Option<&String>| match text {
        None => Ok(None),
        Some(text) => match parse_duration_ms(text) {
            Some(millis) if millis > 0 => Ok(Some(millis)),
            _ => Err(ClusterProblem::invalid_spec(format!(
                "{FIELD}.{what}: {text:?} is not a duration such as 30s or 1m30s"
            ))),
        },
    };
    let (interval, timeout) = (
        read("interval", wanted.interval.as_ref())?,
        read("scrapeTimeout", wanted.scrape_timeout.as_ref())?,
    );
    if interval
        .zip(timeout)
        .is_some_and(|(interval, timeout)| timeout > interval)
    {
        return Err(ClusterProblem::invalid_spec(format!(
            "{FIELD}: scrapeTimeout is longer than interval, which Prometheus rejects"
        )));
    }
    Ok(ScrapeConfig {
        labels: wanted.labels.clone(),
        namespace,
        interval: wanted.interval.clone(),
        timeout: wanted.scrape_timeout.clone(),
        relabelings: wanted.relabelings.clone(),
        metric_relabelings: wanted.metric_relabelings.clone(),
        tls_config: wanted.tls_config.clone(),
    })
}

fn alerts(wanted: &MonitoringSpec, own: &str) -> Result<AlertConfig, ClusterProblem> {
    const FIELD: &str = "spec.monitoring.prometheusRule";
    let wanted = &wanted.prometheus_rule;
    names::check_labels(&format!("{FIELD}.labels"), &wanted.labels)?;
    let named = (wanted.thresholds.keys().map(|name| ("thresholds", name)))
        .chain(wanted.waits.keys().map(|name| ("for", name)))
        .chain(wanted.disabled_alerts.iter().map(|name| ("disabledAlerts", name)));
    for (part, name) in named {
        if !alerts::alert_names().any(|known| known == name) {
            return Err(ClusterProblem::invalid_spec(format!(
                "{FIELD}.{part}: a cluster has no alert {name:?}; did you mean {:?}?",
                nearest_alert(name)
            )));
        }
    }
    for (name, value) in &wanted.thresholds {
        if alerts::default_threshold(name).is_none() {
            return Err(ClusterProblem::invalid_spec(format!(
                "{FIELD}.thresholds: {name} has no threshold; set its duration with {FIELD}.for or disable it with \
                disabledAlerts"
            )));
        }
        let digits = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
        if value.split('.').count() > 2 || !value.split('.').all(digits) {
            return Err(ClusterProblem::invalid_spec(format!(
                "{FIELD}.thresholds.{name}: {value:?} is not a number such as 10 or 0.5"
            )));
        }
    }
    for (name, text) in &wanted.waits {
        if parse_duration_ms(text).is_none() {
            return Err(ClusterProblem::invalid_spec(format!(
                "{FIELD}.for.{name}: {text:?} is not a duration such as 30s or 1h30m of at most a year"
            )));
        }
    }
    Ok(AlertConfig {
        labels: wanted.labels.clone(),
        namespace: target_namespace("prometheusRule", wanted.namespace.as_ref(), own)?,
        thresholds: wanted.thresholds.clone(),
        waits: wanted.waits.clone(),
        disabled: wanted.disabled_alerts.clone(),
    })
}

/// Returns the alert with the most similar name.
fn nearest_alert(name: &str) -> &'static str {
    let likeness = |known: &&str| strsim::jaro_winkler(known, name);
    alerts::alert_names()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .unwrap_or_default()
}

fn dashboard(wanted: &MonitoringSpec, own: &str) -> Result<DashboardConfig, ClusterProblem> {
    let wanted = &wanted.dashboards;
    names::check_labels("spec.monitoring.dashboards.labels", &wanted.labels)?;
    Ok(DashboardConfig {
        labels: wanted.labels.clone(),
        namespace: target_namespace("dashboards", wanted.namespace.as_ref(), own)?,
        folder: wanted.folder.clone().unwrap_or_else(|| DEFAULT_FOLDER.to_owned()),
    })
}

/// Parses a Prometheus duration such as `30s` or `1m30s`. The maximum is a year, since Prometheus
/// rejects all rules if one duration overflows.
fn parse_duration_ms(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    const LONGEST: u64 = 365 * 24 * 3_600_000;
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(letters)?;
        let factor = UNITS
            .iter()
            .find_map(|(name, factor)| (*name == unit).then_some(*factor))?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
        rest = next;
    }
    (!text.is_empty() && total <= LONGEST).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_prometheus_reads_them() {
        for (text, expected) in [
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1h", 3_600_000),
        ] {
            assert_eq!(parse_duration_ms(text), Some(expected), "{text}");
        }
        for text in ["", "30", "s", "30x", "1m 30s"] {
            assert_eq!(parse_duration_ms(text), None, "{text}");
        }
    }

    #[test]
    fn the_nearest_alert_is_named() {
        assert_eq!(nearest_alert("HighConsumerlag"), "HighConsumerLag");
    }
}
