//! Requests of group members: join, sync, heartbeat, leave.

use std::sync::Arc;

use streamhouse_core::{Error, ErrorCode, protocol::v1};
use tokio::sync::oneshot;

use super::{
    GroupCoordinator,
    change::{AbsentGroup, ReplyWaiter},
    not_coordinator,
    slot::{CoordinatorSlot, GroupEntry},
};
use crate::groups::{
    any_group::AnyGroup,
    limits,
    state::{GroupReply, JoinReply, ReplyTicket},
};

/// The outcome of a join.
#[derive(Debug, Clone, PartialEq)]
pub enum JoinOutcome {
    /// The member joined a generation.
    Joined(v1::JoinGroupResponse),
    /// The member must join again with this id (MEMBER_ID_REQUIRED).
    IdRequired(String),
}

impl GroupCoordinator {
    /// Joins a group and waits until the rebalance completes. With `require_known_member_id` a new
    /// dynamic member only gets its id and must join again with it, as in Kafka's JoinGroup from
    /// version 4 on.
    ///
    /// # Errors
    /// Those of Kafka's JoinGroup; RESOURCE_EXHAUSTED if the groups take all of their memory.
    pub async fn join(
        &self,
        request: v1::JoinGroupRequest,
        client_host: &str,
        require_known_member_id: bool,
    ) -> Result<JoinOutcome, Error> {
        let group_id = request.group_id.clone();
        let join = self.deps().limits.parse_join(request, client_host)?;
        let slot = self.serving_slot(&group_id)?;
        self.check_memory()?;
        let prefix = join.instance.as_ref().unwrap_or(&join.client_id);
        let fresh = self
            .shared
            .new_member_id(if prefix.is_empty() { "member" } else { prefix });
        let cell = slot.get_or_create_entry(&group_id);
        let (waiting, waiter) = PendingReply::channel(&slot, &cell, self.shared.next_ticket());
        let ticket = waiter.0;
        let limits = self.deps().limits;
        let change = move |group: &mut AnyGroup, now| {
            let group = group.for_join(&limits)?;
            Ok(group.join(now, join, fresh, require_known_member_id, ticket))
        };
        slot.apply_change(&cell, AbsentGroup::Read, Some(waiter), change)
            .await?;
        match waiting.wait().await? {
            GroupReply::Joined(joined) => Ok(JoinOutcome::Joined(to_join_response(joined))),
            GroupReply::IdRequired(id) => Ok(JoinOutcome::IdRequired(id.to_string())),
            GroupReply::Synced(_) => Err(Error::new(
                ErrorCode::Unknown,
                "a join received the reply to a sync; this is a bug",
            )),
        }
    }

    /// Takes the assignments from the leader, and waits for the assignment of the caller.
    ///
    /// # Errors
    /// Those of Kafka's SyncGroup; MESSAGE_TOO_LARGE if the assignments exceed their limit.
    pub async fn sync(&self, request: v1::SyncGroupRequest) -> Result<v1::SyncGroupResponse, Error> {
        let (slot, cell) = self.find_member_entry(&request.group_id)?;
        limits::parse_instance_id(&request.group_instance_id)?;
        let (waiting, waiter) = PendingReply::channel(&slot, &cell, self.shared.next_ticket());
        let ticket = waiter.0;
        let change = move |group: &mut AnyGroup, now| {
            let group = group.classic().ok_or_else(unknown_member)?;
            let given = request
                .assignments
                .into_iter()
                .map(|given| (given.member_id, given.assignment))
                .collect();
            let instance = Some(request.group_instance_id.as_str()).filter(|instance| !instance.is_empty());
            Ok(group.sync(
                now,
                request.generation,
                &request.member_id,
                instance,
                given,
                ticket,
            ))
        };
        slot.apply_change(&cell, AbsentGroup::Empty, Some(waiter), change)
            .await?;
        match waiting.wait().await? {
            GroupReply::Synced(synced) => Ok(v1::SyncGroupResponse {
                assignment: synced.assignment,
                protocol_name: synced.protocol.to_string(),
            }),
            _ => Err(Error::new(
                ErrorCode::Unknown,
                "a sync received the reply to a join; this is a bug",
            )),
        }
    }

