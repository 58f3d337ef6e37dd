//! Syncing: the leader provides the assignments, and every member gets its own.

use std::collections::HashMap;

use bytes::Bytes;
use streamhouse_core::{Error, ErrorCode};

use super::{
    ClassicGroup, GroupEffects, GroupPhase, GroupReply, ReplyTicket, SyncReply,
    errors::{illegal_generation, rebalance_in_progress, unknown_member},
};

impl ClassicGroup {
    /// Processes a sync: a member asks for its assignment; the leader provides all of them.
    pub fn sync(
        &mut self,
        now: i64,
        generation: i32,
        member_id: &str,
        instance: Option<&str>,
        assignments: Vec<(String, Bytes)>,
        ticket: ReplyTicket,
    ) -> GroupEffects {
        let mut effects = GroupEffects::default();
        if let Err(error) = self.check_sync(generation, member_id, instance, &assignments) {
            effects.refuse(ticket, error);
            return effects;
        }
        self.extend_session(now, member_id);
        let leads = self.leader.as_deref() == Some(member_id);
        if let Some(member) = self.members.get_mut(member_id) {
            member.synced = true;
            if let Some(stale) = member.syncing.replace(ticket) {
                effects.refuse(stale, rebalance_in_progress());
            }
        }
        match self.phase {
            GroupPhase::Completing if leads => self.set_assignments(now, assignments, &mut effects),
            GroupPhase::Stable => self.answer_syncs(now, &mut effects),
            _ => {}
        }
        effects
    }

    fn check_sync(
        &self,
        generation: i32,
        member_id: &str,
        instance: Option<&str>,
        assignments: &[(String, Bytes)],
    ) -> Result<(), Error> {
        self.check_member(member_id, instance)?;
        if generation != self.generation {
            return Err(illegal_generation(generation, self.generation));
        }
        let bytes: usize = assignments.iter().map(|(_, assignment)| assignment.len()).sum();
        match self.phase {
            GroupPhase::Preparing { .. } => Err(rebalance_in_progress()),
            GroupPhase::Empty | GroupPhase::Dead => Err(unknown_member()),
            GroupPhase::Completing if bytes > self.rules.max_bytes => Err(Error::new(
                ErrorCode::MessageTooLarge,
                format!(
                    "the assignments have {bytes} bytes in total; the limit is {}",
                    self.rules.max_bytes
                ),
            )),
            GroupPhase::Completing | GroupPhase::Stable => Ok(()),
        }
    }

    fn set_assignments(&mut self, now: i64, assignments: Vec<(String, Bytes)>, effects: &mut GroupEffects) {
        let mut assignments: HashMap<String, Bytes> = assignments.into_iter().collect();
        for (id, member) in &mut self.members {
            member.assignment = assignments.remove(&**id).unwrap_or_default();
        }
        self.phase = GroupPhase::Stable;
        effects.persist = true;
        self.answer_syncs(now, effects);
    }

    fn answer_syncs(&mut self, now: i64, effects: &mut GroupEffects) {
        for member in self.members.values_mut() {
            if let Some(ticket) = member.syncing.take() {
                member.expires = now.saturating_add(member.session_ms);
                let synced = SyncReply {
                    assignment: member.assignment.clone(),
                    protocol: self.protocol.clone(),
                };
                effects.answer(ticket, GroupReply::Synced(synced));
            }
        }
        if self.members.values().all(|member| member.synced) {
            self.sync_until = None;
        }
    }
}
