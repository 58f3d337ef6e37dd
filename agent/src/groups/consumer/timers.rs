//! Timers: expired sessions, and members that do not give up partitions in time.

use super::{ConsumerGroup, MemberEntry, MemberId};

impl MemberEntry {
    fn due(&self) -> i64 {
        self.revoke_until
            .map_or(self.expires, |until| until.min(self.expires))
    }
}

impl ConsumerGroup {
    /// Applies everything that is due at `now`. Returns whether the group must be stored.
    pub fn expire(&mut self, now: i64) -> bool {
        let late = self.members.iter().filter(|(_, entry)| now >= entry.due());
        let gone: Vec<MemberId> = late.map(|(id, _)| id.clone()).collect();
        for id in &gone {
            self.remove_member(id);
        }
        if !gone.is_empty() {
            self.forget_subscriptions();
        }
        !gone.is_empty()
    }

    /// Returns when [`expire`](Self::expire) is due, provided that nothing else happens.
    pub fn deadline(&self) -> Option<i64> {
        self.members.values().map(MemberEntry::due).min()
    }
}
