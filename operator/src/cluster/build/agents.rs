//! Builds the Deployment of the agents.

use serde_json::{Value, json};

use super::{Child, object::Draft, pod};
use crate::cluster::{
    children::ManagedKind,
    desired::{Desired, Scale},
    inputs::Inputs,
    labels,
};

/// Builds the Deployment. It rolls one agent after the other and starts the new one first: an agent
/// that stops hands its partitions over to running agents.
pub(super) fn deployment(desired: &Desired, inputs: &Inputs) -> Child {
    let mut spec = json!({
        "selector": { "matchLabels": labels::selector(&desired.name) },
        "template": pod::agents(desired, inputs),
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": "25%" } },
        "minReadySeconds": 5,
        "progressDeadlineSeconds": 600,
        "revisionHistoryLimit": 5,
    });
    if let Some(replicas) = replicas(&desired.scale) {
        spec["replicas"] = replicas;
    }
    Draft::new(desired, ManagedKind::Deployment, desired.agent()).body(json!({ "spec": spec }))
}

/// Returns the number of replicas; `None` leaves it to the autoscaler.
fn replicas(scale: &Scale) -> Option<Value> {
    match scale {
        Scale::Stopped => Some(json!(0)),
        Scale::Fixed(replicas) => Some(json!(replicas)),
        Scale::Automatic(_) => None,
    }
}
