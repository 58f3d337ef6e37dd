//! Builds the Deployment of the agents.

use serde_json::{Value, json};

use super::{ChildObject, object::ObjectBuilder, pod};
use crate::cluster::{
    children::ManagedKind,
    desired::{AgentScale, DesiredCluster},
    inputs::BuildInputs,
    labels,
};

/// Builds the Deployment. It rolls one agent after the other and starts the new one first: an agent
/// that stops hands its partitions over to running agents.
pub(super) fn deployment(desired: &DesiredCluster, inputs: &BuildInputs) -> ChildObject {
    let mut spec = json!({
        "selector": { "matchLabels": labels::agent_selector(&desired.name) },
        "template": pod::agent_template(desired, inputs),
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": "25%" } },
        "minReadySeconds": 5,
        "progressDeadlineSeconds": 600,
        "revisionHistoryLimit": 5,
    });
    if let Some(replicas) = replicas(&desired.scale) {
        spec["replicas"] = replicas;
    }
    ObjectBuilder::new(desired, ManagedKind::Deployment, desired.agent_name()).build(json!({ "spec": spec }))
}

/// Returns the number of replicas; `None` leaves it to the autoscaler.
fn replicas(scale: &AgentScale) -> Option<Value> {
    match scale {
        AgentScale::Stopped => Some(json!(0)),
        AgentScale::Fixed(replicas) => Some(json!(replicas)),
        AgentScale::Automatic(_) => None,
    }
}
