//! Random clients against the state machine: whatever they do, no two of them have a partition, and
//! once they are left in peace, every partition has an owner.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    tests::{REBALANCE_MS, RULES, TestCatalog, beat, join, topic_list},
    *,
};

const TOPICS: [&str; 3] = ["bills", "orders", "orders-eu"];

#[derive(Debug, Clone)]
enum ModelEvent {
    Join { who: u8, topics: u8, pattern: bool },
    Heartbeat { who: u8, lost: bool },
    Resubscribe { who: u8, topics: u8 },
    Leave { who: u8 },
    LeaveForAWhile { who: u8 },
    SetTopic { topic: u8, partitions: i32 },
    DeleteTopic { topic: u8 },
    Pass { ms: i64 },
    Failover,
    CatchUp { by: i32 },
}

fn any_event() -> impl Strategy<Value = ModelEvent> {
    prop_oneof![
        6 => (any::<u8>(), any::<u8>(), prop::bool::weighted(0.2))
            .prop_map(|(who, topics, pattern)| ModelEvent::Join { who, topics, pattern }),
        12 => (any::<u8>(), prop::bool::weighted(0.2)).prop_map(|(who, lost)| ModelEvent::Heartbeat { who, lost }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(who, topics)| ModelEvent::Resubscribe { who, topics }),
        2 => any::<u8>().prop_map(|who| ModelEvent::Leave { who }),
        2 => any::<u8>().prop_map(|who| ModelEvent::LeaveForAWhile { who }),
        2 => (any::<u8>(), 1..6_i32).prop_map(|(topic, partitions)| ModelEvent::SetTopic { topic, partitions }),
        1 => any::<u8>().prop_map(|topic| ModelEvent::DeleteTopic { topic }),
        3 => (0..30_000_i64).prop_map(|ms| ModelEvent::Pass { ms }),
        1 => Just(ModelEvent::Failover),
        1 => (1..3_i32).prop_map(|by| ModelEvent::CatchUp { by }),
    ]
}

/// A client: what it has been told, and what it reads.
#[derive(Debug, Clone, Default)]
struct ModelClient {
    epoch: i32,
    owned: PartitionSet,
    topics: Vec<&'static str>,
    pattern: bool,
    instance: Option<String>,
    /// It must send everything: it joins, or a reply was lost.
    unsure: bool,
    /// What it last said that it has.
    reported: PartitionSet,
}

impl ModelClient {
    fn heartbeat(&self, id: &str) -> MemberHeartbeat {
        let topics = topic_list(&self.topics);
        let full = self.unsure || self.epoch == JOIN_EPOCH;
        let owned = (full || self.owned != self.reported).then(|| self.owned.clone());
        MemberHeartbeat {
            epoch: self.epoch,
            instance: self.instance.as_deref().map(Arc::from),
            topics: full.then_some(topics),
            pattern: full.then(|| if self.pattern { "orders.*" } else { "" }.into()),
            rebalance_ms: full.then_some(REBALANCE_MS),
            owned,
            ..join(id, &[])
        }
    }

    /// Takes a reply: gives partitions up before it reads from others.
    fn take(&mut self, reply: &HeartbeatReply) {
        self.epoch = reply.epoch;
        if let Some(assignment) = &reply.assignment {
            self.owned = assignment.clone();
        }
        self.unsure = false;
    }
}

struct GroupModel {
    group: ConsumerGroup,
    catalog: TestCatalog,
    clients: BTreeMap<String, ModelClient>,
    now: i64,
    made: usize,
}

impl GroupModel {
    fn new() -> Self {
        let rules = ConsumerGroupRules {
            max_bytes: 10_000,
            max_members: 6,
            ..RULES
        };
        Self {
            group: ConsumerGroup::new(rules, 0),
            catalog: TestCatalog::new(&[("bills", 3), ("orders", 4)]),
            clients: BTreeMap::new(),
            now: 0,
            made: 0,
        }
    }

    fn pick(&self, who: u8) -> Option<String> {
        let ids: Vec<&String> = self.clients.keys().collect();
        let chosen = ids.get(usize::from(who) % ids.len().max(1));
        chosen.map(|id| (*id).clone())
    }

