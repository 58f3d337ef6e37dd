//! Requests of members of the consumer protocol (KIP-848): heartbeats, and the right to fetch
//! offsets.

use std::sync::Arc;

use streamhouse_core::{Error, ErrorCode};
use tokio::sync::oneshot;

use super::{
    GroupCoordinator,
    change::AbsentGroup,
    slot::{CoordinatorSlot, GroupEntry},
};
use crate::groups::{
    any_group::{AnyGroup, persist_if},
    consumer::{HeartbeatReply, JOIN_EPOCH, MemberHeartbeat, TopicCatalog},
    limits,
    state::MemberId,
};

impl GroupCoordinator {
    /// Generates a member id for a client that has none.
    pub fn new_consumer_member_id(&self) -> MemberId {
        self.shared.new_member_id("member")
    }

    /// Returns how often members of the consumer protocol send heartbeats, in milliseconds.
    pub fn consumer_heartbeat_ms(&self) -> i32 {
        self.deps().limits.consumer_rules().heartbeat_ms
    }

    /// Processes a heartbeat of the consumer protocol: a member joins, stays or leaves.
    ///
    /// # Errors
    /// Those of Kafka's ConsumerGroupHeartbeat.
    pub async fn consumer_heartbeat(
        &self,
        group_id: &str,
        beat: MemberHeartbeat,
    ) -> Result<HeartbeatReply, Error> {
        limits::check_group_id(group_id)?;
        let beat = self.deps().limits.check_heartbeat(beat)?;
        let slot = self.serving_slot(group_id)?;
        if beat.epoch == JOIN_EPOCH {
            self.check_memory()?;
        }
        let catalog = self.catalog_for(&beat).await;
        if let Some(cell) = slot.find_entry(group_id)
            && let Some(reply) = self.extend_session(&slot, &cell, &beat, &*catalog).await?
        {
            return Ok(reply);
        }
        let cell = slot.get_or_create_entry(group_id);
        let limits = self.deps().limits;
        let (sender, mut reply) = oneshot::channel();
        let change = move |group: &mut AnyGroup, now| {
            let group = group.for_heartbeat(&limits, beat.epoch == JOIN_EPOCH)?;
            let outcome = group.heartbeat(now, &beat, &*catalog)?;
            // Received only if the change is stored.
            let _ = sender.send(outcome.reply);
            Ok(persist_if(outcome.persist))
        };
        let changed = slot.apply_change(&cell, AbsentGroup::Read, None, change).await;
        changed.map_err(as_heartbeat_error)?;
        reply
            .try_recv()
            .map_err(|_| Error::new(ErrorCode::Unknown, "a heartbeat has no reply; this is a bug"))
    }

    /// Processes a heartbeat that changes nothing, without a copy of the group.
    async fn extend_session(
        &self,
        slot: &Arc<CoordinatorSlot>,
        cell: &Arc<GroupEntry>,
        beat: &MemberHeartbeat,
        catalog: &dyn TopicCatalog,
    ) -> Result<Option<HeartbeatReply>, Error> {
        let mut state = cell.state.lock().await;
        slot.ensure_serving()?;
        let group = state.group.as_mut().and_then(AnyGroup::consumer);
        let now = self.shared.now_ms();
        // The timers may run for nothing at the old deadline, and find the new one.
        Ok(group.and_then(|group| group.extend_session(now, beat, catalog)))
    }

    /// Returns the topics, refreshed if the member subscribes to some that are not known.
    async fn catalog_for(&self, beat: &MemberHeartbeat) -> Arc<dyn TopicCatalog> {
        let cluster = &self.deps().cluster;
        let catalog = cluster.catalog();
        let mut topics = beat.topics.iter().flat_map(|topics| topics.iter());
        if topics.all(|topic| catalog.topic(topic).is_some()) {
            return catalog;
        }
        cluster.refresh().await;
        cluster.catalog()
    }

    /// Checks whether a member of a group of the consumer protocol may fetch its offsets. Groups
    /// of the classic protocol, and those that do not exist, let everybody.
    ///
    /// # Errors
    /// NOT_COORDINATOR on other agents, UNKNOWN_MEMBER_ID or STALE_MEMBER_EPOCH.
    pub async fn check_offset_fetch(&self, group_id: &str, member_id: &str, epoch: i32) -> Result<(), Error> {
        let check = |group: &AnyGroup| match group {
            AnyGroup::Consumer(group) => group.check_fetch(member_id, epoch),
            AnyGroup::Classic(_) => Ok(()),
        };
        match self.read_group(group_id, check).await {
            Ok(checked) => checked,
            Err(error) if error.code() == ErrorCode::GroupIdNotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Members of the consumer protocol do not know that a rebalance is in progress.
fn as_heartbeat_error(error: Error) -> Error {
    match error.code() {
        ErrorCode::RebalanceInProgress => Error::new(
            ErrorCode::CoordinatorNotAvailable,
            "the group is changing; try again",
        ),
        _ => error,
    }
}
