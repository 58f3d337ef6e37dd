//! Random clients against the state machine: the invariants hold whatever they do.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    tests::{GroupDriver, join_request, member_protocols},
    *,
};

#[derive(Debug, Clone)]
enum ModelEvent {
    Join {
        who: u8,
        instance: Option<u8>,
        known: bool,
        offers: u8,
        require_known: bool,
    },
    Sync {
        who: u8,
        instance: bool,
        stale: i32,
    },
    Heartbeat {
        who: u8,
        stale: i32,
    },
    Commit {
        who: u8,
        stale: i32,
    },
    Leave {
        who: u8,
    },
    Withdraw {
        which: u8,
    },
    Pass {
        ms: i64,
    },
    Failover,
    CatchUp {
        by: i32,
    },
}

fn any_event() -> impl Strategy<Value = ModelEvent> {
    let stale = prop_oneof![4 => Just(0), 1 => -2..3_i32];
    prop_oneof![
        6 => (any::<u8>(), proptest::option::weighted(0.3, 0..2_u8), any::<bool>(), 0..4_u8, any::<bool>()).prop_map(
            |(who, instance, known, offers, require_known)| ModelEvent::Join { who, instance, known, offers, require_known }
        ),
        6 => (any::<u8>(), any::<bool>(), stale.clone()).prop_map(|(who, instance, stale)| ModelEvent::Sync { who, instance, stale }),
        3 => (any::<u8>(), stale.clone()).prop_map(|(who, stale)| ModelEvent::Heartbeat { who, stale }),
        2 => (any::<u8>(), stale).prop_map(|(who, stale)| ModelEvent::Commit { who, stale }),
        1 => any::<u8>().prop_map(|who| ModelEvent::Leave { who }),
        1 => any::<u8>().prop_map(|which| ModelEvent::Withdraw { which }),
        3 => (0..30_000_i64).prop_map(|ms| ModelEvent::Pass { ms }),
        1 => Just(ModelEvent::Failover),
        1 => (-1..3_i32).prop_map(|by| ModelEvent::CatchUp { by }),
    ]
}

const OFFERS: [&[&str]; 4] = [&["range"], &["range", "robin"], &["robin", "range"], &["robin"]];

struct GroupModel {
    desk: GroupDriver,
    /// Every member id ever issued, in order.
    known: Vec<MemberId>,
}

impl GroupModel {
    fn pick(&self, who: u8) -> MemberId {
        if self.known.is_empty() {
            "nobody".into()
        } else {
            self.known[usize::from(who) % self.known.len()].clone()
        }
    }

    fn instance_of(&self, id: &str) -> Option<Arc<str>> {
        self.desk
            .group
            .members
            .get(id)
            .and_then(|member| member.instance.clone())
    }

    fn run(&mut self, event: ModelEvent) {
        match event {
            ModelEvent::Join {
                who,
                instance,
                known,
                offers,
                require_known,
            } => {
                let member_id = if known {
                    self.pick(who).to_string()
                } else {
                    String::new()
                };
                let instance = instance.map(|n| format!("s{n}").into()).filter(|_| !known);
                let instance = instance.or_else(|| self.instance_of(&member_id));
                let asked = JoinRequest {
                    instance,
                    protocols: member_protocols(OFFERS[usize::from(offers)]),
                    ..join_request(&member_id)
                };
                self.desk.join_with(asked, require_known);
            }
            ModelEvent::Sync { who, instance, stale } => self.sync(who, instance, stale),
            ModelEvent::Heartbeat { who, stale } => self.heartbeat(who, stale),
            ModelEvent::Commit { who, stale } => self.commit(who, stale),
            ModelEvent::Leave { who } => {
                let id = self.pick(who);
                if let Ok(effects) = self.desk.group.leave(self.desk.now, &id, None) {
                    self.desk.apply_effects(effects);
                    assert!(!self.desk.group.members.contains_key(&id));
                }
            }
            ModelEvent::Withdraw { which } => {
                let mut open: Vec<ReplyTicket> = self.desk.open.iter().copied().collect();
                open.sort();
                if !open.is_empty() {
                    let ticket = open[usize::from(which) % open.len()];
                    self.desk.open.remove(&ticket);
                    let effects = self.desk.group.withdraw(self.desk.now, ticket);
                    self.desk.apply_effects(effects);
                }
            }
            ModelEvent::Pass { ms } => self.advance_time(ms),
            ModelEvent::Failover => self.failover(),
            ModelEvent::CatchUp { by } => {
                let stored = self.desk.group.generation() + by;
                let effects = self.desk.group.catch_up(self.desk.now, stored);
                self.desk.apply_effects(effects);
            }
        }
    }

