//! Deletion of a Topic: the decision what to delete (without side effects) and the finalizer. A
//! Topic has the finalizer only while its deletion policy is Delete and it manages the topic. Must
//! never block the deletion of a namespace: if the topic cannot or need not be deleted, the
//! finalizer is removed and the topic is kept.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    failure::{Failure, within},
    plan::Observed,
};
use crate::{
    context::Context,
    crd::{DeletionPolicy, FINALIZER, MANAGER, Topic},
};

/// Attempts to change the finalizers despite concurrent changes of the resource.
const TRIES: usize = 3;

/// State of the cluster and the namespace of a Topic that is being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surroundings {
    /// The cluster exists and is not being deleted.
    Stay,
    /// The cluster does not exist or is being deleted.
    ClusterEnds,
    /// The namespace is being deleted, and the cluster with it.
    NamespaceEnds,
}

/// What the deletion of a Topic requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Removal {
    /// Wait until the metadata store is available; the finalizer stays.
    Wait,
    /// Delete this much and remove the finalizer.
    Proceed {
        /// Delete the topic.
        delete: bool,
        /// Release the claim.
        release: bool,
        /// Why the topic is kept although the policy is Delete.
        kept: Option<&'static str>,
    },
}

/// Returns whether the Topic has the operator's finalizer.
pub(super) fn is_held(topic: &Topic) -> bool {
    let finalizers = topic.metadata.finalizers.as_deref().unwrap_or_default();
    finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

/// Plans the deletion of a Topic with a deletion timestamp. `observed` is `None` while the metadata
/// store is unavailable.
pub(super) fn removal(topic: &Topic, around: Surroundings, observed: Option<Observed<'_>>) -> Removal {
    let uid = topic.metadata.uid.as_deref().unwrap_or_default();
    let ours = observed.is_some_and(|observed| observed.is_owned_by(uid));
    let keep = |kept| Removal::Proceed {
        delete: false,
        release: ours,
        kept,
    };
    if !is_held(topic) || topic.spec.deletion_policy == DeletionPolicy::Retain {
        return keep(None);
    }
    match around {
        Surroundings::ClusterEnds => return keep(Some("its cluster was deleted")),
        Surroundings::NamespaceEnds => return keep(Some("its namespace is being deleted")),
        Surroundings::Stay => {}
    }
    match observed {
        None => Removal::Wait,
        Some(_) if !ours => keep(Some("another resource manages it")),
        Some(observed) => Removal::Proceed {
            delete: observed.topic.is_some(),
            release: true,
            kept: None,
        },
    }
}

/// Returns whether the namespace is being deleted. Without the right to read namespaces, only the
/// state of the cluster is considered.
pub(super) async fn namespace_ends(context: &Context, namespace: &str) -> Result<bool, Failure> {
    let namespaces: Api<Namespace> = Api::all(context.client.clone());
    let found = within(async {
        match namespaces.get_opt(namespace).await {
            Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(Some(Namespace::default())),
            other => other,
        }
    });
    Ok(found
        .await?
        .is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}

/// Adds or removes the operator's finalizer and keeps all others. Returns the changed resource, or
/// `None` if no change was necessary.
///
/// # Errors
///
/// Returns [`Failure::Gone`] if the resource no longer exists.
pub(super) async fn hold(
    context: &Context,
    topic: &Arc<Topic>,
    held: bool,
) -> Result<Option<Arc<Topic>>, Failure> {
    let (Some(namespace), Some(name)) = (&topic.metadata.namespace, &topic.metadata.name) else {
        return Err(Failure::Gone);
    };
    let topics: Api<Topic> = Api::namespaced(context.client.clone(), namespace);
    let mut current = topic.clone();
    for _ in 0..TRIES {
        if is_held(&current) == held {
            return Ok(Some(current).filter(|current| !Arc::ptr_eq(current, topic)));
        }
        let patch = Patch::Merge(patch(&current, held));
        let how = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patched = topics.patch(name, &how, &patch);
        let conflict =
            |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.is_conflict());
        let patched = within(async {
            match patched.await {
                Err(error) if conflict(&error) => Ok(None),
                other => other.map(Some),
            }
        });
        if let Some(patched) = patched.await? {
            context.metrics.api_writes.with_label_values(&["Topic"]).inc();
            return Ok(Some(Arc::new(patched)));
        }
        current = Arc::new(within(topics.get(name)).await?);
        if current.metadata.uid != topic.metadata.uid {
            return Err(Failure::Gone);
        }
    }
    Err(Failure::Raced(
        "its finalizers are being changed by other clients".to_owned(),
    ))
}

/// The resource version guards the list, which a merge patch replaces as a whole.
fn patch(topic: &Topic, held: bool) -> serde_json::Value {
    let others = topic
        .metadata
        .finalizers
        .iter()
        .flatten()
        .filter(|name| *name != FINALIZER);
    let finalizers: Vec<&str> = others
        .map(String::as_str)
        .chain(held.then_some(FINALIZER))
        .collect();
    json!({ "metadata": { "resourceVersion": topic.metadata.resource_version, "finalizers": finalizers } })
}

#[cfg(test)]
mod tests;
