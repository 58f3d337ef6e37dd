//! Random members, applications and network failures against the state machine and its invariants.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use streamhouse_core::{Error as ClusterError, ErrorCode};

use super::super::*;
use crate::{
    consumer::assignors::{Assignor, MemberSubscription},
    error::Result,
};

const PARTITIONS: i32 = 4;

fn refuse<T>(code: ErrorCode) -> Result<T, ClusterError> {
    Err(ClusterError::new(code, "the model says so"))
}

/// The state of the group at its coordinator.
#[derive(Debug, Default)]
struct ModelCoordinator {
    generation: i32,
    members: BTreeMap<String, ModelMember>,
    pending: BTreeSet<String>,
    joining: bool,
    /// Assignments of the generation, once its leader has sent them.
    shares: Option<BTreeMap<String, Vec<TopicPartition>>>,
    committed: BTreeMap<TopicPartition, i64>,
    /// Generations that were answered to members and not yet received.
    answers: BTreeMap<String, i32>,
    names: usize,
}

#[derive(Debug)]
struct ModelMember {
    joined: bool,
    member: MemberSubscription,
}

impl ModelCoordinator {
    fn name(&mut self) -> String {
        self.names += 1;
        let id = format!("m{:04}", self.names);
        self.pending.insert(id.clone());
        id
    }

    fn start_joining(&mut self) {
        if !self.joining {
            self.joining = true;
            self.members.values_mut().for_each(|seat| seat.joined = false);
        }
    }

    fn join(&mut self, order: &JoinOrder) -> Result<(), ClusterError> {
        let id = &order.member_id;
        if !self.pending.remove(id) && !self.members.contains_key(id) {
            return refuse(ErrorCode::UnknownMemberId);
        }
        self.start_joining();
        self.answers.remove(id);
        let member = MemberSubscription {
            id: id.clone(),
            topics: order.topics.clone(),
            owned: order.owned.clone(),
            generation: (order.generation >= 0).then_some(order.generation),
            ..MemberSubscription::default()
        };
        self.members
            .insert(id.clone(), ModelMember { joined: true, member });
        self.try_complete();
        Ok(())
    }

    fn try_complete(&mut self) {
        if self.joining && self.members.values().all(|seat| seat.joined) {
            self.joining = false;
            self.generation += 1;
            self.shares = None;
            let answer = |id: &String| (id.clone(), self.generation);
            self.answers = self.members.keys().map(answer).collect();
        }
    }

    fn check(&self, who: &MemberIdentity) -> Result<(), ClusterError> {
        if !self.members.contains_key(&who.member_id) {
            return refuse(ErrorCode::UnknownMemberId);
        }
        if who.generation != self.generation {
            return refuse(ErrorCode::IllegalGeneration);
        }
        Ok(())
    }

    /// `None` while the answer has to wait.
    fn sync(
        &mut self,
        who: &MemberIdentity,
        assignor: Assignor,
    ) -> Option<Result<Vec<TopicPartition>, ClusterError>> {
        if let Err(error) = self.check(who) {
            return Some(Err(error));
        }
        if self.joining {
            return Some(refuse(ErrorCode::RebalanceInProgress));
        }
        let leads = self.members.keys().next() == Some(&who.member_id);
        if leads && self.shares.is_none() {
            let members: Vec<MemberSubscription> =
                self.members.values().map(|seat| seat.member.clone()).collect();
            let topics = [("t".to_owned(), PARTITIONS), ("u".to_owned(), PARTITIONS)];
            self.shares = Some(assignor.assign(&members, &topics.into()));
        }
        let shares = self.shares.as_ref()?;
        Some(Ok(shares.get(&who.member_id).cloned().unwrap_or_default()))
    }

