//! Heartbeats: a member joins, stays, changes its subscription, or leaves, and learns its epoch and
//! its assignment.

use std::sync::Arc;

use streamhouse_core::Error;

use super::{
    ConsumerGroup, ConsumerMember, JOIN_EPOCH, MemberEntry, MemberId, STATIC_LEAVE_EPOCH,
    catalog::TopicCatalog,
    errors::{group_full, unknown_member},
    partitions::PartitionEpochs,
    reconcile::ReconcileContext,
    request::{HeartbeatOutcome, HeartbeatReply, MemberHeartbeat, check_epoch},
    static_members::returning_member,
};

impl ConsumerGroup {
    /// Processes a heartbeat.
    ///
    /// # Errors
    /// Those of Kafka's ConsumerGroupHeartbeat; nothing has changed then.
    pub fn heartbeat(
        &mut self,
        now: i64,
        beat: &MemberHeartbeat,
        catalog: &dyn TopicCatalog,
    ) -> Result<HeartbeatOutcome, Error> {
        if beat.is_leave() {
            return self.leave(beat);
        }
        let known = self.find_member(beat)?;
        self.check_capacity(beat, known.as_ref())?;
        let before = self.member_before(beat, known.as_ref());
        let updated = beat.update(&before);
        if let Some(pattern) = updated
            .pattern
            .as_ref()
            .filter(|pattern| before.pattern.as_ref() != Some(*pattern))
        {
            self.patterns.add(now, pattern, catalog)?;
        }
        // Nothing fails from here on.
        let repatterned = updated.pattern != before.pattern;
        let resubscribed = updated.topics != before.topics || repatterned;
        let mut persist = self.put_member(now, beat, known.as_ref(), updated);
        if repatterned {
            self.retain_patterns();
        }
        let mut moved = resubscribed || self.epoch == 0;
        if moved || self.has_outdated_topics(now, catalog) {
            moved |= self.refresh_topics(now, catalog);
        }
        if moved {
            self.raise_epoch();
        }
        persist |= moved;
        persist |= self.update_targets(now);
        let owned = beat.owned.as_ref();
        let context = ReconcileContext { owned, resubscribed };
        persist |= self.reconcile(now, &beat.member_id, context);
        Ok(HeartbeatOutcome {
            persist,
            reply: self.reply(beat, &before),
        })
    }

    /// Processes a heartbeat that changes nothing but the member's session. Returns `None`, and
    /// changes nothing, if it is not such a heartbeat.
    pub fn extend_session(
        &mut self,
        now: i64,
        beat: &MemberHeartbeat,
        catalog: &dyn TopicCatalog,
    ) -> Option<HeartbeatReply> {
        if self.epoch > self.assignment_epoch || self.has_outdated_topics(now, catalog) {
            return None;
        }
        let entry = self.members.get(&beat.member_id)?;
        let is_current = beat.epoch > 0 && beat.epoch == entry.member.epoch;
        let steady = is_current
            && (beat.instance.is_none() || entry.member.instance == beat.instance)
            && entry.member.is_reconciled_to(self.assignment_epoch)
            && beat.update(&entry.member) == *entry.member;
        if !steady {
            return None;
        }
        let before = entry.member.clone();
        self.start_session(now, &beat.member_id);
        Some(self.reply(beat, &before))
    }

    fn reply(&self, beat: &MemberHeartbeat, before: &ConsumerMember) -> HeartbeatReply {
        let member = self.members.get(&beat.member_id).map(|entry| &entry.member);
        let assigned = member.map(|member| &member.assigned);
        let changed = |assigned: &PartitionEpochs| !assigned.keys().eq(before.assigned.keys());
        HeartbeatReply {
            member_id: beat.member_id.clone(),
            epoch: member.map_or(beat.epoch, |member| member.epoch),
            assignment: assigned
                .filter(|assigned| beat.is_full() || changed(assigned))
                .map(|assigned| assigned.keys().copied().collect()),
        }
    }

    /// Returns the member as it is before the heartbeat; a new one has nothing.
    fn member_before(&self, beat: &MemberHeartbeat, known: Option<&MemberId>) -> Arc<ConsumerMember> {
        match known.and_then(|id| self.members.get(id)) {
            Some(entry) if entry.member.epoch == STATIC_LEAVE_EPOCH => {
                Arc::new(returning_member(&entry.member))
            }
            Some(entry) => entry.member.clone(),
            None => {
                let (client_id, host) = (beat.client_id.clone(), beat.client_host.clone());
                Arc::new(ConsumerMember::new(client_id, host))
            }
        }
    }

    /// Finds the member that a heartbeat is from: `None` for a new one. Of a static member that
    /// returns it is the member that was away.
    fn find_member(&self, beat: &MemberHeartbeat) -> Result<Option<MemberId>, Error> {
        if let Some(instance) = &beat.instance {
            return self.find_static_member(beat, instance);
        }
        match self.members.get(&beat.member_id) {
            Some(entry) => {
                check_epoch(&entry.member, beat)?;
                Ok(Some(beat.member_id.clone()))
            }
            None if beat.epoch == JOIN_EPOCH => Ok(None),
            None => Err(unknown_member(&beat.member_id)),
        }
    }

    fn check_capacity(&self, beat: &MemberHeartbeat, known: Option<&MemberId>) -> Result<(), Error> {
        if known.is_none() && self.members.len() >= self.rules.max_members {
            return Err(group_full("members", self.rules.max_members));
        }
        if beat.topics.is_none() && beat.pattern.is_none() {
            return Ok(());
        }
        let topics: usize = beat
            .topics
            .iter()
            .flat_map(|topics| topics.iter())
            .map(|topic| topic.len())
            .sum();
        let bytes = topics + beat.pattern.as_ref().map_or(0, |pattern| pattern.len());
        let others = self.subscription_bytes(known.unwrap_or(&beat.member_id));
        if bytes.saturating_add(others) > self.rules.max_bytes {
            return Err(group_full("bytes of subscriptions", self.rules.max_bytes));
        }
        Ok(())
    }

    /// Puts the updated member in place, under the id that it has now, and starts its session.
    /// Returns whether it has changed.
    fn put_member(
        &mut self,
        now: i64,
        beat: &MemberHeartbeat,
        known: Option<&MemberId>,
        updated: ConsumerMember,
    ) -> bool {
        let changed = match known {
            Some(id) if *id == beat.member_id => self.set_member(id, updated),
            other => {
                if let Some(old) = other {
                    // Its partitions and its place pass to the new id: no rebalance.
                    self.members.remove(old);
                }
                let entry = MemberEntry {
                    member: Arc::new(updated),
                    expires: now,
                    revoke_until: None,
                };
                self.members.insert(beat.member_id.clone(), entry);
                true
            }
        };
        if let Some(instance) = &beat.instance {
            self.static_members
                .insert(instance.clone(), beat.member_id.clone());
        }
        self.start_session(now, &beat.member_id);
        changed
    }

    fn start_session(&mut self, now: i64, id: &MemberId) {
        let until = now.saturating_add(self.rules.session_ms);
        if let Some(entry) = self.members.get_mut(id) {
            entry.expires = until;
        }
    }
}
