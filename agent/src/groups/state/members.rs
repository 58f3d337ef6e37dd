//! Requests of members between rebalances: heartbeats, commits, leaving.

use streamhouse_core::Error;

use super::{
    ClassicGroup, GroupEffects, GroupPhase, MemberId, ReplyTicket,
    errors::{fenced_instance, illegal_generation, rebalance_in_progress, unknown_member},
};

impl ClassicGroup {
    /// Checks that the member exists and that its instance id is not taken by another one.
    pub(super) fn check_member(&self, member_id: &str, instance: Option<&str>) -> Result<(), Error> {
        if self.phase == GroupPhase::Dead {
            return Err(unknown_member());
        }
        match instance.map(|instance| self.static_members.get(instance)) {
            Some(None) => return Err(unknown_member()),
            Some(Some(holder)) if **holder != *member_id => return Err(fenced_instance()),
            _ => {}
        }
        if self.members.contains_key(member_id) {
            Ok(())
        } else {
            Err(unknown_member())
        }
    }

    /// Extends the session of a member.
    pub(super) fn extend_session(&mut self, now: i64, id: &str) {
        if let Some(member) = self.members.get_mut(id) {
            member.expires = now.saturating_add(member.session_ms);
        }
    }

    /// Processes a heartbeat.
    ///
    /// # Errors
    /// REBALANCE_IN_PROGRESS asks the member to join again; UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID
    /// or ILLEGAL_GENERATION if it is no current member.
    pub fn heartbeat(
        &mut self,
        now: i64,
        generation: i32,
        member_id: &str,
        instance: Option<&str>,
    ) -> Result<(), Error> {
        self.check_member(member_id, instance)?;
        if generation != self.generation {
            return Err(illegal_generation(generation, self.generation));
        }
        self.extend_session(now, member_id);
        if matches!(self.phase, GroupPhase::Preparing { .. }) {
            Err(rebalance_in_progress())
        } else {
            Ok(())
        }
    }

    /// Checks whether a member may commit, and returns the generation that the store must check
    /// again: `None` for a consumer without membership, which may commit while the group has no
    /// members.
    ///
    /// # Errors
    /// Those of [`heartbeat`](Self::heartbeat).
    pub fn check_commit(
        &mut self,
        now: i64,
        generation: i32,
        member_id: &str,
        instance: Option<&str>,
    ) -> Result<Option<i32>, Error> {
        if generation < 0 && member_id.is_empty() && instance.is_none() && self.members.is_empty() {
            return if self.phase == GroupPhase::Dead {
                Err(unknown_member())
            } else {
                Ok(None)
            };
        }
        self.check_member(member_id, instance)?;
        if generation != self.generation {
            return Err(illegal_generation(generation, self.generation));
        }
        self.extend_session(now, member_id);
        // The member does not know its partitions in this generation yet: what it read belongs to
        // the one before.
        if self.phase == GroupPhase::Completing {
            Err(rebalance_in_progress())
        } else {
            Ok(Some(generation))
        }
    }

    /// Removes a member that leaves. With an empty `member_id` the member with the instance id is
    /// removed.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID or FENCED_INSTANCE_ID if there is no such member.
    pub fn leave(
        &mut self,
        now: i64,
        member_id: &str,
        instance: Option<&str>,
    ) -> Result<GroupEffects, Error> {
        let mut effects = GroupEffects::default();
        if self.pending_ids.remove(member_id).is_some() {
            self.try_complete_join(now, &mut effects);
            return Ok(effects);
        }
        let id: MemberId = match instance.filter(|_| member_id.is_empty()) {
            Some(instance) => self
                .static_members
                .get(instance)
                .cloned()
                .ok_or_else(unknown_member)?,
            None => {
                self.check_member(member_id, instance)?;
                member_id.into()
            }
        };
        self.remove_member(&id, &mut effects);
        self.rebalance_after_removal(now, &mut effects);
        Ok(effects)
    }

    /// Removes a member and refuses its pending calls.
    pub(super) fn remove_member(&mut self, id: &MemberId, effects: &mut GroupEffects) {
        let Some(member) = self.members.remove(id) else {
            return;
        };
        if let Some(instance) = &member.instance {
            self.static_members.remove(instance);
        }
        if self.leader.as_ref() == Some(id) {
            self.leader = None;
        }
        for ticket in [member.joining, member.syncing].into_iter().flatten() {
            effects.refuse(ticket, unknown_member());
        }
    }

    /// Rebalances after a removal. The removal is persisted, or the next coordinator would wait for
    /// the member to join again.
    pub(super) fn rebalance_after_removal(&mut self, now: i64, effects: &mut GroupEffects) {
        effects.persist = true;
        match self.phase {
            GroupPhase::Preparing { .. } => self.try_complete_join(now, effects),
            GroupPhase::Completing | GroupPhase::Stable => self.start_rebalance(now, effects),
            GroupPhase::Empty | GroupPhase::Dead => {}
        }
    }

    /// Withdraws a ticket whose call was cancelled or whose connection broke.
    pub fn withdraw(&mut self, now: i64, ticket: ReplyTicket) -> GroupEffects {
        let mut effects = GroupEffects::default();
        let holds =
            |member: &super::MemberState| member.joining == Some(ticket) || member.syncing == Some(ticket);
        let Some(id) = self
            .members
            .iter()
            .find(|(_, member)| holds(member))
            .map(|(id, _)| id.clone())
        else {
            return effects;
        };
        let Some(member) = self.members.get_mut(&id) else {
            return effects;
        };
        let joining = member.joining == Some(ticket);
        member.joining = member.joining.filter(|held| *held != ticket);
        member.syncing = member.syncing.filter(|held| *held != ticket);
        member.expires = now.saturating_add(member.session_ms);
        // A dynamic client that never learned its id cannot return as this member; a static one
        // returns by its instance id.
        if joining && member.id_unconfirmed && member.instance.is_none() {
            self.remove_member(&id, &mut effects);
            self.rebalance_after_removal(now, &mut effects);
        }
        effects
    }
}
