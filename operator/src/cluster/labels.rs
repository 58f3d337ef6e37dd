//! The labels of a cluster's objects and the selector of its agents.

use std::collections::BTreeMap;

use super::{
    children::{LABEL_CLUSTER, LABEL_CLUSTER_NAMESPACE},
    desired::Desired,
    names,
};
use crate::crd::MANAGER;

/// The part of a cluster that an agent is.
pub(super) const AGENT: &str = "agent";

const NAME: &str = "app.kubernetes.io/name";
const INSTANCE: &str = "app.kubernetes.io/instance";
const COMPONENT: &str = "app.kubernetes.io/component";
const VERSION: &str = "app.kubernetes.io/version";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// What agents are found by. Never changes: a Deployment's selector cannot.
pub fn selector(cluster: &str) -> BTreeMap<String, String> {
    [(NAME, "streamhouse"), (INSTANCE, cluster), (COMPONENT, AGENT)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// The selector as the API takes it in a request.
pub fn selector_text(cluster: &str) -> String {
    let parts: Vec<String> = selector(cluster)
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    parts.join(",")
}

/// What all children of a cluster are found by, as the API takes it in a request.
pub fn children_selector(namespace: &str, cluster: &str) -> String {
    format!("{LABEL_CLUSTER}={cluster},{LABEL_CLUSTER_NAMESPACE}={namespace},{MANAGED_BY}={MANAGER}")
}

/// On every object of the cluster.
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
    // A tag may be longer than a label.
    if names::is_label_value(&desired.version) {
        labels.insert(VERSION.to_owned(), desired.version.clone());
    }
    labels
}

/// Whether a label or annotation is the operator's own, which no user's may replace.
pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with("streamhouse.io/") || [NAME, INSTANCE, COMPONENT, VERSION, MANAGED_BY].contains(&name)
}
