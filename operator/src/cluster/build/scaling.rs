//! Builds the PodDisruptionBudget and the HorizontalPodAutoscaler.

use serde_json::{Value, json};

use super::{ChildObject, object::ObjectBuilder};
use crate::cluster::{
    children::ManagedKind,
    desired::{AgentScale, DesiredCluster},
    labels,
};

/// Builds the PodDisruptionBudget. A pod that is not ready may always be evicted: it serves no
/// requests and would block the drain of a node.
pub(super) fn disruption_budget(desired: &DesiredCluster) -> Option<ChildObject> {
    let max_unavailable = desired.max_unavailable.clone()?;
    let draft = ObjectBuilder::new(desired, ManagedKind::PodDisruptionBudget, desired.agent_name());
    Some(draft.build(json!({ "spec": {
        "selector": { "matchLabels": labels::agent_selector(&desired.name) },
        "maxUnavailable": max_unavailable,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    } })))
}

/// Builds the HorizontalPodAutoscaler, if the number of agents is not fixed.
pub(super) fn autoscaler(desired: &DesiredCluster) -> Option<ChildObject> {
    let AgentScale::Automatic(autoscaler) = &desired.scale else {
        return None;
    };
    let cpu = autoscaler.cpu.map(|percent| {
        json!({ "type": "Resource", "resource": {
            "name": "cpu", "target": { "type": "Utilization", "averageUtilization": percent },
        } })
    });
    let metrics: Vec<Value> = cpu
        .into_iter()
        .chain(autoscaler.metrics.iter().cloned())
        .collect();
    let draft = ObjectBuilder::new(
        desired,
        ManagedKind::HorizontalPodAutoscaler,
        desired.agent_name(),
    );
    Some(draft.build(json!({ "spec": {
        "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": desired.agent_name() },
        "minReplicas": autoscaler.min,
        "maxReplicas": autoscaler.max,
        "metrics": metrics,
        "behavior": autoscaler.behavior.clone().unwrap_or_else(default_behavior),
    } })))
}

/// Scales down by one agent per minute: each hands its partitions over, which should not happen for
/// several agents at once.
fn default_behavior() -> Value {
    json!({ "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "selectPolicy": "Max",
        "policies": [{ "type": "Pods", "value": 1, "periodSeconds": 60 }],
    } })
}
