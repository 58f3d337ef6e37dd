//! Builds the ConfigMap with the agents' settings and their service account.

use serde_json::json;

use super::{
    ChildObject, listeners,
    object::{ObjectBuilder, short_hash},
};
use crate::cluster::{children::ManagedKind, desired::DesiredCluster, inputs::BuildInputs};

/// Builds the service account, unless the user provides one.
pub(super) fn service_account(desired: &DesiredCluster) -> Option<ChildObject> {
    new_service_account(desired).map(build_service_account)
}

/// Builds the service account without an owner, for the purge.
pub(super) fn service_account_of_purge(desired: &DesiredCluster) -> Option<ChildObject> {
    new_service_account(desired).map(|draft| build_service_account(draft.without_owner()))
}

fn new_service_account(desired: &DesiredCluster) -> Option<ObjectBuilder<'_>> {
    let annotations = desired.service_account.make.clone()?;
    let draft = ObjectBuilder::new(
        desired,
        ManagedKind::ServiceAccount,
        &desired.service_account.name,
    );
    Some(draft.annotations(annotations))
}

fn build_service_account(draft: ObjectBuilder<'_>) -> ChildObject {
    // Agents do not access the API server.
    draft.build(json!({ "automountServiceAccountToken": false }))
}

/// Builds the ConfigMap of the settings. Values that are secret, differ between pods or name a
/// mounted file are in the pod template.
pub(super) fn config_map(desired: &DesiredCluster) -> ChildObject {
    new_config_map(desired).build(json!({ "data": desired.variables }))
}

/// Builds the ConfigMap without an owner, for the purge.
pub(super) fn config_map_of_purge(desired: &DesiredCluster) -> ChildObject {
    new_config_map(desired)
        .without_owner()
        .build(json!({ "data": desired.variables }))
}

fn new_config_map(desired: &DesiredCluster) -> ObjectBuilder<'_> {
    ObjectBuilder::new(desired, ManagedKind::ConfigMap, desired.agent_name())
}

/// Hashes everything that agents read only at start. Not the addresses of listeners, which they
/// read again.
pub(super) fn config_hash(desired: &DesiredCluster, inputs: &BuildInputs) -> String {
    let mut parts = vec![json!(desired.variables), json!(inputs.secret_hash)];
    parts.extend(listeners::desired_listeners(desired));
    short_hash(&json!(parts).to_string())
}
