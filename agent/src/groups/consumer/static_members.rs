//! Leaving, and static members: their instance id outlives their member ids. One that leaves with
//! [`STATIC_LEAVE_EPOCH`] keeps its partitions until it returns or its session expires.

use std::sync::Arc;

use streamhouse_core::Error;

use super::{
    ConsumerGroup, ConsumerMember, JOIN_EPOCH, MemberId, MemberReconciliation, STATIC_LEAVE_EPOCH,
    errors::{fenced_instance, member_id_taken, unknown_instance, unknown_member, unreleased_instance},
    partitions::PartitionEpochs,
    request::{HeartbeatOutcome, HeartbeatReply, MemberHeartbeat, check_epoch},
};

impl ConsumerGroup {
    /// Finds the static member that a heartbeat is from, like
    /// [`find_member`](Self::find_member).
    pub(super) fn find_static_member(
        &self,
        beat: &MemberHeartbeat,
        instance: &Arc<str>,
    ) -> Result<Option<MemberId>, Error> {
        let holder = self.static_members.get(instance);
        let entry = holder.and_then(|holder| self.members.get(holder));
        let (Some(holder), Some(entry)) = (holder, entry) else {
            return match self.members.contains_key(&beat.member_id) {
                _ if beat.epoch != JOIN_EPOCH => Err(unknown_instance(instance)),
                true => Err(member_id_taken(&beat.member_id)),
                false => Ok(None),
            };
        };
        if beat.epoch == JOIN_EPOCH {
            // The member itself may join again: its first reply was lost, or it was fenced.
            let is_itself = *holder == beat.member_id;
            if entry.member.epoch != STATIC_LEAVE_EPOCH && !is_itself {
                return Err(unreleased_instance(instance));
            }
            if !is_itself && self.members.contains_key(&beat.member_id) {
                return Err(member_id_taken(&beat.member_id));
            }
            return Ok(Some(holder.clone()));
        }
        if *holder != beat.member_id {
            return Err(fenced_instance(instance));
        }
        check_epoch(&entry.member, beat)?;
        Ok(Some(holder.clone()))
    }

    /// Removes a member that leaves, or lets a static one go that returns.
    pub(super) fn leave(&mut self, beat: &MemberHeartbeat) -> Result<HeartbeatOutcome, Error> {
        let id = match &beat.instance {
            None => beat.member_id.clone(),
            Some(instance) => {
                let holder = self.static_members.get(instance);
                let holder = holder.cloned().ok_or_else(|| unknown_instance(instance))?;
                if holder != beat.member_id {
                    return Err(fenced_instance(instance));
                }
                holder
            }
        };
        let entry = self.members.get_mut(&id).ok_or_else(|| unknown_member(&id))?;
        if beat.epoch == STATIC_LEAVE_EPOCH && beat.instance.is_some() {
            entry.revoke_until = None;
            let member = Arc::make_mut(&mut entry.member);
            member.previous_epoch = member.epoch;
            member.epoch = STATIC_LEAVE_EPOCH;
            member.revoking = PartitionEpochs::new();
        } else {
            self.remove_member(&id);
            self.forget_subscriptions();
        }
        Ok(HeartbeatOutcome {
            persist: true,
            reply: HeartbeatReply {
                member_id: id,
                epoch: beat.epoch,
                assignment: None,
            },
        })
    }

    /// Removes a member for an administrator: by its id or, if that is empty, its instance id.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID if there is no such member, FENCED_INSTANCE_ID if another one has the
    /// instance id.
    pub fn remove(&mut self, member_id: &str, instance: Option<&str>) -> Result<(), Error> {
        let holder = match instance {
            None => None,
            Some(instance) => {
                let holder = self.static_members.get(instance);
                let holder = holder.cloned().ok_or_else(|| unknown_instance(instance))?;
                if !member_id.is_empty() && *holder != *member_id {
                    return Err(fenced_instance(instance));
                }
                Some(holder)
            }
        };
        let id = holder.unwrap_or_else(|| member_id.into());
        if !self.members.contains_key(&id) {
            return Err(unknown_member(&id));
        }
        self.remove_member(&id);
        self.forget_subscriptions();
        Ok(())
    }
}

/// Returns a static member as it is when it returns: it joins anew, and has what it had.
pub(super) fn returning_member(member: &ConsumerMember) -> ConsumerMember {
    ConsumerMember {
        epoch: JOIN_EPOCH,
        previous_epoch: JOIN_EPOCH,
        reconciliation: MemberReconciliation::Stable,
        ..member.clone()
    }
}
