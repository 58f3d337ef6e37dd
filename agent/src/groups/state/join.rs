//! Joining: new members, returning members, and static members that restart under a new member id.

use std::{collections::HashSet, sync::Arc};

use streamhouse_core::Error;

use super::{
    ClassicGroup, GroupEffects, GroupPhase, GroupReply, JoinReply, MemberId, MemberProtocol, MemberState,
    ReplyTicket,
    errors::{
        fenced_instance, group_deleted, group_full, inconsistent_protocol, rebalance_in_progress,
        unknown_member,
    },
};

/// A join whose limits are already checked.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// Empty on the first join.
    pub member_id: String,
    /// The group instance id of a static member.
    pub instance: Option<Arc<str>>,
    /// The client id.
    pub client_id: Arc<str>,
    /// The address of the client.
    pub client_host: Arc<str>,
    /// The protocol type; not empty.
    pub protocol_type: Arc<str>,
    /// The supported protocols, the preferred one first; at least one.
    pub protocols: Arc<[MemberProtocol]>,
    /// The session timeout in milliseconds.
    pub session_ms: i64,
    /// The rebalance timeout in milliseconds.
    pub rebalance_ms: i64,
}

impl JoinRequest {
    fn metadata_len(&self) -> usize {
        protocol_bytes(&self.protocols)
    }
}

pub(super) fn protocol_bytes(protocols: &[MemberProtocol]) -> usize {
    protocols
        .iter()
        .map(|protocol| protocol.name.len() + protocol.metadata.len())
        .sum()
}

impl ClassicGroup {
    /// Processes a join. A new member gets the id `fresh`; with `require_known` a new dynamic
    /// member only gets that id and must join again with it, so that a lost reply leaves no ghost
    /// member.
    pub fn join(
        &mut self,
        now: i64,
        join: JoinRequest,
        fresh: MemberId,
        require_known: bool,
        ticket: ReplyTicket,
    ) -> GroupEffects {
        let mut effects = GroupEffects::default();
        let known = !join.member_id.is_empty();
        let outcome = match self.check_protocol(&join) {
            Err(error) => Err(error),
            Ok(()) if known => self.join_existing(now, join, ticket, &mut effects),
            Ok(()) => self.join_new(now, join, fresh, require_known, ticket, &mut effects),
        };
        if let Err(error) = outcome {
            effects.refuse(ticket, error);
        }
        effects
    }

    /// Checks whether the other members share a protocol with this one.
    fn check_protocol(&self, join: &JoinRequest) -> Result<(), Error> {
        if self.phase == GroupPhase::Dead {
            return Err(group_deleted());
        }
        let itself = join
            .instance
            .as_ref()
            .and_then(|instance| self.static_members.get(instance));
        let is_other = |id: &MemberId| **id != *join.member_id && Some(id) != itself;
        let others: Vec<&MemberState> = self
            .members
            .iter()
            .filter(|(id, _)| is_other(id))
            .map(|(_, m)| m)
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        let offered: HashSet<&str> = join.protocols.iter().map(|protocol| &*protocol.name).collect();
        let names = others[0].protocols.iter().map(|protocol| &*protocol.name);
        let common = names.filter(|name| offered.contains(name)).any(|name| {
            others
                .iter()
                .all(|other| other.protocols.iter().any(|protocol| &*protocol.name == name))
        });
        if common && join.protocol_type == self.protocol_type {
            Ok(())
        } else {
            Err(inconsistent_protocol())
        }
    }

    /// Checks the group's limits; `but` is the member that this join replaces.
    fn check_capacity(&self, join: &JoinRequest, but: Option<&MemberId>) -> Result<(), Error> {
        let replaced = |id: &MemberId| but == Some(id);
        let ids = self
            .members
            .keys()
            .chain(self.pending_ids.keys())
            .filter(|id| !replaced(id));
        if ids.count() >= self.rules.max_members {
            return Err(group_full("members", self.rules.max_members));
        }
        let others = self.members.iter().filter(|(id, _)| !replaced(id));
        let bytes: usize = others.map(|(_, member)| protocol_bytes(&member.protocols)).sum();
        if bytes.saturating_add(join.metadata_len()) > self.rules.max_bytes {
            return Err(group_full("bytes of members' metadata", self.rules.max_bytes));
        }
        Ok(())
    }

    fn join_new(
        &mut self,
        now: i64,
        join: JoinRequest,
        fresh: MemberId,
        require_known: bool,
        ticket: ReplyTicket,
        effects: &mut GroupEffects,
    ) -> Result<(), Error> {
        if let Some(old) = join
            .instance
            .as_ref()
            .and_then(|instance| self.static_members.get(instance))
            .cloned()
        {
            self.check_capacity(&join, Some(&old))?;
            self.replace_static_member(now, &old, join, fresh, ticket, effects);
            return Ok(());
        }
        self.check_capacity(&join, None)?;
        if require_known && join.instance.is_none() {
            self.pending_ids
                .insert(fresh.clone(), now.saturating_add(join.session_ms));
            effects.answer(ticket, GroupReply::IdRequired(fresh));
            return Ok(());
        }
        self.add_member(now, fresh, join, true, ticket, effects);
        Ok(())
    }

