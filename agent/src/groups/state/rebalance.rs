//! The rebalance: starting and completing it, selecting the protocol and the leader.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{
    ClassicGroup, GroupEffects, GroupPhase, GroupReply, JoinedMember, MemberId, MemberState,
    errors::rebalance_in_progress,
};

impl ClassicGroup {
    /// Starts a rebalance: all members must join again; those with a pending join already have.
    pub(super) fn start_rebalance(&mut self, now: i64, effects: &mut GroupEffects) {
        for member in self.members.values_mut() {
            member.joined = member.joining.is_some();
            if let Some(ticket) = member.syncing.take() {
                effects.refuse(ticket, rebalance_in_progress());
                // It could not send heartbeats while it waited.
                member.expires = now.saturating_add(member.session_ms);
            }
        }
        self.sync_until = None;
        self.phase = GroupPhase::Preparing {
            not_before: now,
            until: now.saturating_add(self.max_rebalance_ms()),
        };
        self.try_complete_join(now, effects);
    }

    /// Returns the longest rebalance timeout of the members.
    pub(super) fn max_rebalance_ms(&self) -> i64 {
        self.members
            .values()
            .map(|member| member.rebalance_ms)
            .max()
            .unwrap_or(0)
    }

    /// Completes the join phase if no member is missing, or if its time is over.
    pub(super) fn try_complete_join(&mut self, now: i64, effects: &mut GroupEffects) {
        let GroupPhase::Preparing { not_before, until } = self.phase else {
            return;
        };
        if self.members.is_empty() {
            // Issued ids may still join: they find an empty group.
            return self.complete_join(now, effects);
        }
        let all = self.members.values().all(|member| member.joined) && self.pending_ids.is_empty();
        if now >= not_before && all {
            return self.complete_join(now, effects);
        }
        if now >= until {
            self.remove_unjoined();
            if self.members.values().any(|member| member.joined) || self.members.is_empty() {
                self.complete_join(now, effects);
            } else {
                // Only static members, all of them away: their sessions decide.
                let until = now.saturating_add(self.max_rebalance_ms().max(1));
                self.phase = GroupPhase::Preparing {
                    not_before: now,
                    until,
                };
            }
        }
    }

    /// Removes dynamic members that have not joined; static ones stay until their session expires.
    fn remove_unjoined(&mut self) {
        self.members
            .retain(|_, member| member.joined || member.instance.is_some());
    }

    fn complete_join(&mut self, now: i64, effects: &mut GroupEffects) {
        self.generation = self.generation.saturating_add(1);
        effects.persist = true;
        self.sync_until = None;
        if self.members.is_empty() {
            self.phase = GroupPhase::Empty;
            self.protocol = "".into();
            self.leader = None;
            return;
        }
        self.protocol = self.select_protocol();
        self.leader = self.elect_leader();
        self.phase = GroupPhase::Completing;
        self.sync_until = Some(now.saturating_add(self.max_rebalance_ms()));
        let mut answers = Vec::new();
        for (id, member) in &mut self.members {
            member.assignment = Bytes::new();
            // A static member that is away need not sync before its session expires.
            member.synced = !member.joined;
            member.joined = false;
            if let Some(ticket) = member.joining.take() {
                member.expires = now.saturating_add(member.session_ms);
                member.id_unconfirmed = false;
                answers.push((id.clone(), ticket));
            }
        }
        for (id, ticket) in answers {
            effects.answer(ticket, GroupReply::Joined(self.join_reply(&id)));
        }
    }

    /// Elects the leader: the current one if it takes part, else the oldest member that does.
    fn elect_leader(&self) -> Option<MemberId> {
        let takes_part = |id: &MemberId| self.members.get(id).is_some_and(|member| member.joined);
        if let Some(leader) = self.leader.as_ref().filter(|leader| takes_part(leader)) {
            return Some(leader.clone());
        }
        let here = self.members.iter().filter(|(_, member)| member.joined);
        here.min_by_key(|(_, member)| member.order)
            .map(|(id, _)| id.clone())
    }

    /// Selects the protocol that all members support and most prefer; among equals the one that the
    /// oldest member prefers.
    pub(super) fn select_protocol(&self) -> Arc<str> {
        let members: Vec<&MemberState> = self.members.values().collect();
        let Some(eldest) = members.iter().min_by_key(|member| member.order) else {
            return "".into();
        };
        let has = |member: &MemberState, name: &str| {
            member.protocols.iter().any(|protocol| &*protocol.name == name)
        };
        let names = eldest.protocols.iter().map(|protocol| &protocol.name);
        let candidates: Vec<&Arc<str>> = names
            .filter(|name| members.iter().all(|m| has(m, name)))
            .collect();
        let mut votes: HashMap<&str, usize> = HashMap::new();
        for member in &members {
            let favourite = member
                .protocols
                .iter()
                .find(|protocol| candidates.contains(&&protocol.name));
            if let Some(favourite) = favourite {
                *votes.entry(&favourite.name).or_default() += 1;
            }
        }
        // `max_by_key` returns the last of equals, so the oldest member's favourite comes last.
        let chosen = candidates
            .iter()
            .rev()
            .max_by_key(|name| votes.get::<str>(name).copied().unwrap_or(0));
        chosen.map_or_else(|| "".into(), |name| (*name).clone())
    }

    /// Describes all members for the leader.
    pub(super) fn members_for_leader(&self) -> Vec<JoinedMember> {
        let described = self.members.iter().map(|(id, member)| JoinedMember {
            member_id: id.clone(),
            instance: member.instance.clone(),
            metadata: member.metadata(&self.protocol),
        });
        described.collect()
    }

    /// Catches up with a later stored generation, after a write whose outcome was unknown: all
    /// members join again.
    pub fn catch_up(&mut self, now: i64, stored: i32) -> GroupEffects {
        let mut effects = GroupEffects::default();
        if stored <= self.generation {
            return effects;
        }
        self.generation = stored;
        if matches!(self.phase, GroupPhase::Completing | GroupPhase::Stable) {
            self.start_rebalance(now, &mut effects);
        }
        effects
    }
}