    fn sync(&mut self, who: u8, with_instance: bool, stale: i32) {
        let id = self.pick(who);
        let instance = self.instance_of(&id).filter(|_| with_instance);
        let generation = self.desk.group.generation() + stale;
        let everybody = self
            .desk
            .group
            .members
            .keys()
            .map(|id| (id.to_string(), Bytes::from(id.to_string())));
        let given = everybody.collect();
        let ticket = self.desk.open_ticket();
        let effects =
            self.desk
                .group
                .sync(self.desk.now, generation, &id, instance.as_deref(), given, ticket);
        if stale != 0 {
            let refused = matches!(effects.replies[..], [(answered, Err(_))] if answered == ticket);
            assert!(refused, "an old generation synced");
        }
        self.desk.apply_effects(effects);
    }

    fn heartbeat(&mut self, who: u8, stale: i32) {
        let id = self.pick(who);
        let generation = self.desk.group.generation() + stale;
        let outcome = self.desk.group.heartbeat(self.desk.now, generation, &id, None);
        assert!(outcome.is_err() || (stale == 0 && self.desk.group.members.contains_key(&id)));
    }

    fn commit(&mut self, who: u8, stale: i32) {
        let id = self.pick(who);
        let generation = self.desk.group.generation() + stale;
        match self.desk.group.check_commit(self.desk.now, generation, &id, None) {
            Ok(Some(fence)) => {
                assert!(stale == 0 && fence == generation && self.desk.group.members.contains_key(&id));
            }
            Ok(None) => panic!("a member committed without a fence"),
            Err(_) => {}
        }
    }

    fn advance_time(&mut self, ms: i64) {
        self.desk.now += ms;
        let effects = self.desk.group.expire(self.desk.now);
        self.desk.apply_effects(effects);
        let deadline = self.desk.group.deadline();
        assert!(
            deadline.is_none_or(|deadline| deadline > self.desk.now),
            "timers that are due must have run"
        );
    }

    /// Another coordinator loads what was stored; pending calls fail.
    fn failover(&mut self) {
        let Some(record) = self.desk.persisted.clone() else {
            return;
        };
        self.desk.open.clear();
        let rules = self.desk.group.rules;
        self.desk.group = ClassicGroup::load(rules, record.generation, &record.state, self.desk.now).unwrap();
        assert_eq!(self.desk.group.to_record(), record);
    }

