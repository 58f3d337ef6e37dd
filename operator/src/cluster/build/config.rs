//! What the agents are told and as whom they run: the ConfigMap with their settings, and their service account.

use serde_json::json;

use super::{
    Child,
    object::{Draft, short_hash},
};
use crate::cluster::{children::ManagedKind, desired::Desired, inputs::Inputs};

/// The account, unless the user has one.
pub(super) fn service_account(desired: &Desired) -> Option<Child> {
    let annotations = desired.service_account.make.clone()?;
    let draft = Draft::new(
        desired,
        ManagedKind::ServiceAccount,
        &desired.service_account.name,
    );
    // Agents never speak to the API server.
    let body = json!({ "automountServiceAccountToken": false });
    Some(draft.annotations(annotations).body(body))
}

/// The settings. Whatever is secret or differs from pod to pod is in the pod template.
pub(super) fn config_map(desired: &Desired) -> Child {
    Draft::new(desired, ManagedKind::ConfigMap, desired.agent()).body(json!({ "data": desired.variables }))
}

/// A hash of everything that agents read only when they start.
pub(super) fn hash(desired: &Desired, inputs: &Inputs) -> String {
    short_hash(&json!([desired.variables, inputs.secret_hash]).to_string())
}
