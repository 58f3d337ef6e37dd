//! The Secret for clients: read by its name, and written only if it is absent or belongs to the
//! User. Secrets are never listed or watched, so that the operator needs no right to do so; a
//! change is detected within the drift interval.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Resource as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    credentials::check_password,
    error::{UserError, UserProblem, with_timeout},
};
use crate::{
    context::OperatorContext,
    crd::{ConditionReason, FIELD_MANAGER, User},
};

/// Key of the password.
const PASSWORD_KEY: &str = "password";

/// The Secret for clients as it was read.
#[derive(Default)]
pub(super) struct ObservedSecret(Option<Secret>);

impl ObservedSecret {
    /// Returns the password in it, if it has one that can be used.
    pub(super) fn password(&self) -> Option<String> {
        let data = self.0.as_ref()?.data.as_ref()?;
        check_password(&data.get(PASSWORD_KEY)?.0).ok()
    }

    /// Returns whether the Secret has this content, and what the operator adds to it.
    fn has(&self, wanted: &Value) -> bool {
        let Some(found) = &self.0 else { return false };
        let content: BTreeMap<String, ByteString> =
            serde_json::from_value(wanted["data"].clone()).unwrap_or_default();
        let labels: BTreeMap<String, String> =
            serde_json::from_value(wanted["metadata"]["labels"].clone()).unwrap_or_default();
        let data = found.data.clone().unwrap_or_default();
        let present = found.metadata.labels.clone().unwrap_or_default();
        content.iter().all(|(key, value)| data.get(key) == Some(value))
            && labels.iter().all(|(key, value)| present.get(key) == Some(value))
    }
}

/// Reads the Secret for clients.
///
/// # Errors
///
/// Fails if a Secret with this name exists and does not belong to the User.
pub(super) async fn read_client_secret(
    context: &OperatorContext,
    user: &User,
    name: &str,
) -> Result<ObservedSecret, UserError> {
    let found = with_timeout(secrets(context, user).get_opt(name)).await?;
    let uid = user.resource_uid();
    let is_ours = |secret: &Secret| {
        let owners = secret.metadata.owner_references.as_deref().unwrap_or_default();
        owners
            .iter()
            .any(|owner| owner.uid == uid && owner.controller == Some(true))
    };
    match found {
        Some(other) if !is_ours(&other) => {
            let message = format!(
                "Secret {name} exists and is not managed for this User: rename or delete it, or create a User with another spec.secretName"
            );
            Err(UserProblem::new(ConditionReason::ObjectConflict, message).into())
        }
        found => Ok(ObservedSecret(found)),
    }
}

/// Reads the password that the spec names.
///
/// # Errors
///
/// Fails if the Secret or its key does not exist, or has no password.
pub(super) async fn read_password(
    context: &OperatorContext,
    user: &User,
    name: &str,
    key: &str,
) -> Result<String, UserError> {
    let found = with_timeout(secrets(context, user).get_opt(name)).await?;
    let missing = |what: String| UserProblem::new(ConditionReason::SecretMissing, what);
    let secret = found.ok_or_else(|| missing(format!("Secret {name} does not exist: create it")))?;
    let data = secret.data.unwrap_or_default();
    let value = data
        .get(key)
        .ok_or_else(|| missing(format!("Secret {name} has no key {key}: add it")))?;
    check_password(&value.0).map_err(|what| {
        UserProblem::new(
            ConditionReason::InvalidSecret,
            format!("Secret {name}, key {key}: {what}"),
        )
        .into()
    })
}

/// Writes the Secret for clients unless it has this content already. Returns whether it was
/// written.
///
/// # Errors
///
/// Returns the error of the API server.
pub(super) async fn write_client_secret(
    context: &OperatorContext,
    user: &User,
    name: &str,
    content: &BTreeMap<&'static str, String>,
    observed: &ObservedSecret,
) -> Result<bool, UserError> {
    let mut wanted = secret_manifest(user, name, content);
    if observed.has(&wanted) {
        return Ok(false);
    }
    let mut how = PatchParams::apply(FIELD_MANAGER);
    if let Some(found) = &observed.0 {
        // Not one that has taken its name since.
        wanted["metadata"]["uid"] = json!(found.metadata.uid);
        how = how.force();
    }
    // Without force, a Secret that somebody else has created since is not overwritten.
    let patch = Patch::Apply(&wanted);
    with_timeout(secrets(context, user).patch(name, &how, &patch)).await?;
    context.metrics.api_writes.with_label_values(&["Secret"]).inc();
    Ok(true)
}

fn secret_manifest(user: &User, name: &str, content: &BTreeMap<&'static str, String>) -> Value {
    let data: BTreeMap<&str, ByteString> = content
        .iter()
        .map(|(key, text)| (*key, ByteString(text.clone().into_bytes())))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": user.metadata.namespace,
            "labels": {
                "app.kubernetes.io/managed-by": FIELD_MANAGER,
                "app.kubernetes.io/name": "streamhouse",
                "app.kubernetes.io/component": "user",
            },
            "ownerReferences": user.controller_owner_ref(&()).into_iter().collect::<Vec<_>>(),
        },
        "type": "Opaque",
        "data": data,
    })
}

fn secrets(context: &OperatorContext, user: &User) -> Api<Secret> {
    let namespace = user.metadata.namespace.as_deref().unwrap_or_default();
    Api::namespaced(context.client.clone(), namespace)
}
