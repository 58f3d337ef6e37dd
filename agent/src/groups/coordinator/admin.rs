//! Administrative requests: list, describe and delete groups, reset offsets.

use std::sync::Arc;

use streamhouse_core::{
    Error, ErrorCode,
    consumer_protocol::{ConsumerAssignment, ConsumerSubscription, PROTOCOL_TYPE},
    ids::TopicPartition,
    murmur2::group_slot,
    protocol::v1,
};
use streamhouse_metadata::{
    GROUP_SLOTS, GroupQuery, GroupWrite, OffsetCommit, OffsetToCommit, PersistedGroup,
};

use super::{
    GroupCoordinator,
    offsets::unexpected_failure,
    slot::{CoordinatorSlot, GroupEntry, GroupWriteError},
};
use crate::groups::{
    any_group::{AnyGroup, GroupType},
    consumer::{ConsumerGroupView, ConsumerMemberView, TopicCatalog},
    limits,
    state::{GroupView, MemberView},
};

impl GroupCoordinator {
    /// Lists every group of the cluster, by id. Any agent can answer: groups that it coordinates
    /// are listed with their current state, others with the state stored last.
    ///
    /// # Errors
    /// Fails if the metadata store does.
    pub async fn list_groups(&self) -> Result<v1::ListGroupsResponse, Error> {
        let records = self.deps().store.groups(&GroupQuery::All).await?;
        let groups = records.into_iter().map(|record| self.listing(&record)).collect();
        Ok(v1::ListGroupsResponse { groups })
    }

    fn listing(&self, record: &PersistedGroup) -> v1::GroupListing {
        let live = self
            .serving_slot(&record.group_id)
            .ok()
            .and_then(|slot| slot.find_entry(&record.group_id))
            .and_then(|cell| {
                let state = cell.state.try_lock().ok()?;
                state.group.clone()
            });
        let limits = &self.deps().limits;
        let group = live
            .map(Ok)
            .unwrap_or_else(|| AnyGroup::load(limits, record.generation, &record.state, 0));
        let (state, protocol_type, group_type) = match &group {
            Ok(AnyGroup::Classic(group)) => (
                group.state_name(),
                group.view().protocol_type.to_string(),
                GroupType::Classic,
            ),
            Ok(AnyGroup::Consumer(group)) => {
                (group.state_name(), PROTOCOL_TYPE.to_owned(), GroupType::Consumer)
            }
            Err(_) => ("Unknown", String::new(), GroupType::Classic),
        };
        let members = group.as_ref().map_or(0, AnyGroup::member_count);
        v1::GroupListing {
            group_id: record.group_id.clone(),
            state: state.to_owned(),
            protocol_type,
            members: u32::try_from(members).unwrap_or(u32::MAX),
            group_type: group_type.name().to_owned(),
        }
    }

    /// Describes a group with its members. A group with committed offsets only is Empty.
    ///
    /// # Errors
    /// NOT_COORDINATOR on other agents, GROUP_ID_NOT_FOUND if neither members nor offsets exist.
    pub async fn describe(&self, group_id: &str) -> Result<v1::GroupDescription, Error> {
        let group = self.read_group(group_id, AnyGroup::clone).await?;
        Ok(self.to_description(group_id, &group))
    }

    /// Describes a group of the consumer protocol with its members.
    ///
    /// # Errors
    /// NOT_COORDINATOR on other agents, GROUP_ID_NOT_FOUND if the group does not exist or is a
    /// classic one.
    pub async fn describe_consumer_group(&self, group_id: &str) -> Result<ConsumerGroupView, Error> {
        match self.read_group(group_id, AnyGroup::clone).await? {
            AnyGroup::Consumer(group) => Ok(group.view()),
            AnyGroup::Classic(_) => {
                let message = format!("Group {group_id} is not a consumer group.");
                Err(Error::new(ErrorCode::GroupIdNotFound, message))
            }
        }
    }

