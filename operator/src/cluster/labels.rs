//! Labels of a cluster's objects and the selector of its agents.

use std::collections::BTreeMap;

use super::{
    children::{LABEL_CLUSTER, LABEL_CLUSTER_NAMESPACE},
    desired::Desired,
    names,
};
use crate::crd::MANAGER;

/// Component label of the agents.
pub(super) const AGENT: &str = "agent";

const NAME: &str = "app.kubernetes.io/name";
const INSTANCE: &str = "app.kubernetes.io/instance";
const COMPONENT: &str = "app.kubernetes.io/component";
const VERSION: &str = "app.kubernetes.io/version";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Returns the selector of the agents. Must never change, since the selector of a Deployment is
/// immutable.
pub fn selector(cluster: &str) -> BTreeMap<String, String> {
    [(NAME, "streamhouse"), (INSTANCE, cluster), (COMPONENT, AGENT)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// Returns the selector of the agents in the form of a list request.
pub fn selector_text(cluster: &str) -> String {
    let parts: Vec<String> = selector(cluster)
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    parts.join(",")
}

/// Returns the selector of all children of a cluster in the form of a list request.
pub fn children_selector(namespace: &str, cluster: &str) -> String {
    format!("{LABEL_CLUSTER}={cluster},{LABEL_CLUSTER_NAMESPACE}={namespace},{MANAGED_BY}={MANAGER}")
}

/// Returns the labels of every object of the cluster.
pub(super) fn common(desired: &Desired, component: &str) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        (NAME, "streamhouse"),
        (INSTANCE, desired.name.as_str()),
        (COMPONENT, component),
        (MANAGED_BY, MANAGER),
        (LABEL_CLUSTER, desired.name.as_str()),
        (LABEL_CLUSTER_NAMESPACE, desired.namespace.as_str()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    // A tag may be longer than a label value.
    if names::is_label_value(&desired.version) {
        labels.insert(VERSION.to_owned(), desired.version.clone());
    }
    labels
}

/// Returns whether a label or annotation is reserved for the operator.
pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with("streamhouse.io/") || [NAME, INSTANCE, COMPONENT, VERSION, MANAGED_BY].contains(&name)
}
