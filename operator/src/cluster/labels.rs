//! Labels of a cluster's objects and the selector of its agents.

use std::collections::BTreeMap;

use super::{
    children::{LABEL_CLUSTER, LABEL_CLUSTER_NAMESPACE},
    desired::DesiredCluster,
    names,
};
use crate::crd::FIELD_MANAGER;

/// Component label of the agents.
pub(super) const AGENT_COMPONENT: &str = "agent";

const NAME_LABEL: &str = "app.kubernetes.io/name";
const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// Label of an object's part of the cluster.
pub(super) const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Component of the objects by which a cluster is monitored.
pub(super) const MONITORING_COMPONENT: &str = "monitoring";
/// Component of the objects of additional listeners, which monitoring does not select.
pub(super) const LISTENER_COMPONENT: &str = "listener";
const VERSION_LABEL: &str = "app.kubernetes.io/version";
const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// Returns the selector of the agents. Must never change, since the selector of a Deployment is
/// immutable.
pub fn agent_selector(cluster: &str) -> BTreeMap<String, String> {
    [
        (NAME_LABEL, "streamhouse"),
        (INSTANCE_LABEL, cluster),
        (COMPONENT_LABEL, AGENT_COMPONENT),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Returns the selector of the agents in the form of a list request.
pub fn agent_selector_text(cluster: &str) -> String {
    let parts: Vec<String> = agent_selector(cluster)
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    parts.join(",")
}

/// Returns the selector of all children of a cluster in the form of a list request.
pub fn children_selector(namespace: &str, cluster: &str) -> String {
    format!(
        "{LABEL_CLUSTER}={cluster},{LABEL_CLUSTER_NAMESPACE}={namespace},{MANAGED_BY_LABEL}={FIELD_MANAGER}"
    )
}

/// Returns the labels of every object of the cluster.
pub(super) fn common_labels(desired: &DesiredCluster, component: &str) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        (NAME_LABEL, "streamhouse"),
        (INSTANCE_LABEL, desired.name.as_str()),
        (COMPONENT_LABEL, component),
        (MANAGED_BY_LABEL, FIELD_MANAGER),
        (LABEL_CLUSTER, desired.name.as_str()),
        (LABEL_CLUSTER_NAMESPACE, desired.namespace.as_str()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    // A tag may be longer than a label value.
    if names::is_label_value(&desired.version) {
        labels.insert(VERSION_LABEL.to_owned(), desired.version.clone());
    }
    labels
}

/// Returns whether a label or annotation is reserved for the operator.
pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with("streamhouse.io/")
        || [
            NAME_LABEL,
            INSTANCE_LABEL,
            COMPONENT_LABEL,
            VERSION_LABEL,
            MANAGED_BY_LABEL,
        ]
        .contains(&name)
}
