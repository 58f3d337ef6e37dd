//! Builds the ConfigMap with the agents' settings and their service account.

use serde_json::json;

use super::{
    ChildObject, listeners,
    object::{ObjectBuilder, short_hash},
};
use crate::cluster::{children::ManagedKind, desired::DesiredCluster, inputs::BuildInputs};

/// Builds the service account, unless the user provides one.
pub(super) fn service_account(desired: &DesiredCluster) -> Option<ChildObject> {
    let annotations = desired.service_account.make.clone()?;
    let draft = ObjectBuilder::new(
        desired,
        ManagedKind::ServiceAccount,
        &desired.service_account.name,
    );
    // Agents do not access the API server.
    let body = json!({ "automountServiceAccountToken": false });
    Some(draft.annotations(annotations).build(body))
}

/// Builds the ConfigMap of the settings. Values that are secret or differ between pods are in the
/// pod template.
pub(super) fn config_map(desired: &DesiredCluster) -> ChildObject {
    ObjectBuilder::new(desired, ManagedKind::ConfigMap, desired.agent_name())
        .build(json!({ "data": desired.variables }))
}

/// Hashes everything that agents read only at start. Not the addresses of listeners, which they
/// read again.
pub(super) fn config_hash(desired: &DesiredCluster, inputs: &BuildInputs) -> String {
    let mut parts = vec![json!(desired.variables), json!(inputs.secret_hash)];
    parts.extend(desired.listeners.iter().map(listeners::structure));
    short_hash(&json!(parts).to_string())
}