    fn beat(&self, who: &MemberIdentity) -> Result<(), ClusterError> {
        self.check(who)?;
        if self.joining {
            return refuse(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    fn commit(
        &mut self,
        who: &MemberIdentity,
        key: &TopicPartition,
        offset: i64,
    ) -> Result<(), ClusterError> {
        self.check(who)?;
        if !self.joining && self.shares.is_none() {
            return refuse(ErrorCode::RebalanceInProgress);
        }
        let before = self.committed.insert(key.clone(), offset).unwrap_or(0);
        assert!(
            before <= offset,
            "{key} was committed at {before}, and then at {offset}"
        );
        Ok(())
    }

    fn remove(&mut self, id: &str) {
        if !self.pending.remove(id) && self.members.remove(id).is_some() {
            self.start_joining();
            if self.members.is_empty() {
                self.joining = false;
            }
            self.try_complete();
        }
    }

    /// Removes the members that have not joined.
    fn end_joining(&mut self) {
        if self.joining {
            self.members.retain(|_, seat| seat.joined);
            if self.members.is_empty() {
                self.joining = false;
            }
            self.try_complete();
        }
    }
}

/// Progress of a join.
#[derive(Debug)]
enum JoinStage {
    Asking,
    Named(String),
    Sent,
    Waiting,
    Answered(Result<i32, ClusterError>),
    Syncing(i32),
    Synced(Result<Vec<TopicPartition>, ClusterError>),
}

#[derive(Debug)]
struct ModelCommit {
    key: TopicPartition,
    offset: i64,
    ownership_epoch: u64,
    sent: MemberIdentity,
    answer: Option<Result<(), ClusterError>>,
}

/// A consumer: state machine, driver and application.
#[derive(Debug)]
struct ModelConsumer {
    machine: MemberStateMachine,
    assignor: Assignor,
    join: Option<(JoinOrder, JoinStage)>,
    beat: Option<(MemberIdentity, Option<Result<(), ClusterError>>)>,
    commit: Option<ModelCommit>,
    leaves: Vec<String>,
    duty: Option<RebalanceAction>,
    positions: BTreeMap<TopicPartition, i64>,
    closing: bool,
    lost_callbacks: usize,
}

impl ModelConsumer {
    fn new(assignor: Assignor, now: Instant) -> Self {
        let rules = MemberConfig {
            cooperative: assignor.is_cooperative(),
            is_static: false,
            heartbeat: Duration::from_secs(3),
            max_poll_interval: Duration::from_secs(300),
            leave_timeout: Duration::from_secs(3_600),
        };
        let mut machine = MemberStateMachine::new(rules, now);
        machine.subscribe(vec!["t".into()]);
        Self {
            machine,
            assignor,
            join: None,
            beat: None,
            commit: None,
            leaves: Vec::new(),
            duty: None,
            positions: BTreeMap::new(),
            closing: false,
            lost_callbacks: 0,
        }
    }

    fn carry_out(&mut self, now: Instant) {
        for key in self.machine.take_dropped() {
            self.positions.remove(&key);
        }
        let orders = self.machine.orders(now);
        for key in self.machine.take_dropped() {
            self.positions.remove(&key);
        }
        if self.join.as_ref().map(|(order, _)| order.serial) != orders.joining {
            self.join = None;
        }
        if self.beat.as_ref().map(|(sent, _)| sent) != orders.identity.as_ref() {
            self.beat = None;
        }
        if let Some(order) = orders.join {
            assert!(self.join.is_none(), "two joins at once");
            let stage = if order.member_id.is_empty() {
                JoinStage::Asking
            } else {
                JoinStage::Sent
            };
            self.join = Some((order, stage));
        }
        if let Some(sent) = orders.beat {
            self.beat = Some((sent, None));
        }
        self.leaves.extend(orders.leave);
    }

    /// Advances the join by one step.
    fn step_join(&mut self, group: &mut ModelCoordinator, now: Instant) {
        let Some((mut order, stage)) = self.join.take() else {
            return;
        };
        let serial = order.serial;
        let next = match stage {
            JoinStage::Asking => JoinStage::Named(group.name()),
            JoinStage::Named(id) => {
                self.machine.set_member_id(serial, &id);
                order.member_id = id;
                JoinStage::Sent
            }
            JoinStage::Sent => match group.join(&order) {
                Ok(()) => JoinStage::Waiting,
                Err(error) => JoinStage::Answered(Err(error)),
            },
            JoinStage::Waiting => {
                if !group.members.contains_key(&order.member_id) {
                    JoinStage::Answered(refuse(ErrorCode::UnknownMemberId))
                } else if let Some(generation) = group.answers.remove(&order.member_id) {
                    JoinStage::Answered(Ok(generation))
                } else {
                    JoinStage::Waiting
                }
            }
            JoinStage::Answered(Ok(generation)) => {
                let member_id = order.member_id.clone();
                let identity = MemberIdentity {
                    member_id,
                    generation,
                };
                self.machine.handle_join_response(serial, identity, now);
                JoinStage::Syncing(generation)
            }
            JoinStage::Syncing(generation) => {
                let member_id = order.member_id.clone();
                match group.sync(
                    &MemberIdentity {
                        member_id,
                        generation,
                    },
                    self.assignor,
                ) {
                    Some(answer) => JoinStage::Synced(answer),
                    None => JoinStage::Syncing(generation),
                }
            }
            JoinStage::Synced(Ok(share)) => {
                let share = share.into_iter().collect();
                return self
                    .machine
                    .handle_assignment(serial, share, self.assignor.is_cooperative());
            }
            JoinStage::Answered(Err(error)) | JoinStage::Synced(Err(error)) => {
                let pause = Duration::from_millis(100);
                return self.machine.handle_join_failure(serial, error.into(), now, pause);
            }
        };
        self.join = Some((order, next));
    }

    fn step_beat(&mut self, group: &ModelCoordinator, now: Instant) {
        match self.beat.take() {
            Some((sent, None)) => {
                let answer = group.beat(&sent);
                self.beat = Some((sent, Some(answer)));
            }
            Some((sent, Some(answer))) => {
                self.machine
                    .handle_heartbeat_result(&sent, answer.map_err(Into::into), now)
            }
            None => {}
        }
    }

    fn step_commit(&mut self, group: &mut ModelCoordinator, now: Instant, which: usize) {
        match self.commit.take() {
            None => {
                let ready = |key: &&TopicPartition| !self.machine.assigning.contains(*key);
                let held: Vec<_> = self.positions.keys().filter(ready).cloned().collect();
                if held.is_empty() {
                    return;
                }
                let key = held[which % held.len()].clone();
                let Some(tenure) = self.machine.ownership_epoch(&key) else {
                    panic!("{key} is read but not held");
                };
                if let CommitPermit::Send(sent) = self.machine.commit_permit() {
                    assert!(sent.generation >= 0);
                    let offset = self.positions[&key];
                    self.commit = Some(ModelCommit {
                        key,
                        offset,
                        ownership_epoch: tenure,
                        sent,
                        answer: None,
                    });
                }
            }
            Some(mut call) => match call.answer.take() {
                None => {
                    call.answer = Some(group.commit(&call.sent, &call.key, call.offset));
                    self.commit = Some(call);
                }
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    let verdict = self.machine.handle_commit_rejection(&call.sent, &error, now);
                    // Send it again with the current identity if the partition is still owned.
                    if verdict == CommitVerdict::Retry
                        && self.machine.ownership_epoch(&call.key) == Some(call.ownership_epoch)
                        && let CommitPermit::Send(sent) = self.machine.commit_permit()
                    {
                        self.commit = Some(ModelCommit { sent, ..call });
                    }
                }
            },
        }
    }

    /// Starts the application's next action, or completes the current one.
    fn step_duty(&mut self, group: &ModelCoordinator, now: Instant) {
        let Some(duty) = self.duty.take() else {
            if !self.closing {
                self.machine.start_poll(now);
            }
            self.duty = self.machine.next_action();
            if let Some(RebalanceAction::Assign(keys)) = &self.duty {
                for key in keys {
                    let committed = group.committed.get(key).copied().unwrap_or(0);
                    self.positions.entry(key.clone()).or_insert(committed);
                }
            }
            if self.duty.is_none() {
                self.machine.end_poll(now);
                if self.closing && self.machine.is_subscribed() {
                    assert!(self.machine.held.is_empty());
                    self.machine.leave(now);
                }
            }
            return;
        };
        match duty {
            RebalanceAction::Lose(keys) => {
                self.lost_callbacks += 1;
                self.machine.complete_lose(&keys);
            }
            RebalanceAction::Revoke(keys) => self.machine.complete_revoke(&keys),
            RebalanceAction::Assign(keys) => {
                self.machine.complete_assign(&keys);
            }
        }
    }

    fn step_leave(&mut self, group: &mut ModelCoordinator) {
        if let Some(id) = self.leaves.pop() {
            group.remove(&id);
            self.machine.complete_leave();
        }
    }

    fn read(&mut self, records: i64) {
        let machine = &self.machine;
        for (key, position) in &mut self.positions {
            if !machine.assigning.contains(key) {
                *position += records;
            }
        }
    }
}

#[derive(Debug, Clone)]
enum GroupEvent {
    Join(u8),
    Beat(u8),
    Commit(u8, u8),
    Duty(u8),
    /// The future of `poll` is dropped.
    CutOff(u8),
    Leave(u8),
    Read(u8, u8),
    Pass(u16),
    Start,
    Close(u8),
    Resubscribe(u8, bool),
    /// The coordinator removes a member.
    Expel(u8),
    /// The time to join is over.
    EndJoining,
    /// Another coordinator has a later generation.
    Jump,
    /// The network loses the answer to a join.
    LoseJoin(u8),
}

fn healthy() -> BoxedStrategy<GroupEvent> {
    prop_oneof![
        20 => any::<u8>().prop_map(GroupEvent::Join),
        6 => any::<u8>().prop_map(GroupEvent::Beat),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(who, which)| GroupEvent::Commit(who, which)),
        14 => any::<u8>().prop_map(GroupEvent::Duty),
        2 => any::<u8>().prop_map(GroupEvent::CutOff),
        2 => any::<u8>().prop_map(GroupEvent::Leave),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(who, records)| GroupEvent::Read(who, records)),
        6 => (0..4_000_u16).prop_map(GroupEvent::Pass),
        2 => Just(GroupEvent::Start),
        1 => any::<u8>().prop_map(GroupEvent::Close),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(who, both)| GroupEvent::Resubscribe(who, both)),
    ]
    .boxed()
}