    /// Reads a group that this agent coordinates; one in memory is locked meanwhile.
    pub(super) async fn read_group<T>(
        &self,
        group_id: &str,
        read: impl FnOnce(&AnyGroup) -> T,
    ) -> Result<T, Error> {
        limits::check_group_id(group_id)?;
        let slot = self.serving_slot(group_id)?;
        if let Some(cell) = slot.find_entry(group_id) {
            let state = cell.state.lock().await;
            slot.ensure_serving()?;
            if let Some(group) = &state.group {
                return Ok(read(group));
            }
        }
        let record = self.read_stored(group_id).await?;
        let limits = &self.deps().limits;
        let group = AnyGroup::without_members(limits, record.generation, &record.state);
        Ok(read(&group))
    }

    /// Describes a group from any agent: like [`describe`](Self::describe) if this agent
    /// coordinates it, else from the state stored last.
    ///
    /// # Errors
    /// GROUP_ID_NOT_FOUND if the group does not exist; fails if the metadata store does.
    pub async fn describe_or_load(&self, group_id: &str) -> Result<v1::GroupDescription, Error> {
        match self.describe(group_id).await {
            Err(error)
                if matches!(
                    error.code(),
                    ErrorCode::NotCoordinator | ErrorCode::CoordinatorLoadInProgress
                ) => {}
            described => return described,
        }
        let record = self.read_stored(group_id).await?;
        let group = AnyGroup::load(&self.deps().limits, record.generation, &record.state, 0)?;
        Ok(self.to_description(group_id, &group))
    }

    /// Deletes a group without members, and its offsets.
    ///
    /// # Errors
    /// NON_EMPTY_GROUP while the group has members, GROUP_ID_NOT_FOUND if it does not exist.
    pub async fn delete(&self, group_id: &str) -> Result<(), Error> {
        limits::check_group_id(group_id)?;
        let slot = self.serving_slot(group_id)?;
        let record = self.read_stored(group_id).await?;
        let cell = slot.get_or_create_entry(group_id);
        tokio::spawn(async move { delete_locked(&slot, &cell, record.generation).await })
            .await
            .map_err(|_| unexpected_failure())?
    }

    /// Sets the offsets of a group without members; with `validate_only` only checks whether it
    /// could.
    ///
    /// # Errors
    /// NON_EMPTY_GROUP while the group has members. Each offset has a result of its own.
    pub async fn reset_offsets(
        &self,
        request: v1::ResetOffsetsRequest,
    ) -> Result<v1::ResetOffsetsResponse, Error> {
        limits::check_group_id(&request.group_id)?;
        let slot = self.serving_slot(&request.group_id)?;
        let resolved = self.resolve_offsets(&request.offsets).await?;
        let cell = slot.get_or_create_entry(&request.group_id);
        let offsets = if request.validate_only {
            Vec::new()
        } else {
            resolved.offsets_to_commit()
        };
        let reset = tokio::spawn(async move { reset_locked(&slot, &cell, offsets).await });
        let outcomes = reset.await.map_err(|_| unexpected_failure())??;
        Ok(v1::ResetOffsetsResponse {
            offsets: resolved.into_results(&outcomes),
        })
    }

    /// Returns the stored group.
    pub(super) async fn read_stored(&self, group_id: &str) -> Result<PersistedGroup, Error> {
        let records = self
            .deps()
            .store
            .groups(&GroupQuery::Id(group_id.to_owned()))
            .await?;
        let found = records.into_iter().next();
        found.ok_or_else(|| {
            Error::new(
                ErrorCode::GroupIdNotFound,
                format!("group {group_id:?} does not exist"),
            )
        })
    }

    fn to_description(&self, group_id: &str, group: &AnyGroup) -> v1::GroupDescription {
        let group_type = group.group_type();
        let view = match group {
            AnyGroup::Classic(group) => group.view(),
            AnyGroup::Consumer(group) => as_classic_view(group.view(), &*self.deps().cluster.catalog()),
        };
        v1::GroupDescription {
            group_type: group_type.name().to_owned(),
            group_id: group_id.to_owned(),
            state: view.state.to_owned(),
            generation: view.generation,
            protocol_type: view.protocol_type.to_string(),
            protocol_name: view.protocol.to_string(),
            leader: view.leader.to_string(),
            members: view.members.into_iter().map(to_group_member).collect(),
            coordinator: self.deps().cluster.coordinator(group_id),
        }
    }

