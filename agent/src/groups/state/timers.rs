//! Timers: expired sessions and deadlines of the rebalance.

use super::{ClassicGroup, GroupEffects, GroupPhase, MemberId};

impl ClassicGroup {
    /// Applies everything that is due at `now`.
    pub fn expire(&mut self, now: i64) -> GroupEffects {
        let mut effects = GroupEffects::default();
        self.pending_ids.retain(|_, until| now < *until);
        let late_to_sync = self.sync_until.is_some_and(|until| now >= until);
        if late_to_sync {
            self.sync_until = None;
        }
        let gone: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| {
                (now >= member.expires && !member.is_waiting()) || (late_to_sync && !member.synced)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in &gone {
            self.remove_member(id, &mut effects);
        }
        if !gone.is_empty() {
            self.rebalance_after_removal(now, &mut effects);
        } else if late_to_sync && self.phase == GroupPhase::Completing {
            // All members have asked, and there is no leader: happens only to a group stored
            // without one.
            self.start_rebalance(now, &mut effects);
        } else {
            self.try_complete_join(now, &mut effects);
        }
        effects
    }

    /// Returns when [`expire`](Self::expire) is due, provided that nothing else happens.
    pub fn deadline(&self) -> Option<i64> {
        let sessions = self
            .members
            .values()
            .filter(|member| !member.is_waiting())
            .map(|member| member.expires);
        let phase = match self.phase {
            GroupPhase::Preparing { not_before, until } => {
                let all = self.members.values().all(|member| member.joined) && self.pending_ids.is_empty();
                Some(if all { not_before.min(until) } else { until })
            }
            _ => None,
        };
        sessions
            .chain(self.pending_ids.values().copied())
            .chain(phase)
            .chain(self.sync_until)
            .min()
    }
}