fn faulty() -> BoxedStrategy<GroupEvent> {
    prop_oneof![
        60 => healthy(),
        1 => any::<u8>().prop_map(GroupEvent::Expel),
        1 => Just(GroupEvent::EndJoining),
        1 => Just(GroupEvent::Jump),
        1 => any::<u8>().prop_map(GroupEvent::LoseJoin),
    ]
    .boxed()
}

struct GroupModel {
    group: ModelCoordinator,
    consumers: Vec<ModelConsumer>,
    assignor: Assignor,
    now: Instant,
}

impl GroupModel {
    fn new(assignor: Assignor) -> Self {
        let now = Instant::now();
        Self {
            group: ModelCoordinator::default(),
            consumers: vec![ModelConsumer::new(assignor, now)],
            assignor,
            now,
        }
    }

    fn run(&mut self, event: &GroupEvent) {
        let count = self.consumers.len();
        let (group, now) = (&mut self.group, self.now);
        let of = |who: &u8| usize::from(*who) % count;
        match event {
            GroupEvent::Join(who) => self.consumers[of(who)].step_join(group, now),
            GroupEvent::Beat(who) => self.consumers[of(who)].step_beat(group, now),
            GroupEvent::Commit(who, which) => {
                self.consumers[of(who)].step_commit(group, now, usize::from(*which));
            }
            GroupEvent::Duty(who) => self.consumers[of(who)].step_duty(group, now),
            GroupEvent::CutOff(who) => {
                self.consumers[of(who)].duty = None;
                self.consumers[of(who)].machine.end_poll(now);
            }
            GroupEvent::Leave(who) => self.consumers[of(who)].step_leave(group),
            GroupEvent::Read(who, records) => self.consumers[of(who)].read(i64::from(*records)),
            GroupEvent::Pass(ms) => self.now += Duration::from_millis(u64::from(*ms)),
            GroupEvent::Start if count < 4 => self.consumers.push(ModelConsumer::new(self.assignor, now)),
            GroupEvent::Start => {}
            GroupEvent::Close(who) => {
                self.consumers[of(who)].closing = true;
                self.consumers[of(who)].machine.start_leaving();
            }
            GroupEvent::Resubscribe(who, both) => {
                let topics: &[&str] = if *both { &["t", "u"] } else { &["t"] };
                let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
                let consumer = &mut self.consumers[of(who)];
                if !consumer.closing {
                    consumer.machine.subscribe(topics);
                }
            }
            GroupEvent::Expel(who) => {
                let id = self
                    .group
                    .members
                    .keys()
                    .nth(usize::from(*who) % self.group.members.len().max(1));
                if let Some(id) = id.cloned() {
                    self.group.remove(&id);
                }
            }
            GroupEvent::EndJoining => group.end_joining(),
            GroupEvent::Jump if !group.members.is_empty() => {
                group.generation += 1;
                group.start_joining();
            }
            GroupEvent::Jump => {}
            GroupEvent::LoseJoin(who) => {
                let consumer = &mut self.consumers[of(who)];
                if let Some((order, _)) = consumer.join.take() {
                    let lost = ClusterError::new(ErrorCode::NetworkException, "lost");
                    consumer.machine.handle_join_failure(
                        order.serial,
                        lost.into(),
                        now,
                        Duration::from_millis(100),
                    );
                }
            }
        }
        for consumer in &mut self.consumers {
            consumer.carry_out(self.now);
        }
        self.check();
    }

