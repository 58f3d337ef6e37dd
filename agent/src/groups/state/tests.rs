//! The rules of the state machine, one by one, through a [`Desk`].

mod bounds_and_storage;
mod rebalancing;
mod static_members;
mod time;

use std::collections::{HashMap, HashSet};

use streamhouse_core::ErrorCode as E;

use super::*;

const RULES: Rules = Rules {
    max_members: 5,
    max_bytes: 10_000,
    initial_delay_ms: 0,
};
const SESSION: i64 = 10_000;
const REBALANCE: i64 = 60_000;

/// A group with a clock and a ticket counter; records every reply and asserts that none is given
/// twice.
pub(super) struct Desk {
    pub(super) group: Group,
    pub(super) now: i64,
    tickets: u64,
    pub(super) open: HashSet<Ticket>,
    answers: HashMap<Ticket, Result<Reply, Error>>,
    pub(super) persisted: Option<Record>,
}

impl Desk {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            group: Group::new(rules, 0),
            now: 1_000,
            tickets: 0,
            open: HashSet::new(),
            answers: HashMap::new(),
            persisted: None,
        }
    }

    pub(super) fn take(&mut self, effects: Effects) {
        if effects.persist {
            self.persisted = Some(self.group.record());
        }
        for (ticket, reply) in effects.replies {
            assert!(
                self.open.remove(&ticket),
                "{ticket:?} was answered twice, or never given"
            );
            self.answers.insert(ticket, reply);
        }
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.open.insert(Ticket(self.tickets));
        Ticket(self.tickets)
    }

    pub(super) fn join_with(&mut self, join: Join, require_known: bool) -> Ticket {
        let ticket = self.ticket();
        let fresh = format!("m{}", ticket.0).into();
        let effects = self.group.join(self.now, join, fresh, require_known, ticket);
        self.take(effects);
        ticket
    }

    fn join(&mut self, member_id: &str) -> Ticket {
        self.join_with(join(member_id), false)
    }

    fn join_static(&mut self, instance: &str) -> Ticket {
        self.join_with(
            Join {
                instance: Some(instance.into()),
                ..join("")
            },
            false,
        )
    }

    fn sync(&mut self, generation: i32, member_id: &str, assignments: &[(&str, &'static str)]) -> Ticket {
        let ticket = self.ticket();
        let given = assignments
            .iter()
            .map(|(id, bytes)| ((*id).to_owned(), Bytes::from_static(bytes.as_bytes())));
        let effects = self
            .group
            .sync(self.now, generation, member_id, None, given.collect(), ticket);
        self.take(effects);
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
        self.take(effects);
    }

    fn pass(&mut self, ms: i64) {
        self.now += ms;
        let effects = self.group.expire(self.now);
        self.take(effects);
    }

    fn waits(&self, ticket: Ticket) -> bool {
        self.open.contains(&ticket)
    }

    fn joined(&self, ticket: Ticket) -> &Joined {
        match &self.answers[&ticket] {
            Ok(Reply::Joined(joined)) => joined,
            other => panic!("no join but {other:?}"),
        }
    }

    fn assignment(&self, ticket: Ticket) -> &[u8] {
        match &self.answers[&ticket] {
            Ok(Reply::Synced(synced)) => &synced.assignment,
            other => panic!("no sync but {other:?}"),
        }
    }

    fn refusal(&self, ticket: Ticket) -> E {
        self.answers[&ticket].as_ref().unwrap_err().code()
    }

    /// Creates two stable members in generation 2, m1 being the leader.
    fn pair() -> Self {
        let mut desk = Self::new(RULES);
        desk.join("");
        desk.join("");
        desk.join("m1");
        assert_eq!(desk.group.generation(), 2);
        desk.sync(2, "m2", &[]);
        desk.sync(2, "m1", &[("m1", "one"), ("m2", "two")]);
        assert_eq!(desk.group.state(), "Stable");
        desk
    }
}

pub(super) fn join(member_id: &str) -> Join {
    Join {
        member_id: member_id.to_owned(),
        instance: None,
        client_id: "client".into(),
        client_host: "host".into(),
        protocol_type: "consumer".into(),
        protocols: protocols(&["range"]),
        session_ms: SESSION,
        rebalance_ms: REBALANCE,
    }
}

pub(super) fn protocols(names: &[&str]) -> Arc<[Protocol]> {
    names
        .iter()
        .map(|name| Protocol {
            name: (*name).into(),
            metadata: Bytes::from((*name).to_owned()),
        })
        .collect()
}

fn offering(member_id: &str, names: &[&str]) -> Join {
    Join {
        protocols: protocols(names),
        ..join(member_id)
    }
}
