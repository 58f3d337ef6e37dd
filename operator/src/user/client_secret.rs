//! The Secret for clients: read by its name, and written only if it is absent or belongs to the
//! User. Secrets are never listed or watched, so that the operator needs no right to do so; a
//! change is detected within the drift interval.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Resource as _,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};

use super::{
    credentials::check_password,
    error::{UserError, UserProblem},
};
use crate::{
    api_calls::with_timeout,
    context::OperatorContext,
    crd::{ConditionReason, FIELD_MANAGER, User},
};

/// Key of the password.
const PASSWORD_KEY: &str = "password";

/// The Secret for clients as it was read.
#[derive(Default)]
pub(super) struct ObservedSecret(Option<Secret>);

impl ObservedSecret {
    /// Returns whether there was none.
    pub(super) fn is_absent(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the password in it, if it has one that can be used.
    pub(super) fn password(&self) -> Option<String> {
        let data = self.0.as_ref()?.data.as_ref()?;
        check_password(&data.get(PASSWORD_KEY)?.0).ok()
    }

    /// Returns a text in it.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        let data = self.0.as_ref()?.data.as_ref()?;
        String::from_utf8(data.get(key)?.0.clone()).ok()
    }

    /// Returns the keys whose content differs from this one.
    pub(super) fn differing_keys(&self, content: &BTreeMap<&'static str, String>) -> Vec<&'static str> {
        let data = self.0.as_ref().and_then(|secret| secret.data.as_ref());
        let stored = |key: &str| {
            data.and_then(|data| data.get(key))
                .map(|value| value.0.as_slice())
        };
        let differing = content
            .iter()
            .filter(|(key, text)| stored(key) != Some(text.as_bytes()));
        differing.map(|(key, _)| *key).collect()
    }

    /// Returns whether the Secret has this content, and what the operator adds to it.
    fn has(&self, wanted: &Secret) -> bool {
        self.0.as_ref().is_some_and(|found| {
            has_entries(&found.data, &wanted.data)
                && has_entries(&found.metadata.labels, &wanted.metadata.labels)
        })
    }
}

fn has_entries<T: PartialEq>(
    found: &Option<BTreeMap<String, T>>,
    wanted: &Option<BTreeMap<String, T>>,
) -> bool {
    let value = |key| found.as_ref().and_then(|found| found.get(key));
    let mut wanted = wanted.iter().flatten();
    wanted.all(|(key, wanted)| value(key) == Some(wanted))
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
/// Returns the error of the API server, also if somebody else has created a Secret with this name
/// since it was read.
pub(super) async fn write_client_secret(
    context: &OperatorContext,
    user: &User,
    name: &str,
    content: &BTreeMap<&'static str, String>,
    observed: &ObservedSecret,
) -> Result<bool, UserError> {
    let mut wanted = secret_of(user, name, content);
    if observed.has(&wanted) {
        return Ok(false);
    }
    let secrets = secrets(context, user);
    match &observed.0 {
        // Fails if somebody else has created one since, with which an apply would merge.
        None => {
            let how = PostParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PostParams::default()
            };
            with_timeout(secrets.create(&how, &wanted)).await?;
        }
        Some(found) => {
            // Not one that has taken its name since.
            wanted.metadata.uid.clone_from(&found.metadata.uid);
            let how = PatchParams::apply(FIELD_MANAGER).force();
            with_timeout(secrets.patch(name, &how, &Patch::Apply(&wanted))).await?;
        }
    }
    context.metrics.api_writes.with_label_values(&["Secret"]).inc();
    Ok(true)
}

/// Returns the Secret with this content. The keys are always the same: what was created is replaced
/// by an apply, but not removed.
fn secret_of(user: &User, name: &str, content: &BTreeMap<&'static str, String>) -> Secret {
    let labels = [
        ("app.kubernetes.io/managed-by", FIELD_MANAGER),
        ("app.kubernetes.io/name", "streamhouse"),
        ("app.kubernetes.io/component", "user"),
    ];
    let data = content.iter();
    let data = data.map(|(key, text)| ((*key).to_owned(), ByteString(text.clone().into_bytes())));
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: user.metadata.namespace.clone(),
            labels: Some(
                labels
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            owner_references: user.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(data.collect()),
        ..Secret::default()
    }
}

fn secrets(context: &OperatorContext, user: &User) -> Api<Secret> {
    let namespace = user.metadata.namespace.as_deref().unwrap_or_default();
    Api::namespaced(context.client.clone(), namespace)
}