    fn check(&self) {
        let mut holders: BTreeMap<&TopicPartition, &str> = BTreeMap::new();
        for consumer in &self.consumers {
            let machine = &consumer.machine;
            assert!(
                machine.held.is_empty() || machine.generation >= 0,
                "held by no member"
            );
            assert!(machine.assigning.iter().all(|key| machine.held.contains_key(key)));
            assert!(machine.lost.iter().all(|key| !machine.held.contains_key(key)));
            assert!(
                consumer
                    .positions
                    .keys()
                    .all(|key| machine.held.contains_key(key)),
                "read, not held"
            );
            assert!(machine.generation <= machine.joined_generation);
            if !self.group.members.contains_key(&machine.member_id) {
                continue;
            }
            for key in machine.held.keys() {
                let other = holders.insert(key, &machine.member_id);
                assert_eq!(other, None, "{key} is held by two members: {:#?}", self.consumers);
            }
        }
    }

    /// All members answer and poll until the group is stable.
    fn settle(&mut self) {
        for _ in 0..120 {
            for who in 0..u8::try_from(self.consumers.len()).unwrap() {
                for event in [
                    GroupEvent::Join(who),
                    GroupEvent::Beat(who),
                    GroupEvent::Duty(who),
                    GroupEvent::Commit(who, 0),
                    GroupEvent::Leave(who),
                    GroupEvent::Read(who, 1),
                ] {
                    self.run(&event);
                }
            }
            self.run(&GroupEvent::Pass(1_000));
        }
    }