    /// Returns whether this agent coordinates the group now.
    pub fn is_coordinator_of(&self, group_id: &str) -> bool {
        self.slots
            .read()
            .get(&group_slot(group_id, GROUP_SLOTS))
            .is_some_and(|slot| slot.ensure_serving().is_ok())
    }
}

fn to_group_member(view: MemberView) -> v1::GroupMember {
    v1::GroupMember {
        member_id: view.member_id.to_string(),
        group_instance_id: view.instance.as_deref().unwrap_or_default().to_owned(),
        client_id: view.client_id.to_string(),
        client_host: view.client_host.to_string(),
        metadata: view.metadata,
        assignment: view.assignment,
    }
}

/// Returns a group of the consumer protocol as a classic one: with subscriptions and assignments in
/// the bytes that classic members have.
fn as_classic_view(view: ConsumerGroupView, catalog: &dyn TopicCatalog) -> GroupView {
    let members = view.members.into_iter();
    GroupView {
        state: view.state,
        generation: view.epoch,
        protocol_type: PROTOCOL_TYPE.into(),
        protocol: view.assignor.into(),
        leader: "".into(),
        members: members.map(|member| as_classic_member(member, catalog)).collect(),
    }
}

fn as_classic_member(member: ConsumerMemberView, catalog: &dyn TopicCatalog) -> MemberView {
    let subscription = ConsumerSubscription {
        topics: member.topics.iter().map(|topic| topic.to_string()).collect(),
        ..ConsumerSubscription::default()
    };
    let assigned = member.assigned.iter();
    let assignment = ConsumerAssignment {
        partitions: assigned
            .filter_map(|(topic, partition)| {
                Some(TopicPartition::new(catalog.topic_name(*topic)?, *partition))
            })
            .collect(),
        user_data: None,
    };
    MemberView {
        member_id: member.member_id,
        instance: member.instance,
        client_id: member.client_id,
        client_host: member.client_host,
        metadata: subscription.encode(),
        assignment: assignment.encode(),
    }
}

pub(super) fn non_empty_group() -> Error {
    Error::new(
        ErrorCode::NonEmptyGroup,
        "the group has members; stop its consumers first",
    )
}

pub(super) fn into_client_error(error: GroupWriteError) -> Error {
    match error {
        GroupWriteError::Refused(error) => error,
        GroupWriteError::Generation { .. } => {
            Error::new(ErrorCode::RebalanceInProgress, "the group is changing; try again")
        }
    }
}

async fn delete_locked(
    slot: &Arc<CoordinatorSlot>,
    cell: &Arc<GroupEntry>,
    generation: i32,
) -> Result<(), Error> {
    let _no_commit = cell.commits.lock().await;
    let mut state = cell.state.lock().await;
    slot.ensure_serving()?;
    if state.group.as_ref().is_some_and(AnyGroup::has_members) {
        return Err(non_empty_group());
    }
    let group = GroupWrite {
        group_id: cell.id.to_string(),
        slot: slot.number,
        generation,
        state: None,
        has_members: false,
    };
    let deleted = slot
        .run_transaction(slot.shared.deps.store.put_group(slot.lease, &group))
        .await;
    deleted.map_err(into_client_error)?;
    // Also drops member ids that were issued and not used yet.
    state.set_group(None);
    Ok(())
}

async fn reset_locked(
    slot: &Arc<CoordinatorSlot>,
    cell: &Arc<GroupEntry>,
    offsets: Vec<OffsetToCommit>,
) -> Result<Vec<streamhouse_metadata::OffsetCommitOutcome>, Error> {
    let _no_commit = cell.commits.lock().await;
    // Held until the offsets are written, so that no member joins meanwhile and reads from the old
    // ones.
    let state = cell.state.lock().await;
    slot.ensure_serving()?;
    if state.group.as_ref().is_some_and(AnyGroup::has_members) {
        return Err(non_empty_group());
    }
    if offsets.is_empty() {
        return Ok(Vec::new());
    }
    let commit = OffsetCommit {
        group_id: cell.id.to_string(),
        slot: slot.number,
        generation: None,
        offsets,
    };
    slot.write_offsets(&commit).await.map_err(into_client_error)
}
