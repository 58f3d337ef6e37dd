//! The rules of the state machine, one by one, through a [`GroupDriver`].

mod bounds_and_storage;
mod rebalancing;
mod static_members;
mod time;

use std::collections::{HashMap, HashSet};

use streamhouse_core::ErrorCode as E;

use super::*;

const RULES: GroupRules = GroupRules {
    max_members: 5,
    max_bytes: 10_000,
    initial_delay_ms: 0,
};
const SESSION: i64 = 10_000;
const REBALANCE: i64 = 60_000;

/// A group with a clock and a ticket counter; records every reply and asserts that none is given
/// twice.
pub(super) struct GroupDriver {
    pub(super) group: ClassicGroup,
    pub(super) now: i64,
    tickets: u64,
    pub(super) open: HashSet<ReplyTicket>,
    answers: HashMap<ReplyTicket, Result<GroupReply, Error>>,
    pub(super) persisted: Option<GroupStateRecord>,
}

impl GroupDriver {
    pub(super) fn new(rules: GroupRules) -> Self {
        Self {
            group: ClassicGroup::new(rules, 0),
            now: 1_000,
            tickets: 0,
            open: HashSet::new(),
            answers: HashMap::new(),
            persisted: None,
        }
    }

    pub(super) fn apply_effects(&mut self, effects: GroupEffects) {
        if effects.persist {
            self.persisted = Some(self.group.to_record());
        }
        for (ticket, reply) in effects.replies {
            assert!(
                self.open.remove(&ticket),
                "{ticket:?} was answered twice, or never given"
            );
            self.answers.insert(ticket, reply);
        }
    }

    pub(super) fn open_ticket(&mut self) -> ReplyTicket {
        self.tickets += 1;
        self.open.insert(ReplyTicket(self.tickets));
        ReplyTicket(self.tickets)
    }

    pub(super) fn join_with(&mut self, join: JoinRequest, require_known: bool) -> ReplyTicket {
        let ticket = self.open_ticket();
        let fresh = format!("m{}", ticket.0).into();
        let effects = self.group.join(self.now, join, fresh, require_known, ticket);
        self.apply_effects(effects);
        ticket
    }

    fn join(&mut self, member_id: &str) -> ReplyTicket {
        self.join_with(join_request(member_id), false)
    }

    fn join_static(&mut self, instance: &str) -> ReplyTicket {
        self.join_with(
            JoinRequest {
                instance: Some(instance.into()),
                ..join_request("")
            },
            false,
        )
    }

    fn sync(
        &mut self,
        generation: i32,
        member_id: &str,
        assignments: &[(&str, &'static str)],
    ) -> ReplyTicket {
        let ticket = self.open_ticket();
        let given = assignments
            .iter()
            .map(|(id, bytes)| ((*id).to_owned(), Bytes::from_static(bytes.as_bytes())));
        let effects = self
            .group
            .sync(self.now, generation, member_id, None, given.collect(), ticket);
        self.apply_effects(effects);
        ticket
    }

    fn heartbeat(&mut self, generation: i32, member_id: &str) -> Option<E> {
        self.group
            .heartbeat(self.now, generation, member_id, None)
            .err()
            .map(|error| error.code())
    }

    fn leave(&mut self, member_id: &str) {
        let effects = self.group.leave(self.now, member_id, None).unwrap();
        self.apply_effects(effects);
    }

    fn advance_time(&mut self, ms: i64) {
        self.now += ms;
        let effects = self.group.expire(self.now);
        self.apply_effects(effects);
    }

    fn is_waiting(&self, ticket: ReplyTicket) -> bool {
        self.open.contains(&ticket)
    }

    fn joined(&self, ticket: ReplyTicket) -> &JoinReply {
        match &self.answers[&ticket] {
            Ok(GroupReply::Joined(joined)) => joined,
            other => panic!("no join but {other:?}"),
        }
    }

    fn assignment(&self, ticket: ReplyTicket) -> &[u8] {
        match &self.answers[&ticket] {
            Ok(GroupReply::Synced(synced)) => &synced.assignment,
            other => panic!("no sync but {other:?}"),
        }
    }

    fn refusal(&self, ticket: ReplyTicket) -> E {
        self.answers[&ticket].as_ref().unwrap_err().code()
    }

    /// Creates two stable members in generation 2, m1 being the leader.
    fn with_stable_pair() -> Self {
        let mut desk = Self::new(RULES);
        desk.join("");
        desk.join("");
        desk.join("m1");
        assert_eq!(desk.group.generation(), 2);
        desk.sync(2, "m2", &[]);
        desk.sync(2, "m1", &[("m1", "one"), ("m2", "two")]);
        assert_eq!(desk.group.state_name(), "Stable");
        desk
    }
}

pub(super) fn join_request(member_id: &str) -> JoinRequest {
    JoinRequest {
        member_id: member_id.to_owned(),
        instance: None,
        client_id: "client".into(),
        client_host: "host".into(),
        protocol_type: "consumer".into(),
        protocols: member_protocols(&["range"]),
        session_ms: SESSION,
        rebalance_ms: REBALANCE,
    }
}

pub(super) fn member_protocols(names: &[&str]) -> Arc<[MemberProtocol]> {
    names
        .iter()
        .map(|name| MemberProtocol {
            name: (*name).into(),
            metadata: Bytes::from((*name).to_owned()),
        })
        .collect()
}

fn join_offering(member_id: &str, names: &[&str]) -> JoinRequest {
    JoinRequest {
        protocols: member_protocols(names),
        ..join_request(member_id)
    }
}
