//! Deletion of a Topic: the decision what to delete (without side effects) and the finalizer. A
//! Topic has the finalizer only while its deletion policy is Delete and it manages the topic. Must
//! never block the deletion of a namespace: if the topic cannot or need not be deleted, the
//! finalizer is removed and the topic is kept.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    error::{TopicError, with_timeout},
    plan::ObservedTopic,
};
use crate::{
    context::OperatorContext,
    crd::{AdoptionPolicy, DeletionPolicy, FIELD_MANAGER, FINALIZER, Topic},
};

/// Attempts to change the finalizers despite concurrent changes of the resource.
const MAX_ATTEMPTS: usize = 3;

/// State of the cluster and the namespace of a Topic that is being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// The cluster exists and is not being deleted.
    Present,
    /// The cluster does not exist or is being deleted.
    ClusterDeleting,
    /// The namespace is being deleted, and the cluster with it.
    NamespaceTerminating,
}

/// What the deletion of a Topic requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DeletionPlan {
    /// Wait until the metadata store is available; the finalizer stays.
    Wait,
    /// Remove this much and then the finalizer.
    Proceed(TopicRemoval),
}

/// What is removed from the metadata store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicRemoval {
    /// Delete the topic.
    pub(super) delete: bool,
    /// Release the claim.
    pub(super) release: bool,
    /// Why the topic is kept although the policy is Delete.
    pub(super) retained: Option<Cow<'static, str>>,
}

/// Returns whether the Topic has the operator's finalizer.
pub(super) fn has_finalizer(topic: &Topic) -> bool {
    let finalizers = topic.metadata.finalizers.as_deref().unwrap_or_default();
    finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

/// The Topics that take over a topic when its owner is deleted, by topic name: the oldest one that
/// is not being deleted and may adopt an existing topic.
#[derive(Debug, Default)]
pub(super) struct TopicHeirs(HashMap<String, String>);

impl TopicHeirs {
    /// Finds the heirs among the Topics of one cluster, which are sorted by age.
    pub(super) fn find(topics: &[Arc<Topic>]) -> Self {
        let mut heirs = HashMap::new();
        let may_inherit = |topic: &&Arc<Topic>| {
            topic.metadata.deletion_timestamp.is_none() && topic.spec.adopt == AdoptionPolicy::IfExists
        };
        for topic in topics.iter().filter(may_inherit) {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            heirs.entry(topic.topic_name().to_owned()).or_insert_with(|| {
                format!(
                    "{}/{}",
                    text(&topic.metadata.namespace),
                    text(&topic.metadata.name)
                )
            });
        }
        Self(heirs)
    }

    /// Returns the Topic, as `namespace/name`, that takes this topic over.
    pub(super) fn of(&self, topic: &Topic) -> Option<&str> {
        self.0.get(topic.topic_name()).map(String::as_str)
    }
}

/// Plans the deletion of a Topic with a deletion timestamp. `observed` is `None` while the metadata
/// store is unavailable. A topic that another Topic waits for is kept for its `heir`.
pub(super) fn plan_deletion(
    topic: &Topic,
    around: OwnerState,
    observed: Option<ObservedTopic<'_>>,
    heir: Option<&str>,
) -> DeletionPlan {
    let ours = observed.is_some_and(|observed| observed.is_owned_by(topic.resource_uid()));
    let keep = |retained: Option<Cow<'static, str>>| {
        DeletionPlan::Proceed(TopicRemoval {
            delete: false,
            release: ours,
            retained,
        })
    };
    if !has_finalizer(topic) || topic.spec.deletion_policy == DeletionPolicy::Retain {
        return keep(None);
    }
    match around {
        OwnerState::ClusterDeleting => return keep(Some("its cluster was deleted".into())),
        OwnerState::NamespaceTerminating => return keep(Some("its namespace is being deleted".into())),
        OwnerState::Present => {}
    }
    match observed {
        None => DeletionPlan::Wait,
        Some(_) if !ours => keep(Some("another resource manages it".into())),
        Some(observed) if observed.topic.is_some() && heir.is_some() => {
            let heir = heir.unwrap_or_default();
            keep(Some(
                format!("handed over to Topic {heir}, which has the same topicName").into(),
            ))
        }
        Some(observed) => DeletionPlan::Proceed(TopicRemoval {
            delete: observed.topic.is_some(),
            release: true,
            retained: None,
        }),
    }
}

/// Returns whether the namespace is being deleted. Without the right to read namespaces, only the
/// state of the cluster is considered.
pub(super) async fn is_namespace_terminating(
    context: &OperatorContext,
    namespace: &str,
) -> Result<bool, TopicError> {
    let namespaces: Api<Namespace> = Api::all(context.client.clone());
    let found = with_timeout(async {
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
/// Returns [`TopicError::Gone`] if the resource no longer exists.
pub(super) async fn set_finalizer(
    context: &OperatorContext,
    topic: &Arc<Topic>,
    held: bool,
) -> Result<Option<Arc<Topic>>, TopicError> {
    let (Some(namespace), Some(name)) = (&topic.metadata.namespace, &topic.metadata.name) else {
        return Err(TopicError::Gone);
    };
    let topics: Api<Topic> = Api::namespaced(context.client.clone(), namespace);
    let mut current = topic.clone();
    for _ in 0..MAX_ATTEMPTS {
        if has_finalizer(&current) == held {
            return Ok(Some(current).filter(|current| !Arc::ptr_eq(current, topic)));
        }
        let patch = Patch::Merge(finalizer_patch(&current, held));
        let how = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patched = topics.patch(name, &how, &patch);
        let conflict =
            |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.is_conflict());
        let patched = with_timeout(async {
            match patched.await {
                Err(error) if conflict(&error) => Ok(None),
                other => other.map(Some),
            }
        });
        if let Some(patched) = patched.await? {
            context.metrics.api_writes.with_label_values(&["Topic"]).inc();
            return Ok(Some(Arc::new(patched)));
        }
        current = Arc::new(with_timeout(topics.get(name)).await?);
        if current.metadata.uid != topic.metadata.uid {
            return Err(TopicError::Gone);
        }
    }
    Err(TopicError::Conflict(
        "its finalizers are being changed by other clients".to_owned(),
    ))
}

/// The resource version guards the list, which a merge patch replaces as a whole.
fn finalizer_patch(topic: &Topic, held: bool) -> serde_json::Value {
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