    fn check_settled(&self) {
        let open: Vec<_> = self.consumers.iter().filter(|c| !c.closing).collect();
        for consumer in &self.consumers {
            assert!(!consumer.closing || consumer.machine.has_left(), "{consumer:#?}");
        }
        let mut ids: Vec<_> = open.iter().map(|c| c.machine.member_id.clone()).collect();
        ids.sort();
        let members: Vec<_> = self.group.members.keys().cloned().collect();
        assert_eq!(
            members, ids,
            "every member is alive, and everybody alive is a member"
        );
        assert_eq!(self.group.pending.len(), 0, "ghosts: {:?}", self.group.pending);
        let held: BTreeSet<_> = open.iter().flat_map(|c| c.machine.held.keys().cloned()).collect();
        let wanted = open.iter().flat_map(|c| c.machine.topics().to_vec());
        let wanted: BTreeSet<_> = wanted
            .flat_map(|topic| {
                (0..PARTITIONS).map(move |partition| TopicPartition::new(topic.clone(), partition))
            })
            .collect();
        assert_eq!(held, wanted, "all is read: {:#?}", self.consumers);
        for consumer in &open {
            assert!(consumer.machine.assigning.is_empty() && consumer.duty.is_none());
            assert_eq!(consumer.positions.len(), consumer.machine.held.len());
        }
    }
}

fn assignor() -> impl Strategy<Value = Assignor> {
    prop_oneof![2 => Just(Assignor::CooperativeSticky), 1 => Just(Assignor::Range)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Without expulsions nothing is ever lost, for any order of events.
    #[test]
    fn healthy_rebalances_lose_nothing(
        assignor in assignor(),
        events in proptest::collection::vec(healthy(), 1..300),
    ) {
        let mut world = GroupModel::new(assignor);
        for event in &events {
            world.run(event);
            for consumer in &world.consumers {
                prop_assert!(!consumer.machine.has_lost_partitions(), "{:#?}", consumer);
            }
        }
        world.settle();
        world.check_settled();
        for consumer in &world.consumers {
            prop_assert_eq!(consumer.lost_callbacks, 0);
        }
    }

    /// Members are expelled, answers are lost, generations jump: no offset moves back, no partition
    /// has two owners, and in the end all partitions are read and no dead member is left.
    #[test]
    fn whatever_happens_the_group_recovers_and_no_offset_goes_back(
        assignor in assignor(),
        events in proptest::collection::vec(faulty(), 1..300),
    ) {
        let mut world = GroupModel::new(assignor);
        for event in &events {
            world.run(event);
        }
        // Ids in answers that the network lost end with their sessions.
        world.settle();
        world.group.pending.clear();
        world.check_settled();
    }
}
