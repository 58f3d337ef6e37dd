//! How many agents may go at once, and how many there are when that is not fixed: the PodDisruptionBudget and the
//! HorizontalPodAutoscaler.

use serde_json::{Value, json};

use super::{Child, object::Draft};
use crate::cluster::{
    children::ManagedKind,
    desired::{Desired, Scale},
    labels,
};

/// What evictions may take at once. A pod that is not ready may always go: it serves nobody, and would hold up a drained node for ever.
pub(super) fn disruption_budget(desired: &Desired) -> Option<Child> {
    let max_unavailable = desired.max_unavailable.clone()?;
    let draft = Draft::new(desired, ManagedKind::PodDisruptionBudget, desired.agent());
    Some(draft.body(json!({ "spec": {
        "selector": { "matchLabels": labels::selector(&desired.name) },
        "maxUnavailable": max_unavailable,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    } })))
}

/// Who chooses the number of agents, when that is not the user.
pub(super) fn autoscaler(desired: &Desired) -> Option<Child> {
    let Scale::Automatic(autoscaler) = &desired.scale else {
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
    let draft = Draft::new(desired, ManagedKind::HorizontalPodAutoscaler, desired.agent());
    Some(draft.body(json!({ "spec": {
        "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": desired.agent() },
        "minReplicas": autoscaler.min,
        "maxReplicas": autoscaler.max,
        "metrics": metrics,
        "behavior": autoscaler.behavior.clone().unwrap_or_else(slowly_down),
    } })))
}

/// One agent a minute: each hands its partitions over, and nobody should wait for several of them at once.
fn slowly_down() -> Value {
    json!({ "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "selectPolicy": "Max",
        "policies": [{ "type": "Pods", "value": 1, "periodSeconds": 60 }],
    } })
}
