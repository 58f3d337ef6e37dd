//! Renders the objects of a cluster from its desired state. Free of side effects and infallible:
//! invalid specs are rejected by `validate`. The same cluster and inputs give identical objects,
//! byte by byte. Used by the reconciliation and by `diff`.

mod agents;
mod certificates;
mod config;
mod environment;
mod jobs;
mod kafka;
mod listeners;
mod monitoring;
mod network;
mod oauth;
mod object;
mod pod;
mod scaling;

use kube::core::DynamicObject;

pub(super) use self::{
    jobs::PURGE_COMPONENT,
    listeners::{desired_listeners, listeners_config_name, listeners_hash, stored_listeners},
};
use super::{children::ManagedKind, desired::DesiredCluster, inputs::BuildInputs};

/// Name of the agents' container, by which a user's pod template refers to it.
const CONTAINER_NAME: &str = "agent";

/// One complete object of a cluster: with names, labels, owner reference and the hash of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ChildObject {
    /// Kind of the object.
    pub kind: ManagedKind,
    /// The object as it is applied.
    pub object: DynamicObject,
}

impl ChildObject {
    /// Returns the name.
    pub fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }

    /// Returns the namespace.
    pub fn namespace(&self) -> &str {
        self.object.metadata.namespace.as_deref().unwrap_or_default()
    }
}

/// Builds all objects of a cluster, in the order in which they are applied. Objects of an API that
/// is not installed are left out.
pub fn build(desired: &DesiredCluster, inputs: &BuildInputs) -> Vec<ChildObject> {
    let first = [
        config::service_account(desired),
        Some(config::config_map(desired)),
        listeners::listeners_config(desired, inputs),
        oauth::oauth_config(desired),
        monitoring::dashboard(desired),
        Some(network::service(desired)),
    ];
    let last = [
        network::network_policy(desired),
        scaling::disruption_budget(desired),
        inputs.preflight.then(|| jobs::preflight_job(desired, inputs)),
        Some(agents::deployment(desired, inputs)),
        scaling::autoscaler(desired),
        monitoring::service_monitor(desired, inputs),
        monitoring::prometheus_rule(desired),
    ];
    let mut children: Vec<ChildObject> = first.into_iter().flatten().collect();
    children.extend(kafka::services(desired));
    children.extend(listeners::endpoints(desired, inputs));
    children.extend(certificates::certificates(desired, inputs));
    children.extend(last.into_iter().flatten());
    children.retain(|child| child.kind.optional_api().is_none_or(|api| inputs.has(api)));
    for child in &mut children {
        set_served_version(child, inputs);
    }
    children
}

/// Sets the version of a kind of which the API server serves another than the preferred one.
fn set_served_version(child: &mut ChildObject, inputs: &BuildInputs) {
    let served = child
        .kind
        .optional_api()
        .and_then(|api| inputs.route_versions.get(&api));
    if let (Some(version), Some(types)) = (served, &mut child.object.types) {
        types.api_version = format!("{}/{version}", child.kind.group());
    }
}

/// Builds the Job that deletes all records and the metadata, after what its pods need. Only for a
/// cluster whose deletion with its data was confirmed. None of the objects has an owner: they must
/// survive a foreground deletion of the cluster, so whoever applies them deletes them. The Job
/// refuses stores of another cluster than `cluster_id`.
pub fn purge_objects(
    desired: &DesiredCluster,
    inputs: &BuildInputs,
    cluster_id: Option<&str>,
) -> Vec<ChildObject> {
    let objects = [
        config::service_account_of_purge(desired),
        Some(config::config_map_of_purge(desired)),
        Some(jobs::purge_job(desired, inputs, cluster_id)),
    ];
    objects.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
