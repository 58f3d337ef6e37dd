//! Random members, applications and network failures against the state machine and its invariants.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use streamhouse_core::{Error as CoreError, ErrorCode};

use super::super::*;
use crate::{
    consumer::assignors::{Assignor, Member},
    error::Result,
};

const PARTITIONS: i32 = 4;

fn refuse<T>(code: ErrorCode) -> Result<T, CoreError> {
    Err(CoreError::new(code, "the model says so"))
}

/// The state of the group at its coordinator.
#[derive(Debug, Default)]
struct Coordinator {
    generation: i32,
    members: BTreeMap<String, Seat>,
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
struct Seat {
    joined: bool,
    member: Member,
}

impl Coordinator {
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

    fn join(&mut self, order: &JoinOrder) -> Result<(), CoreError> {
        let id = &order.member_id;
        if !self.pending.remove(id) && !self.members.contains_key(id) {
            return refuse(ErrorCode::UnknownMemberId);
        }
        self.start_joining();
        self.answers.remove(id);
        let member = Member {
            id: id.clone(),
            topics: order.topics.clone(),
            owned: order.owned.clone(),
            generation: (order.generation >= 0).then_some(order.generation),
            ..Member::default()
        };
        self.members.insert(id.clone(), Seat { joined: true, member });
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

    fn check(&self, who: &MemberIdentity) -> Result<(), CoreError> {
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
    ) -> Option<Result<Vec<TopicPartition>, CoreError>> {
        if let Err(error) = self.check(who) {
            return Some(Err(error));
        }
        if self.joining {
            return Some(refuse(ErrorCode::RebalanceInProgress));
        }
        let leads = self.members.keys().next() == Some(&who.member_id);
        if leads && self.shares.is_none() {
            let members: Vec<Member> = self.members.values().map(|seat| seat.member.clone()).collect();
            let topics = [("t".to_owned(), PARTITIONS), ("u".to_owned(), PARTITIONS)];
            self.shares = Some(assignor.assign(&members, &topics.into()));
        }
        let shares = self.shares.as_ref()?;
        Some(Ok(shares.get(&who.member_id).cloned().unwrap_or_default()))
    }

    fn beat(&self, who: &MemberIdentity) -> Result<(), CoreError> {
        self.check(who)?;
        if self.joining {
            return refuse(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    fn commit(&mut self, who: &MemberIdentity, key: &TopicPartition, offset: i64) -> Result<(), CoreError> {
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
enum Stage {
    Asking,
    Named(String),
    Sent,
    Waiting,
    Answered(Result<i32, CoreError>),
    Syncing(i32),
    Synced(Result<Vec<TopicPartition>, CoreError>),
}

#[derive(Debug)]
struct CommitCall {
    key: TopicPartition,
    offset: i64,
    tenure: u64,
    sent: MemberIdentity,
    answer: Option<Result<(), CoreError>>,
}

/// A consumer: state machine, driver and application.
#[derive(Debug)]
struct Consumer {
    machine: MemberMachine,
    assignor: Assignor,
    join: Option<(JoinOrder, Stage)>,
    beat: Option<(MemberIdentity, Option<Result<(), CoreError>>)>,
    commit: Option<CommitCall>,
    leaves: Vec<String>,
    duty: Option<Duty>,
    positions: BTreeMap<TopicPartition, i64>,
    closing: bool,
    told_lost: usize,
}

impl Consumer {
    fn new(assignor: Assignor, now: Instant) -> Self {
        let rules = MemberRules {
            cooperative: assignor.is_cooperative(),
            is_static: false,
            heartbeat: Duration::from_secs(3),
            max_poll_interval: Duration::from_secs(300),
            leave_within: Duration::from_secs(3_600),
        };
        let mut machine = MemberMachine::new(rules, now);
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
            told_lost: 0,
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
                Stage::Asking
            } else {
                Stage::Sent
            };
            self.join = Some((order, stage));
        }
        if let Some(sent) = orders.beat {
            self.beat = Some((sent, None));
        }
        self.leaves.extend(orders.leave);
    }

    /// Advances the join by one step.
    fn step_join(&mut self, group: &mut Coordinator, now: Instant) {
        let Some((mut order, stage)) = self.join.take() else {
            return;
        };
        let serial = order.serial;
        let next = match stage {
            Stage::Asking => Stage::Named(group.name()),
            Stage::Named(id) => {
                self.machine.id_given(serial, &id);
                order.member_id = id;
                Stage::Sent
            }
            Stage::Sent => match group.join(&order) {
                Ok(()) => Stage::Waiting,
                Err(error) => Stage::Answered(Err(error)),
            },
            Stage::Waiting => {
                if !group.members.contains_key(&order.member_id) {
                    Stage::Answered(refuse(ErrorCode::UnknownMemberId))
                } else if let Some(generation) = group.answers.remove(&order.member_id) {
                    Stage::Answered(Ok(generation))
                } else {
                    Stage::Waiting
                }
            }
            Stage::Answered(Ok(generation)) => {
                let member_id = order.member_id.clone();
                let identity = MemberIdentity {
                    member_id,
                    generation,
                };
                self.machine.join_answered(serial, identity, now);
                Stage::Syncing(generation)
            }
            Stage::Syncing(generation) => {
                let member_id = order.member_id.clone();
                match group.sync(
                    &MemberIdentity {
                        member_id,
                        generation,
                    },
                    self.assignor,
                ) {
                    Some(answer) => Stage::Synced(answer),
                    None => Stage::Syncing(generation),
                }
            }
            Stage::Synced(Ok(share)) => {
                let share = share.into_iter().collect();
                return self.machine.synced(serial, share, self.assignor.is_cooperative());
            }
            Stage::Answered(Err(error)) | Stage::Synced(Err(error)) => {
                let pause = Duration::from_millis(100);
                return self.machine.join_failed(serial, error.into(), now, pause);
            }
        };
        self.join = Some((order, next));
    }

    fn step_beat(&mut self, group: &Coordinator, now: Instant) {
        match self.beat.take() {
            Some((sent, None)) => {
                let answer = group.beat(&sent);
                self.beat = Some((sent, Some(answer)));
            }
            Some((sent, Some(answer))) => self.machine.beat_ended(&sent, answer.map_err(Into::into), now),
            None => {}
        }
    }

    fn step_commit(&mut self, group: &mut Coordinator, now: Instant, which: usize) {
        match self.commit.take() {
            None => {
                let ready = |key: &&TopicPartition| !self.machine.assigning.contains(*key);
                let held: Vec<_> = self.positions.keys().filter(ready).cloned().collect();
                if held.is_empty() {
                    return;
                }
                let key = held[which % held.len()].clone();
                let Some(tenure) = self.machine.tenure(&key) else {
                    panic!("{key} is read but not held");
                };
                if let CommitPermit::Send(sent) = self.machine.commit_permit() {
                    assert!(sent.generation >= 0);
                    let offset = self.positions[&key];
                    self.commit = Some(CommitCall {
                        key,
                        offset,
                        tenure,
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
                    let verdict = self.machine.commit_refused(&call.sent, &error, now);
                    // Send it again with the current identity if the partition is still owned.
                    if verdict == Verdict::Again
                        && self.machine.tenure(&call.key) == Some(call.tenure)
                        && let CommitPermit::Send(sent) = self.machine.commit_permit()
                    {
                        self.commit = Some(CommitCall { sent, ..call });
                    }
                }
            },
        }
    }

    /// Starts the application's next action, or completes the current one.
    fn step_duty(&mut self, group: &Coordinator, now: Instant) {
        let Some(duty) = self.duty.take() else {
            if !self.closing {
                self.machine.start_poll(now);
            }
            self.duty = self.machine.duty();
            if let Some(Duty::Assign(keys)) = &self.duty {
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
            Duty::Lose(keys) => {
                self.told_lost += 1;
                self.machine.told_lost(&keys);
            }
            Duty::Revoke(keys) => self.machine.given_up(&keys),
            Duty::Assign(keys) => {
                self.machine.taken(&keys);
            }
        }
    }

    fn step_leave(&mut self, group: &mut Coordinator) {
        if let Some(id) = self.leaves.pop() {
            group.remove(&id);
            self.machine.left();
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
enum Event {
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

fn healthy() -> BoxedStrategy<Event> {
    prop_oneof![
        20 => any::<u8>().prop_map(Event::Join),
        6 => any::<u8>().prop_map(Event::Beat),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(who, which)| Event::Commit(who, which)),
        14 => any::<u8>().prop_map(Event::Duty),
        2 => any::<u8>().prop_map(Event::CutOff),
        2 => any::<u8>().prop_map(Event::Leave),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(who, records)| Event::Read(who, records)),
        6 => (0..4_000_u16).prop_map(Event::Pass),
        2 => Just(Event::Start),
        1 => any::<u8>().prop_map(Event::Close),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(who, both)| Event::Resubscribe(who, both)),
    ]
    .boxed()
}

fn rough() -> BoxedStrategy<Event> {
    prop_oneof![
        60 => healthy(),
        1 => any::<u8>().prop_map(Event::Expel),
        1 => Just(Event::EndJoining),
        1 => Just(Event::Jump),
        1 => any::<u8>().prop_map(Event::LoseJoin),
    ]
    .boxed()
}

struct World {
    group: Coordinator,
    consumers: Vec<Consumer>,
    assignor: Assignor,
    now: Instant,
}

impl World {
    fn new(assignor: Assignor) -> Self {
        let now = Instant::now();
        Self {
            group: Coordinator::default(),
            consumers: vec![Consumer::new(assignor, now)],
            assignor,
            now,
        }
    }

    fn run(&mut self, event: &Event) {
        let count = self.consumers.len();
        let (group, now) = (&mut self.group, self.now);
        let of = |who: &u8| usize::from(*who) % count;
        match event {
            Event::Join(who) => self.consumers[of(who)].step_join(group, now),
            Event::Beat(who) => self.consumers[of(who)].step_beat(group, now),
            Event::Commit(who, which) => {
                self.consumers[of(who)].step_commit(group, now, usize::from(*which));
            }
            Event::Duty(who) => self.consumers[of(who)].step_duty(group, now),
            Event::CutOff(who) => {
                self.consumers[of(who)].duty = None;
                self.consumers[of(who)].machine.end_poll(now);
            }
            Event::Leave(who) => self.consumers[of(who)].step_leave(group),
            Event::Read(who, records) => self.consumers[of(who)].read(i64::from(*records)),
            Event::Pass(ms) => self.now += Duration::from_millis(u64::from(*ms)),
            Event::Start if count < 4 => self.consumers.push(Consumer::new(self.assignor, now)),
            Event::Start => {}
            Event::Close(who) => {
                self.consumers[of(who)].closing = true;
                self.consumers[of(who)].machine.start_leaving();
            }
            Event::Resubscribe(who, both) => {
                let topics: &[&str] = if *both { &["t", "u"] } else { &["t"] };
                let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
                let consumer = &mut self.consumers[of(who)];
                if !consumer.closing {
                    consumer.machine.subscribe(topics);
                }
            }
            Event::Expel(who) => {
                let id = self
                    .group
                    .members
                    .keys()
                    .nth(usize::from(*who) % self.group.members.len().max(1));
                if let Some(id) = id.cloned() {
                    self.group.remove(&id);
                }
            }
            Event::EndJoining => group.end_joining(),
            Event::Jump if !group.members.is_empty() => {
                group.generation += 1;
                group.start_joining();
            }
            Event::Jump => {}
            Event::LoseJoin(who) => {
                let consumer = &mut self.consumers[of(who)];
                if let Some((order, _)) = consumer.join.take() {
                    let lost = CoreError::new(ErrorCode::NetworkException, "lost");
                    consumer
                        .machine
                        .join_failed(order.serial, lost.into(), now, Duration::from_millis(100));
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
            assert!(machine.generation <= machine.announced);
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
                    Event::Join(who),
                    Event::Beat(who),
                    Event::Duty(who),
                    Event::Commit(who, 0),
                    Event::Leave(who),
                    Event::Read(who, 1),
                ] {
                    self.run(&event);
                }
            }
            self.run(&Event::Pass(1_000));
        }
    }

    fn check_rest(&self) {
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
        let mut world = World::new(assignor);
        for event in &events {
            world.run(event);
            for consumer in &world.consumers {
                prop_assert!(!consumer.machine.has_lost(), "{:#?}", consumer);
            }
        }
        world.settle();
        world.check_rest();
        for consumer in &world.consumers {
            prop_assert_eq!(consumer.told_lost, 0);
        }
    }

    /// Members are expelled, answers are lost, generations jump: no offset moves back, no partition
    /// has two owners, and in the end all partitions are read and no dead member is left.
    #[test]
    fn whatever_happens_the_group_recovers_and_no_offset_goes_back(
        assignor in assignor(),
        events in proptest::collection::vec(rough(), 1..300),
    ) {
        let mut world = World::new(assignor);
        for event in &events {
            world.run(event);
        }
        // Ids in answers that the network lost end with their sessions.
        world.settle();
        world.group.pending.clear();
        world.check_rest();
    }
}
