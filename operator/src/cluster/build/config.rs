//! Builds the ConfigMap with the agents' settings and their service account.

use serde_json::json;

use super::{
    Child,
    object::{Draft, short_hash},
};
use crate::cluster::{children::ManagedKind, desired::Desired, inputs::Inputs};

/// Builds the service account, unless the user provides one.
pub(super) fn service_account(desired: &Desired) -> Option<Child> {
    let annotations = desired.service_account.make.clone()?;
    let draft = Draft::new(
        desired,
        ManagedKind::ServiceAccount,
        &desired.service_account.name,
    );
    // Agents do not access the API server.
    let body = json!({ "automountServiceAccountToken": false });
    Some(draft.annotations(annotations).body(body))
}

/// Builds the ConfigMap of the settings. Values that are secret or differ between pods are in the
/// pod template.
pub(super) fn config_map(desired: &Desired) -> Child {
    Draft::new(desired, ManagedKind::ConfigMap, desired.agent()).body(json!({ "data": desired.variables }))
}

/// Hashes everything that agents read only at start.
pub(super) fn hash(desired: &Desired, inputs: &Inputs) -> String {
    short_hash(&json!([desired.variables, inputs.secret_hash]).to_string())
}