    /// Extends a member's session.
    ///
    /// # Errors
    /// REBALANCE_IN_PROGRESS asks the member to join again; else those of Kafka's Heartbeat.
    pub async fn heartbeat(&self, request: &v1::HeartbeatRequest) -> Result<(), Error> {
        let (slot, cell) = self.find_member_entry(&request.group_id)?;
        let instance = limits::parse_instance_id(&request.group_instance_id)?;
        let mut state = cell.state.lock().await;
        slot.ensure_serving()?;
        let group = state.group.as_mut().and_then(AnyGroup::classic);
        group.ok_or_else(unknown_member)?.heartbeat(
            self.shared.now_ms(),
            request.generation,
            &request.member_id,
            instance,
        )
    }

    /// Removes a member from its group.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID or FENCED_INSTANCE_ID if it is not a member.
    pub async fn leave(&self, request: v1::LeaveGroupRequest) -> Result<(), Error> {
        let (slot, cell) = self.find_member_entry(&request.group_id)?;
        limits::parse_instance_id(&request.group_instance_id)?;
        let change = move |group: &mut AnyGroup, now| {
            let instance = Some(request.group_instance_id.as_str()).filter(|instance| !instance.is_empty());
            group.leave(now, &request.member_id, instance)
        };
        slot.apply_change(&cell, AbsentGroup::Empty, None, change).await
    }

    /// Finds the entry of a group that the caller claims to be a member of.
    fn find_member_entry(&self, group_id: &str) -> Result<(Arc<CoordinatorSlot>, Arc<GroupEntry>), Error> {
        limits::check_group_id(group_id)?;
        let slot = self.serving_slot(group_id)?;
        let cell = slot.find_entry(group_id).ok_or_else(unknown_member)?;
        Ok((slot, cell))
    }

    pub(super) fn check_memory(&self) -> Result<(), Error> {
        let limit = self.deps().limits.max_total_bytes;
        if self.memory_bytes() < limit {
            return Ok(());
        }
        let message = format!("the groups of this agent use all of their {limit} bytes; try again later");
        Err(Error::new(ErrorCode::ResourceExhausted, message).with_retry_after_ms(1_000))
    }
}

pub(super) fn unknown_member() -> Error {
    Error::new(
        ErrorCode::UnknownMemberId,
        "the group does not know this member; join again without a member id",
    )
}

fn to_join_response(joined: JoinReply) -> v1::JoinGroupResponse {
    let members = joined.members.into_iter().map(|member| v1::JoinedMember {
        member_id: member.member_id.to_string(),
        group_instance_id: member.instance.as_deref().unwrap_or_default().to_owned(),
        metadata: member.metadata,
    });
    v1::JoinGroupResponse {
        generation: joined.generation,
        protocol_type: joined.protocol_type.to_string(),
        protocol_name: joined.protocol.to_string(),
        leader: joined.leader.to_string(),
        member_id: joined.member_id.to_string(),
        members: members.collect(),
    }
}

/// A call that waits for its reply. Dropped before the reply, it wakes the ticker to withdraw the
/// ticket.
struct PendingReply {
    slot: Arc<CoordinatorSlot>,
    cell: Arc<GroupEntry>,
    answer: oneshot::Receiver<Result<GroupReply, Error>>,
    answered: bool,
}

impl PendingReply {
    fn channel(
        slot: &Arc<CoordinatorSlot>,
        cell: &Arc<GroupEntry>,
        ticket: ReplyTicket,
    ) -> (Self, ReplyWaiter) {
        let (sender, answer) = oneshot::channel();
        (
            Self {
                slot: slot.clone(),
                cell: cell.clone(),
                answer,
                answered: false,
            },
            (ticket, sender),
        )
    }

    async fn wait(mut self) -> Result<GroupReply, Error> {
        let answer = tokio::select! {
            biased;
            answer = &mut self.answer => answer.unwrap_or_else(|_| Err(not_coordinator())),
            () = self.slot.retired.cancelled() => self.take_last_reply().await,
        };
        self.answered = true;
        answer
    }

    /// Takes the last possible reply after the slot was retired. A change that is just being stored
    /// may still reply: a new member that took part in it must learn its id, or the next
    /// coordinator would wait for it.
    async fn take_last_reply(&mut self) -> Result<GroupReply, Error> {
        drop(self.cell.state.lock().await);
        self.answer.try_recv().unwrap_or_else(|_| Err(not_coordinator()))
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        if !self.answered {
            self.answer.close();
            self.slot.set_due(&self.cell, 0);
        }
    }
}
