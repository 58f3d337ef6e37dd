//! Administrative requests: list, describe and delete groups, reset offsets.

use std::sync::Arc;

use streamhouse_core::{Error, ErrorCode, murmur2::group_slot, protocol::v1};
use streamhouse_metadata::{GROUP_SLOTS, GroupQuery, GroupRecord, GroupWrite, OffsetToCommit};

use super::{
    Coordinator,
    offsets::unexpected,
    slot::{Cell, Slot, WriteError},
};
use crate::groups::{
    limits,
    state::{Group, GroupView, MemberView},
};

impl Coordinator {
    /// Lists every group of the cluster, by id. Any agent can answer: groups that it coordinates
    /// are listed with their current state, others with the state stored last.
    ///
    /// # Errors
    /// Fails if the metadata store does.
    pub async fn list_groups(&self) -> Result<v1::ListGroupsResponse, Error> {
        let records = self.parts().store.groups(&GroupQuery::All).await?;
        let groups = records.into_iter().map(|record| self.listing(&record)).collect();
        Ok(v1::ListGroupsResponse { groups })
    }

    fn listing(&self, record: &GroupRecord) -> v1::GroupListing {
        let live = self
            .slot(&record.group_id)
            .ok()
            .and_then(|slot| slot.find(&record.group_id))
            .and_then(|cell| {
                let state = cell.state.try_lock().ok()?;
                state.group.as_ref().map(Group::view)
            });
        let view = live.map(Ok).unwrap_or_else(|| {
            let rules = self.parts().limits.rules();
            Group::load(rules, record.generation, &record.state, 0).map(|group| group.view())
        });
        let (state, protocol_type, members) = match view {
            Ok(view) => (view.state, view.protocol_type.to_string(), view.members.len()),
            Err(_) => ("Unknown", String::new(), 0),
        };
        v1::GroupListing {
            group_id: record.group_id.clone(),
            state: state.to_owned(),
            protocol_type,
            members: u32::try_from(members).unwrap_or(u32::MAX),
        }
    }

    /// Describes a group with its members. A group with committed offsets only is Empty.
    ///
    /// # Errors
    /// NOT_COORDINATOR on other agents, GROUP_ID_NOT_FOUND if neither members nor offsets exist.
    pub async fn describe(&self, group_id: &str) -> Result<v1::GroupDescription, Error> {
        limits::group_id(group_id)?;
        let slot = self.slot(group_id)?;
        if let Some(cell) = slot.find(group_id) {
            let state = cell.state.lock().await;
            slot.check()?;
            if let Some(group) = &state.group {
                return Ok(self.description(group_id, group.view()));
            }
        }
        let record = self.stored(group_id).await?;
        let empty = Group::new(self.parts().limits.rules(), record.generation);
        Ok(self.description(group_id, empty.view()))
    }

    /// Describes a group from any agent: like [`describe`](Self::describe) if this agent
    /// coordinates it, else from the state stored last.
    ///
    /// # Errors
    /// GROUP_ID_NOT_FOUND if the group does not exist; fails if the metadata store does.
    pub async fn look(&self, group_id: &str) -> Result<v1::GroupDescription, Error> {
        match self.describe(group_id).await {
            Err(error)
                if matches!(
                    error.code(),
                    ErrorCode::NotCoordinator | ErrorCode::CoordinatorLoadInProgress
                ) => {}
            described => return described,
        }
        let record = self.stored(group_id).await?;
        let group = Group::load(self.parts().limits.rules(), record.generation, &record.state, 0)?;
        Ok(self.description(group_id, group.view()))
    }

