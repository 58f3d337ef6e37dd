//! The operator's finalizer on Topics and Users. Called by their reconciliations. The finalizers of
//! others are never lost: the list is replaced only in the version that was read.

use std::fmt::Debug;

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    api_calls::{ApiError, with_timeout},
    context::OperatorContext,
    crd::{FIELD_MANAGER, FINALIZER},
};

/// Attempts to change the finalizers despite concurrent changes of the resource.
const MAX_ATTEMPTS: usize = 3;

/// Returns whether the resource has the operator's finalizer.
pub(crate) fn has_finalizer(metadata: &ObjectMeta) -> bool {
    let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
    finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

/// Adds or removes the operator's finalizer and keeps all others. Returns the resource if it is a
/// newer one than was given.
///
/// # Errors
///
/// Returns [`ApiError::NotFound`] if the resource no longer exists, and [`ApiError::Conflict`] if
/// other clients keep changing it.
pub(crate) async fn set_finalizer<K>(
    context: &OperatorContext,
    object: &K,
    held: bool,
) -> Result<Option<K>, ApiError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let (Some(namespace), Some(name)) = (&object.meta().namespace, &object.meta().name) else {
        return Err(ApiError::NotFound);
    };
    let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
    let how = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let mut newer: Option<K> = None;
    for _ in 0..MAX_ATTEMPTS {
        let current = newer.as_ref().unwrap_or(object).meta();
        if has_finalizer(current) == held {
            return Ok(newer);
        }
        let patch = Patch::Merge(finalizer_patch(current, held));
        match with_timeout(api.patch(name, &how, &patch)).await {
            Err(ApiError::Conflict(_)) => {}
            patched => {
                let patched = patched?;
                let kind = K::kind(&());
                context.metrics.api_writes.with_label_values(&[&*kind]).inc();
                return Ok(Some(patched));
            }
        }
        let found = with_timeout(api.get(name)).await?;
        if found.meta().uid != object.meta().uid {
            return Err(ApiError::NotFound);
        }
        newer = Some(found);
    }
    Err(ApiError::Conflict(
        "its finalizers are being changed by other clients".to_owned(),
    ))
}

/// The resource version guards the list, which a merge patch replaces as a whole.
fn finalizer_patch(metadata: &ObjectMeta, held: bool) -> Value {
    let finalizers = metadata.finalizers.iter().flatten();
    let others = finalizers.filter(|name| *name != FINALIZER);
    let finalizers: Vec<&str> = others
        .map(String::as_str)
        .chain(held.then_some(FINALIZER))
        .collect();
    json!({ "metadata": { "resourceVersion": metadata.resource_version, "finalizers": finalizers } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finalizers_of_others_stay() {
        let with = |finalizers: &[&str]| ObjectMeta {
            resource_version: Some("7".to_owned()),
            finalizers: Some(finalizers.iter().map(|name| (*name).to_owned()).collect()),
            ..ObjectMeta::default()
        };
        let held = with(&["a.example/b", FINALIZER]);
        assert!(has_finalizer(&held));
        let off = finalizer_patch(&held, false);
        assert_eq!(off["metadata"]["finalizers"], json!(["a.example/b"]));
        assert_eq!(off["metadata"]["resourceVersion"], "7");
        let free = with(&["a.example/b"]);
        assert!(!has_finalizer(&free));
        for metadata in [free, held] {
            let on = finalizer_patch(&metadata, true);
            assert_eq!(on["metadata"]["finalizers"], json!(["a.example/b", FINALIZER]));
        }
    }
}
