//! Validates `spec.agents` and the fields around the pods: number of agents, resources,
//! network access and evictions.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    autoscaling::v2::{HorizontalPodAutoscalerBehavior, MetricSpec},
    networking::v1::NetworkPolicyPeer,
};
use serde_json::{Map, Value, json};
use streamhouse_core::settings::AgentSettings;

use super::{api_shapes, quantity};
use crate::{
    cluster::{
        desired::{AgentScale, DesiredAutoscaler, DesiredServiceAccount, NetworkPeers},
        names,
        problem::ClusterProblem,
    },
    crd::{ClusterSpec, ScalarValue},
};

const DEFAULT_REPLICAS: i32 = 3;
const DEFAULT_CPU: &str = "250m";
const MIB: u64 = 1 << 20;
/// Memory of an agent beside the two budgets in its settings: code, connections, compression.
const MEMORY_OVERHEAD: u64 = 256 * MIB;

/// Returns the number of agents.
pub(super) fn scale(spec: &ClusterSpec) -> Result<AgentScale, ClusterProblem> {
    let agents = &spec.agents;
    let scale = match (&agents.autoscaling, agents.replicas) {
        (Some(_), Some(_)) => {
            return Err(ClusterProblem::invalid_spec(
                "spec.agents: set replicas or autoscaling, not both",
            ));
        }
        (None, replicas) => AgentScale::Fixed(replicas.unwrap_or(DEFAULT_REPLICAS).max(0)),
        (Some(_), None) => AgentScale::Automatic(autoscaler(spec)?),
    };
    Ok(if spec.stopped { AgentScale::Stopped } else { scale })
}

fn autoscaler(spec: &ClusterSpec) -> Result<DesiredAutoscaler, ClusterProblem> {
    const FIELD: &str = "spec.agents.autoscaling";
    let Some(wanted) = &spec.agents.autoscaling else {
        return Err(ClusterProblem::invalid_spec(format!("{FIELD} is missing")));
    };
    if wanted.min_replicas > wanted.max_replicas || wanted.min_replicas < 1 {
        return Err(ClusterProblem::invalid_spec(format!(
            "{FIELD}: minReplicas ({}) must be at least 1 and not greater than maxReplicas ({})",
            wanted.min_replicas, wanted.max_replicas
        )));
    }
    let cpu = wanted.target_cpu_utilization_percentage;
    if cpu.is_none() && wanted.metrics.is_empty() {
        return Err(ClusterProblem::invalid_spec(format!(
            "{FIELD}: set targetCPUUtilizationPercentage or metrics"
        )));
    }
    let asks_for_cpu = spec.agents.resources.as_ref().is_none_or(|resources| {
        resources.requests.contains_key("cpu") || resources.limits.contains_key("cpu")
    });
    if cpu.is_some() && !asks_for_cpu {
        return Err(ClusterProblem::invalid_spec(format!(
            "{FIELD}.targetCPUUtilizationPercentage is a percentage of the CPU request: set spec.agents.resources.requests.cpu"
        )));
    }
    api_shapes::check_each_shape::<MetricSpec>(&format!("{FIELD}.metrics"), &wanted.metrics)?;
    if let Some(behavior) = &wanted.behavior {
        api_shapes::check_shape::<HorizontalPodAutoscalerBehavior>(&format!("{FIELD}.behavior"), behavior)?;
    }
    Ok(DesiredAutoscaler {
        min: wanted.min_replicas,
        max: wanted.max_replicas,
        cpu,
        metrics: wanted.metrics.clone(),
        behavior: wanted.behavior.clone(),
    })
}

