//! What ACLs let clients do, in Kafka's words and codes. Handlers ask before they look for what a
//! request names: what a client may not know of is answered as what does not exist.
//!
//! | request | needs |
//! |---|---|
//! | Produce | WRITE of the topic |
//! | Fetch, DescribeProducers | READ of the topic |
//! | ListOffsets, Metadata, DescribeTopicPartitions | DESCRIBE of the topic |
//! | OffsetForLeaderEpoch | CLUSTER_ACTION of the cluster, or DESCRIBE of the topic |
//! | DeleteRecords | DELETE of the topic |
//! | DeleteTopics | DELETE of the cluster or the topic |
//! | CreateTopics, topics that Metadata creates | CREATE of the cluster or the topic |
//! | CreatePartitions | ALTER of the topic |
//! | InitProducerId | IDEMPOTENT_WRITE of the cluster, or WRITE of some topic |
//! | JoinGroup, SyncGroup, Heartbeat, LeaveGroup | READ of the group |
//! | ConsumerGroupHeartbeat | READ of the group, DESCRIBE of the topics |
//! | OffsetCommit | READ of the group and the topics |
//! | OffsetFetch | DESCRIBE of the group and the topics |
//! | OffsetDelete | DELETE of the group, READ of the topics |
//! | FindCoordinator, DescribeGroups | DESCRIBE of the group |
//! | ListGroups | DESCRIBE of the cluster or the group |
//! | ConsumerGroupDescribe | DESCRIBE of the group and its topics |
//! | DeleteGroups | DELETE of the group |
//! | DescribeConfigs | DESCRIBE_CONFIGS of the topic, the group or, for brokers, the cluster |
//! | AlterConfigs, IncrementalAlterConfigs | ALTER_CONFIGS of the same |
//! | DescribeLogDirs, ListPartitionReassignments | DESCRIBE of the cluster |
//! | DescribeAcls, DescribeUserScramCredentials | DESCRIBE of the cluster |
//! | CreateAcls, DeleteAcls, AlterUserScramCredentials | ALTER of the cluster |
//! | DescribeClientQuotas | DESCRIBE_CONFIGS of the cluster |
//! | AlterClientQuotas | ALTER_CONFIGS of the cluster |

use std::{collections::HashSet, future::Future};

use streamhouse_core::{
    Error, ErrorCode,
    security::{AclOperation, AclResourceType, CLUSTER_RESOURCE_NAME, WILDCARD_RESOURCE_NAME},
};
use uuid::Uuid;

use crate::{directory::ClusterView, security::ClientAccess};

pub(super) const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
/// No operations were asked for.
pub(super) const OPERATIONS_NOT_ASKED: i32 = i32::MIN;

/// Returns the code for a topic that a request names by its name or its id, if the client may not
/// do this to it. The name is empty if there is no topic with the id, for which there are no ACLs.
pub(super) fn topic_refusal(
    access: &ClientAccess,
    operation: AclOperation,
    (name, topic_id): (&str, Uuid),
) -> Option<i16> {
    if name.is_empty() && !topic_id.is_nil() {
        return None;
    }
    let checked = access.check_topic(operation, name);
    checked.is_err().then_some(TOPIC_AUTHORIZATION_FAILED)
}

/// Returns the topics to which the client may not do this.
pub(super) fn refused_topics<'a>(
    access: &ClientAccess,
    operation: AclOperation,
    names: impl Iterator<Item = &'a str>,
) -> HashSet<&'a str> {
    names
        .filter(|name| access.check_topic(operation, name).is_err())
        .collect()
}

/// Does what the client asks for, if it is allowed.
///
/// # Errors
/// The refusal, or what the action fails with.
pub(super) async fn when_allowed<T>(
    allowed: Result<(), Error>,
    action: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    allowed?;
    action.await
}

/// Checks that the client may know of all topics that a regular expression can find.
///
/// # Errors
/// `TopicAuthorizationFailed`.
pub(super) fn check_all_topics(access: &ClientAccess, view: &ClusterView) -> Result<(), Error> {
    access.check_topic(AclOperation::Describe, WILDCARD_RESOURCE_NAME)?;
    let mut topics = view.topics().filter(|topic| !topic.record.internal);
    if topics.all(|topic| access.can_see_topic(&topic.record.name)) {
        return Ok(());
    }
    // Does not name the topic.
    let message = "a subscription by a regular expression needs DESCRIBE of all topics";
    Err(Error::new(ErrorCode::TopicAuthorizationFailed, message))
}

/// Returns what the client may do to a resource; one bit for each of Kafka's operations.
pub(super) fn authorized_operations(
    access: &ClientAccess,
    resource_type: AclResourceType,
    name: &str,
) -> i32 {
    let operations = resource_type.operations().iter();
    let allowed = operations.filter(|operation| access.allows(**operation, resource_type, name));
    allowed.fold(0, |bits, operation| bits | 1 << operation.code())
}

/// Returns what the client may do to the cluster: nothing is said to those who may not describe it.
pub(super) fn cluster_operations(access: &ClientAccess) -> i32 {
    match access.allows_cluster(AclOperation::Describe) {
        true => authorized_operations(access, AclResourceType::Cluster, CLUSTER_RESOURCE_NAME),
        false => 0,
    }
}

/// Returns what the client may do to a group if it asks, and if it may describe the group.
pub(super) fn group_operations(access: &ClientAccess, group_id: &str, is_asked: bool) -> i32 {
    let group = AclResourceType::Group;
    match is_asked && access.allows(AclOperation::Describe, group, group_id) {
        true => authorized_operations(access, group, group_id),
        false => OPERATIONS_NOT_ASKED,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use streamhouse_core::{settings::AgentSettings, time::system_entropy};

    use super::*;
    use crate::{metrics::AgentMetrics, security::ClientSecurity};

    #[test]
    fn without_authorization_clients_may_do_what_requests_can() {
        let settings = AgentSettings::defaults(true);
        let metrics = Arc::new(AgentMetrics::new().unwrap());
        let security = Arc::new(ClientSecurity::new(&settings, system_entropy(), metrics));
        let access = security.anonymous(None);
        let topic = authorized_operations(&access, AclResourceType::Topic, "t");
        assert_eq!(topic, 0b1101_1111_1000);
        assert_eq!(cluster_operations(&access), 0b1_1111_1010_0000);
        assert_eq!(group_operations(&access, "g", true), 0b1101_0100_1000);
        assert_eq!(group_operations(&access, "g", false), OPERATIONS_NOT_ASKED);
        check_all_topics(&access, &ClusterView::default()).unwrap();
    }
}