    fn join_existing(
        &mut self,
        now: i64,
        join: JoinRequest,
        ticket: ReplyTicket,
        effects: &mut GroupEffects,
    ) -> Result<(), Error> {
        let id: MemberId = join.member_id.as_str().into();
        match join
            .instance
            .as_ref()
            .map(|instance| self.static_members.get(instance))
        {
            Some(None) => return Err(unknown_member()),
            Some(Some(holder)) if *holder != id => return Err(fenced_instance()),
            _ => {}
        }
        if !self.members.contains_key(&id) && !self.pending_ids.contains_key(&id) {
            return Err(unknown_member());
        }
        self.check_capacity(&join, Some(&id))?;
        let Some(member) = self.members.get(&id) else {
            self.pending_ids.remove(&id);
            self.add_member(now, id, join, false, ticket, effects);
            return Ok(());
        };
        let same = member.protocols == join.protocols;
        let leads = self.leader.as_ref() == Some(&id);
        match self.phase {
            // Its reply was lost, or it joined twice: nothing changes.
            GroupPhase::Completing if same => self.reply_current(now, &id, ticket, effects),
            GroupPhase::Stable if same && !leads => self.reply_current(now, &id, ticket, effects),
            GroupPhase::Preparing { .. } => {
                self.update_member(&id, join, ticket, effects);
                self.try_complete_join(now, effects);
            }
            _ => {
                self.update_member(&id, join, ticket, effects);
                self.start_rebalance(now, effects);
            }
        }
        Ok(())
    }

    fn add_member(
        &mut self,
        now: i64,
        id: MemberId,
        join: JoinRequest,
        unnamed: bool,
        ticket: ReplyTicket,
        effects: &mut GroupEffects,
    ) {
        if let Some(instance) = &join.instance {
            self.static_members.insert(instance.clone(), id.clone());
        }
        if self.members.is_empty() {
            self.protocol_type = join.protocol_type.clone();
        }
        let rebalance_ms = join.rebalance_ms;
        let member = MemberState {
            expires: now.saturating_add(join.session_ms),
            instance: join.instance,
            client_id: join.client_id,
            client_host: join.client_host,
            session_ms: join.session_ms,
            rebalance_ms,
            protocols: join.protocols,
            assignment: bytes::Bytes::new(),
            joined: true,
            joining: Some(ticket),
            syncing: None,
            synced: false,
            id_unconfirmed: unnamed,
            order: self.next_order,
        };
        self.next_order += 1;
        self.members.insert(id, member);
        let more = now.saturating_add(self.rules.initial_delay_ms);
        match &mut self.phase {
            GroupPhase::Empty => {
                let until = now.saturating_add(rebalance_ms);
                self.phase = GroupPhase::Preparing {
                    not_before: more.min(until),
                    until,
                };
            }
            // Members join one after the other when an application starts: one rebalance for all of
            // them.
            GroupPhase::Preparing { not_before, until } if now < *not_before => {
                *not_before = more.min(*until)
            }
            GroupPhase::Preparing { .. } | GroupPhase::Dead => {}
            GroupPhase::Completing | GroupPhase::Stable => return self.start_rebalance(now, effects),
        }
        self.try_complete_join(now, effects);
    }

    /// Updates a member with its new join and counts it in for the rebalance.
    fn update_member(
        &mut self,
        id: &MemberId,
        join: JoinRequest,
        ticket: ReplyTicket,
        effects: &mut GroupEffects,
    ) {
        let alone = self.members.len() == 1;
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        if alone {
            self.protocol_type = join.protocol_type;
        }
        member.client_id = join.client_id;
        member.client_host = join.client_host;
        member.session_ms = join.session_ms;
        member.rebalance_ms = join.rebalance_ms;
        member.protocols = join.protocols;
        member.joined = true;
        for stale in [member.joining.replace(ticket), member.syncing.take()]
            .into_iter()
            .flatten()
        {
            effects.refuse(stale, rebalance_in_progress());
        }
    }

    /// Replaces a static member by its restarted instance under a new id, and fences the old id. A
    /// stable group stays stable.
    fn replace_static_member(
        &mut self,
        now: i64,
        old: &MemberId,
        join: JoinRequest,
        fresh: MemberId,
        ticket: ReplyTicket,
        effects: &mut GroupEffects,
    ) {
        let Some(mut member) = self.members.remove(old) else {
            return;
        };
        for stale in [member.joining.take(), member.syncing.take()]
            .into_iter()
            .flatten()
        {
            effects.refuse(stale, fenced_instance());
        }
        member.id_unconfirmed = true;
        member.expires = now.saturating_add(join.session_ms);
        self.members.insert(fresh.clone(), member);
        if let Some(instance) = &join.instance {
            self.static_members.insert(instance.clone(), fresh.clone());
        }
        let led = self.leader.as_ref() == Some(old);
        if led {
            self.leader = Some(fresh.clone());
        }
        self.update_member(&fresh, join, ticket, effects);
        match self.phase {
            GroupPhase::Preparing { .. } => self.try_complete_join(now, effects),
            GroupPhase::Stable if self.select_protocol() == self.protocol => {
                if let Some(member) = self.members.get_mut(&fresh) {
                    member.joined = false;
                    member.joining = None;
                    member.id_unconfirmed = false;
                }
                effects.persist = true;
                let mut joined = self.join_reply(&fresh);
                if led {
                    // It must not assign again: with another leader in the reply, it takes the
                    // assignment it had.
                    joined.leader = old.clone();
                    joined.members.clear();
                }
                effects.answer(ticket, GroupReply::Joined(joined));
            }
            _ => self.start_rebalance(now, effects),
        }
    }

    fn reply_current(&mut self, now: i64, id: &MemberId, ticket: ReplyTicket, effects: &mut GroupEffects) {
        self.extend_session(now, id);
        effects.answer(ticket, GroupReply::Joined(self.join_reply(id)));
    }

    /// Returns the reply to a member that joined the current generation.
    pub(super) fn join_reply(&self, id: &MemberId) -> JoinReply {
        let leader = self.leader.clone().unwrap_or_else(|| id.clone());
        JoinReply {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            members: if leader == *id {
                self.members_for_leader()
            } else {
                Vec::new()
            },
            leader,
            member_id: id.clone(),
        }
    }
}
