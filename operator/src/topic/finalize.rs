//! Deletion of a Topic: decides what to delete, without side effects. A Topic has the finalizer
//! only while its deletion policy is Delete and it manages the topic. Must never block the deletion
//! of a namespace: if the topic cannot or need not be deleted, the finalizer is removed and the
//! topic is kept.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use super::plan::ObservedTopic;
use crate::{
    crd::{AdoptionPolicy, DeletionPolicy, Topic},
    finalizer::has_finalizer,
};

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
    if !has_finalizer(&topic.metadata) || topic.spec.deletion_policy == DeletionPolicy::Retain {
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

#[cfg(test)]
mod tests;