    fn check_invariants(&mut self, before: i32) {
        let group = &self.desk.group;
        self.known.extend(
            group
                .members
                .keys()
                .chain(group.pending_ids.keys())
                .filter(|id| !self.known.contains(id))
                .cloned()
                .collect::<Vec<_>>(),
        );
        assert!(group.generation >= before, "the generation went down");
        let mut waiting = 0;
        let mut statics = BTreeMap::new();
        for (id, member) in &group.members {
            waiting += usize::from(member.joining.is_some()) + usize::from(member.syncing.is_some());
            if let Some(instance) = &member.instance {
                statics.insert(instance.clone(), id.clone());
            }
            assert!(member.joining.is_none() || matches!(group.phase, GroupPhase::Preparing { .. }));
            assert!(member.syncing.is_none() || group.phase == GroupPhase::Completing);
            assert!(member.joining.is_none() || member.joined);
            assert!(!group.pending_ids.contains_key(id));
        }
        assert_eq!(
            waiting,
            self.desk.open.len(),
            "every open ticket belongs to a member"
        );
        assert_eq!(statics, group.static_members.clone().into_iter().collect());
        assert!(group.members.len() + group.pending_ids.len() <= group.rules.max_members);
        match group.phase {
            GroupPhase::Empty => assert!(group.members.is_empty()),
            GroupPhase::Preparing { .. } => assert!(!group.members.is_empty() && group.deadline().is_some()),
            GroupPhase::Completing => assert!(group.sync_until.is_some() && group.leader.is_some()),
            GroupPhase::Stable => assert!(
                group
                    .leader
                    .as_ref()
                    .is_some_and(|leader| group.members.contains_key(leader))
            ),
            GroupPhase::Dead => panic!("the group is never deleted here"),
        }
        if matches!(group.phase, GroupPhase::Completing | GroupPhase::Stable) {
            let offers = |m: &MemberState| m.protocols.iter().any(|p| p.name == group.protocol);
            assert!(
                group.members.values().all(offers),
                "all members support the selected protocol"
            );
            let reloaded =
                ClassicGroup::load(group.rules, group.generation, &group.to_record().state, 0).unwrap();
            assert_eq!(
                (reloaded.to_record(), reloaded.view()),
                (group.to_record(), group.view())
            );
        }
        if let Some(record) = &self.desk.persisted {
            let stored = ClassicGroup::load(group.rules, record.generation, &record.state, 0).unwrap();
            let gone = stored
                .members
                .iter()
                .find(|(id, m)| m.instance.is_none() && !group.members.contains_key(*id));
            assert!(gone.is_none(), "the next coordinator would wait for {gone:?}");
        }
        if let (Some(record), GroupPhase::Stable) = (&self.desk.persisted, group.phase) {
            assert_eq!(*record, group.to_record(), "what is promised is stored");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn whatever_clients_do_the_group_stays_consistent(
        events in proptest::collection::vec(any_event(), 1..120),
        delay in prop_oneof![Just(0_i64), Just(3_000)],
    ) {
        let rules = GroupRules { max_members: 5, max_bytes: 10_000, initial_delay_ms: delay };
        let mut world = GroupModel { desk: GroupDriver::new(rules), known: Vec::new() };
        for event in events {
            let failover = matches!(event, ModelEvent::Failover);
            let before = if failover { 0 } else { world.desk.group.generation() };
            world.run(event);
            world.check_invariants(before);
        }
        // Without any client activity, the timers alone empty the group.
        for _ in 0..1_000 {
            let Some(deadline) = world.desk.group.deadline() else { break };
            world.advance_time(deadline - world.desk.now);
            world.check_invariants(0);
        }
        prop_assert!(world.desk.group.is_vacant(), "stuck: {:?}", world.desk.group);
        prop_assert!(world.desk.open.is_empty());
    }

    #[test]
    fn clients_that_follow_the_protocol_get_a_stable_group(
        events in proptest::collection::vec(any_event(), 0..60),
    ) {
        let rules = GroupRules { max_members: 50, max_bytes: 100_000, initial_delay_ms: 3_000 };
        let mut world = GroupModel { desk: GroupDriver::new(rules), known: Vec::new() };
        for event in events {
            world.run(event);
            world.check_invariants(0);
        }
        world.desk.open.clear();
        let record = world.desk.persisted.clone().unwrap_or(GroupStateRecord { generation: 0, state: Vec::new() });
        world.desk.group = ClassicGroup::load(rules, record.generation, &record.state, world.desk.now).unwrap();
        let mut offers: Vec<&[&str]> = Vec::new();
        offers.extend(OFFERS.iter().filter(|names| {
            world.desk.group.members.values().all(|m| m.protocols.iter().any(|p| names.contains(&&*p.name)))
        }));
        prop_assume!(!offers.is_empty() || world.desk.group.members.is_empty());
        // Every member follows the protocol, and one more joins. After a few rounds the group is
        // stable.
        world.desk.join_with(join_request(""), false);
        for _ in 0..12 {
            if world.desk.group.phase == GroupPhase::Stable && world.desk.group.members.values().all(|m| m.synced) {
                break;
            }
            let ids: Vec<MemberId> = world.desk.group.members.keys().cloned().collect();
            for id in ids {
                let Some(member) = world.desk.group.members.get(&id) else { continue };
                let asked = JoinRequest { instance: member.instance.clone(), protocols: member.protocols.clone(), ..join_request(&id) };
                match world.desk.group.phase {
                    GroupPhase::Preparing { .. } if member.joining.is_none() => drop(world.desk.join_with(asked, false)),
                    GroupPhase::Completing | GroupPhase::Stable if !member.synced => {
                        let place = world.known.iter().position(|known| *known == id);
                        world.check_invariants(0);
                        let place = place.or_else(|| world.known.iter().position(|known| *known == id)).unwrap();
                        world.sync(u8::try_from(place).unwrap(), true, 0);
                    }
                    _ => {}
                }
            }
            world.advance_time(3_000);
            world.check_invariants(0);
        }
        let calm = world.desk.group.phase == GroupPhase::Stable || world.desk.group.phase == GroupPhase::Empty;
        prop_assert!(calm, "not at rest: {:?}", world.desk.group);
    }
}
