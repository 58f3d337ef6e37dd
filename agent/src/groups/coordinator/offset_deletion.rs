//! Deletes committed offsets of topics that no member of the group subscribes to.

use std::{collections::BTreeSet, sync::Arc};

use streamhouse_core::{
    Error, ErrorCode, PartitionUid,
    consumer_protocol::{ConsumerSubscription, PROTOCOL_TYPE},
    protocol::v1,
};
use streamhouse_metadata::OffsetDeletion;

use super::{
    GroupCoordinator,
    admin::{into_client_error, non_empty_group},
    offsets::unexpected_failure,
    slot::{CoordinatorSlot, GroupEntry},
};
use crate::groups::{any_group::AnyGroup, limits, state::GroupView};

impl GroupCoordinator {
    /// Deletes the offsets that a group has committed for these partitions, as far as it has any.
    /// Returns the errors by the position of the partition in `wanted`:
    /// UNKNOWN_TOPIC_OR_PARTITION, or GROUP_SUBSCRIBED_TO_TOPIC while a member subscribes to the
    /// topic.
    ///
    /// # Errors
    /// GROUP_ID_NOT_FOUND if the group does not exist, NON_EMPTY_GROUP if it has members whose
    /// protocol is not that of consumers.
    pub async fn delete_offsets(
        &self,
        group_id: &str,
        wanted: &[v1::TopicPartition],
    ) -> Result<Vec<(usize, Error)>, Error> {
        limits::check_group_id(group_id)?;
        let slot = self.serving_slot(group_id)?;
        self.deps().limits.check_offset_count(wanted.len())?;
        self.read_stored(group_id).await?;
        let cluster = &self.deps().cluster;
        let resolve = |part: &v1::TopicPartition| {
            cluster.resolve_partition(&part.topic, &part.topic_id, part.partition)
        };
        if wanted.iter().any(|part| resolve(part).is_err()) {
            cluster.refresh().await;
        }
        let mut failed = Vec::new();
        let mut found = Vec::with_capacity(wanted.len());
        for (place, part) in wanted.iter().enumerate() {
            match resolve(part) {
                Ok(uid) => found.push((place, part.topic.clone(), uid)),
                Err(error) => failed.push((place, error)),
            }
        }
        let entry = slot.get_or_create_entry(group_id);
        // Runs on a task of its own: a later commit must not overtake the deletion, even if the
        // caller is cancelled.
        let deleted = tokio::spawn(async move { delete_locked(&slot, &entry, found).await });
        failed.extend(deleted.await.map_err(|_| unexpected_failure())??);
        Ok(failed)
    }
}

/// Deletes the offsets while the group's members stay as they are.
async fn delete_locked(
    slot: &Arc<CoordinatorSlot>,
    entry: &Arc<GroupEntry>,
    found: Vec<(usize, String, PartitionUid)>,
) -> Result<Vec<(usize, Error)>, Error> {
    let _no_commit = entry.commits.lock().await;
    let state = entry.state.lock().await;
    slot.ensure_serving()?;
    let members = state.group.as_ref().filter(|group| group.has_members());
    let subscribed = match members {
        Some(AnyGroup::Classic(group)) if group.view().protocol_type.as_ref() != PROTOCOL_TYPE => {
            return Err(non_empty_group());
        }
        Some(AnyGroup::Classic(group)) => SubscribedTopics::of(group.view()),
        Some(AnyGroup::Consumer(group)) => SubscribedTopics::These(group.subscribed_names()),
        None => SubscribedTopics::These(BTreeSet::new()),
    };
    let (kept, deleted): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|(_, topic, _)| subscribed.contains(topic));
    if !deleted.is_empty() {
        let deletion = OffsetDeletion {
            group_id: entry.id.to_string(),
            slot: slot.number,
            partitions: deleted.into_iter().map(|(_, _, uid)| uid).collect(),
        };
        let store = &slot.shared.deps.store;
        slot.run_transaction(store.delete_offsets(slot.lease, &deletion))
            .await
            .map_err(into_client_error)?;
    }
    let kept = kept.into_iter().map(|(place, topic, _)| {
        let message = format!("members of the group subscribe to topic {topic:?}");
        (place, Error::new(ErrorCode::GroupSubscribedToTopic, message))
    });
    Ok(kept.collect())
}

/// The topics that the members of a group subscribe to.
enum SubscribedTopics {
    These(BTreeSet<String>),
    /// A member's subscription cannot be read, or the members have not agreed on a protocol yet.
    Unknown,
}

impl SubscribedTopics {
    fn of(view: GroupView) -> Self {
        let mut topics = BTreeSet::new();
        for member in view.members {
            match ConsumerSubscription::decode(member.metadata) {
                Ok(subscription) => topics.extend(subscription.topics),
                Err(_) => return Self::Unknown,
            }
        }
        Self::These(topics)
    }

    fn contains(&self, topic: &str) -> bool {
        match self {
            Self::These(topics) => topics.contains(topic),
            Self::Unknown => true,
        }
    }
}