    fn subscription(topics: u8) -> Vec<&'static str> {
        let chosen = TOPICS.iter().enumerate();
        chosen
            .filter(|(index, _)| topics & (1 << index) != 0)
            .map(|(_, topic)| *topic)
            .collect()
    }

    /// Sends a heartbeat; a client that is fenced drops everything and joins again next.
    fn send(&mut self, id: &str, lost: bool) {
        let Some(client) = self.clients.get(id) else {
            return;
        };
        let sent = client.heartbeat(id);
        let before = self.group.clone();
        let quick = self.group.extend_session(self.now, &sent, &self.catalog);
        let answered = match quick {
            Some(reply) => {
                assert_eq!(
                    self.group.to_state(),
                    before.to_state(),
                    "only the session has changed"
                );
                Ok(reply)
            }
            None => self
                .group
                .heartbeat(self.now, &sent, &self.catalog)
                .map(|outcome| {
                    let changed =
                        self.group.to_state() != before.to_state() || self.group.epoch() != before.epoch();
                    assert!(outcome.persist || !changed, "a change is stored");
                    outcome.reply
                }),
        };
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        match answered {
            Ok(_) if lost => client.unsure = true,
            Ok(reply) => {
                if let Some(owned) = &sent.owned {
                    client.reported = owned.clone();
                }
                client.take(&reply);
            }
            Err(error) => {
                assert_eq!(
                    self.group.to_state(),
                    before.to_state(),
                    "{error} changes nothing"
                );
                client.epoch = JOIN_EPOCH;
                client.owned.clear();
                client.reported.clear();
            }
        }
    }

    fn apply(&mut self, event: ModelEvent) {
        match event {
            ModelEvent::Join { who, topics, pattern } => {
                self.made += 1;
                // Every third one is static, and takes the place of one that is away.
                let instance = (who % 3 == 0).then(|| format!("instance-{}", who % 2));
                let taken = |client: &ModelClient| client.instance.is_some() && client.instance == instance;
                if self.clients.values().any(taken) || self.clients.len() >= 5 {
                    return;
                }
                let id = format!("member-{}", self.made);
                let client = ModelClient {
                    topics: Self::subscription(topics),
                    pattern,
                    instance,
                    ..ModelClient::default()
                };
                self.clients.insert(id.clone(), client);
                self.send(&id, false);
            }
            ModelEvent::Heartbeat { who, lost } => {
                if let Some(id) = self.pick(who) {
                    self.send(&id, lost);
                }
            }
            ModelEvent::Resubscribe { who, topics } => {
                if let Some(id) = self.pick(who) {
                    if let Some(client) = self.clients.get_mut(&id) {
                        client.topics = Self::subscription(topics);
                        client.unsure = true;
                    }
                    self.send(&id, false);
                }
            }
            ModelEvent::Leave { who } => self.leave(who, LEAVE_EPOCH),
            ModelEvent::LeaveForAWhile { who } => self.leave(who, STATIC_LEAVE_EPOCH),
            ModelEvent::SetTopic { topic, partitions } => {
                let name = TOPICS[usize::from(topic) % TOPICS.len()];
                let more = partitions.max(i32::try_from(self.catalog.partitions(name).len()).unwrap_or(0));
                self.catalog.set_topic(name, more);
            }
            ModelEvent::DeleteTopic { topic } => self
                .catalog
                .delete_topic(TOPICS[usize::from(topic) % TOPICS.len()]),
            ModelEvent::Pass { ms } => self.pass(ms),
            ModelEvent::Failover => {
                let stored = self.group.to_state();
                self.group =
                    ConsumerGroup::load(self.group.rules, self.group.epoch(), &stored, self.now).unwrap();
                assert_eq!(self.group.to_state(), stored);
            }
            ModelEvent::CatchUp { by } => self.group.catch_up(self.group.epoch().saturating_add(by)),
        }
    }

    fn leave(&mut self, who: u8, epoch: i32) {
        let Some(id) = self.pick(who) else { return };
        let Some(client) = self.clients.remove(&id) else {
            return;
        };
        let instance = client.instance.as_deref().map(Arc::from);
        let leaves = MemberHeartbeat {
            instance,
            ..beat(&id, epoch)
        };
        // It may have been removed already.
        drop(self.group.heartbeat(self.now, &leaves, &self.catalog));
    }

    /// Lets time pass; clients that are removed stop to read, as their sessions end for them too.
    fn pass(&mut self, ms: i64) {
        self.now += ms;
        self.group.expire(self.now);
        for (id, client) in &mut self.clients {
            if !self.group.members.contains_key(id.as_str()) {
                client.owned.clear();
            }
        }
    }

    fn check(&self, last_epoch: i32) {
        assert!(self.group.epoch() >= last_epoch);
        assert!(self.group.assignment_epoch <= self.group.epoch());
        let mut held = BTreeSet::new();
        let mut targets = BTreeSet::new();
        for entry in self.group.members.values() {
            let member = &entry.member;
            for partition in member.assigned.keys().chain(member.revoking.keys()) {
                assert!(held.insert(*partition), "two members have {partition:?}");
            }
            for partition in &*member.target {
                assert!(targets.insert(*partition), "two targets have {partition:?}");
            }
            assert!(member.epoch <= self.group.epoch());
        }
        let mut read = BTreeSet::new();
        for partition in self.clients.values().flat_map(|client| &client.owned) {
            assert!(read.insert(*partition), "two clients read {partition:?}");
        }
        for (instance, holder) in &self.group.static_members {
            assert_eq!(
                self.group.members[holder].member.instance.as_ref(),
                Some(instance)
            );
        }
    }

    /// Lets the clients alone until all static members that are away are gone, and all are stable.
    fn settle(&mut self) {
        for _ in 0..16 {
            let ids: Vec<String> = self.clients.keys().cloned().collect();
            for id in ids {
                self.send(&id, false);
            }
            self.check(0);
            self.pass(RULES.session_ms / 5);
        }
        let expected = if self.clients.is_empty() {
            "Empty"
        } else {
            "Stable"
        };
        assert_eq!(self.group.state_name(), expected, "{:#?}", self.group);
        let mut wanted = PartitionSet::new();
        for client in self.clients.values() {
            let matches = |topic: &str| {
                client.topics.contains(&topic) || (client.pattern && topic.starts_with("orders"))
            };
            for topic in TOPICS.into_iter().filter(|topic| matches(topic)) {
                wanted.extend(self.catalog.partitions(topic));
            }
        }
        let read: PartitionSet = self
            .clients
            .values()
            .flat_map(|client| client.owned.clone())
            .collect();
        assert_eq!(read, wanted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn members_share_the_partitions_whatever_they_do(events in prop::collection::vec(any_event(), 1..60)) {
        let mut model = GroupModel::new();
        for event in events {
            let epoch = model.group.epoch();
            model.apply(event);
            model.check(epoch);
        }
        model.settle();
    }
}