    /// Deletes a group without members, and its offsets.
    ///
    /// # Errors
    /// NON_EMPTY_GROUP while the group has members, GROUP_ID_NOT_FOUND if it does not exist.
    pub async fn delete(&self, group_id: &str) -> Result<(), Error> {
        limits::group_id(group_id)?;
        let slot = self.slot(group_id)?;
        let record = self.stored(group_id).await?;
        let cell = slot.cell(group_id);
        tokio::spawn(async move { delete(&slot, &cell, record.generation).await })
            .await
            .map_err(|_| unexpected())?
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
        limits::group_id(&request.group_id)?;
        let slot = self.slot(&request.group_id)?;
        let resolved = self.resolve(&request.offsets).await?;
        let cell = slot.cell(&request.group_id);
        let offsets = if request.validate_only {
            Vec::new()
        } else {
            resolved.to_commit()
        };
        let reset = tokio::spawn(async move { reset(&slot, &cell, offsets).await });
        let outcomes = reset.await.map_err(|_| unexpected())??;
        Ok(v1::ResetOffsetsResponse {
            offsets: resolved.finish(&outcomes),
        })
    }

    async fn stored(&self, group_id: &str) -> Result<GroupRecord, Error> {
        let records = self
            .parts()
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

    fn description(&self, group_id: &str, view: GroupView) -> v1::GroupDescription {
        v1::GroupDescription {
            group_id: group_id.to_owned(),
            state: view.state.to_owned(),
            generation: view.generation,
            protocol_type: view.protocol_type.to_string(),
            protocol_name: view.protocol.to_string(),
            leader: view.leader.to_string(),
            members: view.members.into_iter().map(member).collect(),
            coordinator: self.parts().cluster.coordinator(group_id),
        }
    }

    /// Returns whether this agent coordinates the group now.
    pub fn coordinates(&self, group_id: &str) -> bool {
        self.slots
            .read()
            .get(&group_slot(group_id, GROUP_SLOTS))
            .is_some_and(|slot| slot.check().is_ok())
    }
}

fn member(view: MemberView) -> v1::GroupMember {
    v1::GroupMember {
        member_id: view.member_id.to_string(),
        group_instance_id: view.instance.as_deref().unwrap_or_default().to_owned(),
        client_id: view.client_id.to_string(),
        client_host: view.client_host.to_string(),
        metadata: view.metadata,
        assignment: view.assignment,
    }
}

fn non_empty() -> Error {
    Error::new(
        ErrorCode::NonEmptyGroup,
        "the group has members; stop its consumers first",
    )
}

fn for_client(error: WriteError) -> Error {
    match error {
        WriteError::Refused(error) => error,
        WriteError::Generation { .. } => {
            Error::new(ErrorCode::RebalanceInProgress, "the group is changing; try again")
        }
    }
}

async fn delete(slot: &Arc<Slot>, cell: &Arc<Cell>, generation: i32) -> Result<(), Error> {
    let _no_commit = cell.commits.lock().await;
    let mut state = cell.state.lock().await;
    slot.check()?;
    if state.group.as_ref().is_some_and(Group::has_members) {
        return Err(non_empty());
    }
    let group = GroupWrite {
        group_id: cell.id.to_string(),
        slot: slot.number,
        generation,
        state: None,
    };
    let deleted = slot
        .write(slot.shared.parts.store.put_group(slot.lease, &group))
        .await;
    deleted.map_err(for_client)?;
    // Also drops member ids that were issued and not used yet.
    state.put(None);
    Ok(())
}

async fn reset(
    slot: &Arc<Slot>,
    cell: &Arc<Cell>,
    offsets: Vec<OffsetToCommit>,
) -> Result<Vec<streamhouse_metadata::OffsetOutcome>, Error> {
    let _no_commit = cell.commits.lock().await;
    // Held until the offsets are written, so that no member joins meanwhile and reads from the old
    // ones.
    let state = cell.state.lock().await;
    slot.check()?;
    if state.group.as_ref().is_some_and(Group::has_members) {
        return Err(non_empty());
    }
    if offsets.is_empty() {
        return Ok(Vec::new());
    }
    slot.commit(&cell.id, None, offsets).await.map_err(for_client)
}