/// Returns the resource requests and limits. By default they are derived from the memory budgets in
/// the settings.
pub(super) fn resources(spec: &ClusterSpec, settings: &AgentSettings) -> Result<Value, ClusterProblem> {
    let budgets = settings.produce_memory.0.saturating_add(settings.cache_memory.0);
    let Some(wanted) = &spec.agents.resources else {
        let memory = budgets.saturating_add(MEMORY_OVERHEAD).div_ceil(MIB);
        return Ok(json!({
            "requests": { "cpu": DEFAULT_CPU, "memory": format!("{memory}Mi") },
            "limits": { "memory": format!("{}Mi", memory.saturating_mul(2)) },
        }));
    };
    let (requests, limits) = (
        parse_amounts("requests", &wanted.requests)?,
        parse_amounts("limits", &wanted.limits)?,
    );
    for (name, limit) in &limits {
        if let Some(request) = requests.get(name)
            && request.amount > limit.amount
        {
            return Err(ClusterProblem::invalid_spec(format!(
                "spec.agents.resources: requests.{name} ({}) is more than limits.{name} ({})",
                request.text, limit.text
            )));
        }
    }
    #[allow(clippy::cast_precision_loss)] // exact for every realistic amount of memory
    if let Some(limit) = limits.get("memory").filter(|limit| limit.amount < budgets as f64) {
        return Err(ClusterProblem::invalid_spec(format!(
            "spec.agents.resources.limits.memory ({}) is less than the settings produceMemory and cacheMemory together ({}Mi): \
            agents would be killed; increase the limit or reduce the settings",
            limit.text,
            budgets / MIB
        )));
    }
    let mut resources = Map::new();
    for (name, amounts) in [("requests", requests), ("limits", limits)] {
        if !amounts.is_empty() {
            let amounts = amounts
                .into_iter()
                .map(|(name, amount)| (name, Value::String(amount.text)));
            resources.insert(name.to_owned(), Value::Object(amounts.collect()));
        }
    }
    Ok(Value::Object(resources))
}

struct ResourceAmount {
    text: String,
    amount: f64,
}

fn parse_amounts(
    part: &str,
    given: &BTreeMap<String, ScalarValue>,
) -> Result<BTreeMap<String, ResourceAmount>, ClusterProblem> {
    let read = |(name, given): (&String, &ScalarValue)| {
        let text = given.to_string();
        match quantity::parse_quantity(&text).filter(|amount| *amount >= 0.0) {
            Some(amount) => Ok((name.clone(), ResourceAmount { text, amount })),
            None => Err(ClusterProblem::invalid_spec(format!(
                "spec.agents.resources.{part}.{name}: {text:?} is not a quantity such as 500m, 2 or 512Mi"
            ))),
        }
    };
    given.iter().map(read).collect()
}

/// Returns the service account of the agents.
pub(super) fn service_account(
    cluster: &str,
    spec: &ClusterSpec,
) -> Result<DesiredServiceAccount, ClusterProblem> {
    let wanted = &spec.agents.service_account;
    names::check_annotations("spec.agents.serviceAccount.annotations", &wanted.annotations)?;
    match &wanted.name {
        Some(_) if !wanted.annotations.is_empty() => Err(ClusterProblem::invalid_spec(
            "spec.agents.serviceAccount: annotations apply only to the account that the operator creates; remove annotations \
            or name",
        )),
        Some(name) => Ok(DesiredServiceAccount {
            name: name.clone(),
            make: None,
        }),
        None => Ok(DesiredServiceAccount {
            name: format!("{cluster}-agent"),
            make: Some(wanted.annotations.clone()),
        }),
    }
}

/// Returns the allowed peers.
pub(super) fn network_policy(spec: &ClusterSpec) -> Result<Option<NetworkPeers>, ClusterProblem> {
    let wanted = &spec.network_policy;
    api_shapes::check_each_shape::<NetworkPolicyPeer>("spec.networkPolicy.clients", &wanted.clients)?;
    api_shapes::check_each_shape::<NetworkPolicyPeer>("spec.networkPolicy.monitoring", &wanted.monitoring)?;
    Ok(wanted.enabled.then(|| NetworkPeers {
        clients: wanted.clients.clone(),
        monitoring: wanted.monitoring.clone(),
    }))
}

/// Returns `maxUnavailable` as in a PodDisruptionBudget.
pub(super) fn max_unavailable(spec: &ClusterSpec) -> Result<Option<Value>, ClusterProblem> {
    let wanted = &spec.disruption_budget;
    let refuse = |given: &ScalarValue| {
        ClusterProblem::invalid_spec(format!(
            "spec.disruptionBudget.maxUnavailable: {given} is neither a number nor a percentage such as 25%"
        ))
    };
    let value = match &wanted.max_unavailable {
        None => json!(1),
        Some(given @ ScalarValue::Text(text)) => match text.strip_suffix('%') {
            Some(percent) if percent.parse::<u8>().is_ok_and(|percent| percent <= 100) => json!(text),
            Some(_) => return Err(refuse(given)),
            None => json!(text.parse::<u16>().map_err(|_| refuse(given))?),
        },
        Some(ScalarValue::Integer(number)) if (0..=1000).contains(number) => json!(number),
        Some(given) => return Err(refuse(given)),
    };
    Ok(wanted.enabled.then_some(value))
}
