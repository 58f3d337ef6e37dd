//! The group service of the fake agents: one coordinator (agent 0), Kafka's group states, and a
//! rebalance that completes when every member has joined again or was removed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use bytes::Bytes;
use streamhouse_core::{
    Error, ErrorCode,
    protocol::v1::{self, group_service_server::GroupService},
};
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status};

use super::FakeAgent;

/// A member that does not join again within this time is removed.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub struct FakeGroup {
    pub generation: i32,
    /// Start of the join phase in progress.
    joining: Option<Instant>,
    members: BTreeMap<String, FakeMember>,
    leader: String,
    assignments: Option<HashMap<String, Bytes>>,
    next_member: usize,
    /// Assigned ids that have not joined yet.
    pending: BTreeSet<String>,
    pub committed: HashMap<(String, i32), i64>,
    /// Metadata committed with the offsets.
    notes: HashMap<(String, i32), String>,
    /// Committed offsets in order, with their generations.
    pub commits: Vec<(i32, i64)>,
    /// Heartbeats of members, whatever their answer.
    pub beats: usize,
    /// Calls that a test holds back.
    pub held: BTreeSet<HeldCall>,
    /// Number of calls held back now.
    pub waiting: usize,
}

/// A kind of call that a test can hold back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldCall {
    /// A member's request for an id.
    Id,
    /// Joins: none is answered.
    Join,
    /// Commits: processed when released.
    Commit,
    /// Answers to commits that were processed.
    CommitAnswer,
}

#[derive(Debug, Default)]
struct FakeMember {
    request: v1::JoinGroupRequest,
    /// Whether it has joined in the current join phase.
    joined: bool,
}

fn refuse(code: ErrorCode) -> Status {
    Error::new(code, "the fake coordinator says so").into()
}

impl FakeGroup {
    fn next_id(&mut self) -> String {
        self.next_member += 1;
        format!("member-{:03}", self.next_member)
    }

    /// Ends the join phase when all members have joined; removes those that take too long.
    fn try_complete(&mut self) {
        let Some(since) = self.joining else { return };
        if self.held.contains(&HeldCall::Join) {
            return;
        }
        if since.elapsed() > REJOIN_TIMEOUT {
            self.members.retain(|_, member| member.joined);
        }
        if !self.members.is_empty() && self.members.values().all(|member| member.joined) {
            self.joining = None;
            self.generation += 1;
            self.assignments = None;
            if !self.members.contains_key(&self.leader) {
                self.leader = self.members.keys().next().cloned().unwrap_or_default();
            }
        }
    }

    fn start_joining(&mut self) {
        if self.joining.is_none() {
            self.joining = Some(Instant::now());
            self.members.values_mut().for_each(|member| member.joined = false);
        }
    }

    fn check(&self, member: &str, generation: i32) -> Result<(), Status> {
        if !self.members.contains_key(member) {
            return Err(refuse(ErrorCode::UnknownMemberId));
        }
        if generation != self.generation {
            return Err(refuse(ErrorCode::IllegalGeneration));
        }
        Ok(())
    }

    fn join_answer(&self, member_id: &str) -> v1::JoinGroupResponse {
        let names = |member: &FakeMember| {
            member
                .request
                .protocols
                .iter()
                .map(|p| p.name.clone())
                .collect::<Vec<_>>()
        };
        let common = |name: &String| self.members.values().all(|member| names(member).contains(name));
        let protocol_name = names(&self.members[member_id])
            .into_iter()
            .find(common)
            .unwrap_or_default();
        let joined = |(id, member): (&String, &FakeMember)| v1::JoinedMember {
            member_id: id.clone(),
            group_instance_id: member.request.group_instance_id.clone(),
            metadata: member
                .request
                .protocols
                .iter()
                .find(|p| p.name == protocol_name)
                .unwrap()
                .metadata
                .clone(),
        };
        v1::JoinGroupResponse {
            generation: self.generation,
            protocol_type: "consumer".into(),
            members: if member_id == self.leader {
                self.members.iter().map(joined).collect()
            } else {
                Vec::new()
            },
            protocol_name,
            leader: self.leader.clone(),
            member_id: member_id.to_owned(),
        }
    }
}

impl FakeAgent {
    /// Returns the error of a partition that does not belong to the requested topic id.
    fn check_topic_id(&self, topic: &str, id: &str, partition: i32) -> Option<v1::Error> {
        let state = self.cluster.state.lock();
        state.find(topic, id, partition).err().map(Into::into)
    }

    fn check_coordinator(&self) -> Result<(), Status> {
        self.check_alive()?;
        if self.index == 0 {
            Ok(())
        } else {
            Err(refuse(ErrorCode::NotCoordinator))
        }
    }

    /// Waits until `done` returns a value, checking again whenever the group changes.
    async fn wait_for<T>(
        &self,
        group: &str,
        done: impl Fn(&mut FakeGroup) -> Option<Result<T, Status>>,
    ) -> Result<T, Status> {
        loop {
            let changed = self.cluster.changed.notified();
            let found = done(
                self.cluster
                    .state
                    .lock()
                    .groups
                    .entry(group.to_owned())
                    .or_default(),
            );
            if let Some(found) = found {
                self.cluster.changed.notify_waiters();
                return found;
            }
            let _ = timeout(Duration::from_millis(100), changed).await;
        }
    }

    /// Waits while calls of this kind are held back.
    async fn wait_while_held(&self, group: &str, call: HeldCall) {
        self.with_group(group, |group| group.waiting += 1);
        let free = |group: &mut FakeGroup| (!group.held.contains(&call)).then_some(Ok(()));
        let _ = self.wait_for(group, free).await;
        self.with_group(group, |group| group.waiting -= 1);
    }

    fn with_group(&self, group: &str, act: impl FnOnce(&mut FakeGroup)) {
        act(self
            .cluster
            .state
            .lock()
            .groups
            .entry(group.to_owned())
            .or_default());
        self.cluster.changed.notify_waiters();
    }

    fn with<T>(
        &self,
        group: &str,
        act: impl FnOnce(&mut FakeGroup) -> Result<T, Status>,
    ) -> Result<T, Status> {
        self.check_coordinator()?;
        let answer = act(self
            .cluster
            .state
            .lock()
            .groups
            .entry(group.to_owned())
            .or_default());
        self.cluster.changed.notify_waiters();
        answer
    }
}

#[tonic::async_trait]
impl GroupService for FakeAgent {
    async fn find_coordinator(
        &self,
        _: Request<v1::FindCoordinatorRequest>,
    ) -> Result<Response<v1::FindCoordinatorResponse>, Status> {
        self.check_alive()?;
        let address = self.cluster.address(0);
        let coordinator = v1::Leader {
            agent_id: "agent-0".into(),
            epoch: 1,
            address,
        };
        Ok(Response::new(v1::FindCoordinatorResponse {
            coordinator: Some(coordinator),
        }))
    }

    async fn join_group(
        &self,
        request: Request<v1::JoinGroupRequest>,
    ) -> Result<Response<v1::JoinGroupResponse>, Status> {
        let request = request.into_inner();
        let group = request.group_id.clone();
        if request.require_known_member_id && request.member_id.is_empty() {
            self.wait_while_held(&group, HeldCall::Id).await;
            let member_id = self.with(&group, |group| {
                let id = group.next_id();
                group.pending.insert(id.clone());
                Ok(id)
            })?;
            return Ok(Response::new(v1::JoinGroupResponse {
                generation: -1,
                member_id,
                ..Default::default()
            }));
        }
        let (member_id, before) = self.with(&group, |group| {
            let mut id = request.member_id.clone();
            if id.is_empty() {
                id = group.next_id();
            } else if !group.pending.remove(&id) && !group.members.contains_key(&id) {
                return Err(refuse(ErrorCode::UnknownMemberId));
            }
            group.start_joining();
            group.members.insert(
                id.clone(),
                FakeMember {
                    request,
                    joined: true,
                },
            );
            Ok((id, group.generation))
        })?;
        let answer = self.wait_for(&group, |group| {
            group.try_complete();
            if !group.members.contains_key(&member_id) {
                return Some(Err(refuse(ErrorCode::UnknownMemberId)));
            }
            // Another member may join again before this task has checked.
            let is_complete = group.joining.is_none() || group.generation > before;
            is_complete.then(|| Ok(group.join_answer(&member_id)))
        });
        answer.await.map(Response::new)
    }

    async fn sync_group(
        &self,
        request: Request<v1::SyncGroupRequest>,
    ) -> Result<Response<v1::SyncGroupResponse>, Status> {
        let request = request.into_inner();
        self.with(&request.group_id, |group| {
            group.check(&request.member_id, request.generation)?;
            if request.member_id == group.leader && group.joining.is_none() {
                let given = request
                    .assignments
                    .iter()
                    .map(|a| (a.member_id.clone(), a.assignment.clone()));
                group.assignments = Some(given.collect());
            }
            Ok(())
        })?;
        let assignment = self.wait_for(&request.group_id, |group| {
            if let Err(status) = group.check(&request.member_id, request.generation) {
                return Some(Err(status));
            }
            if group.joining.is_some() {
                return Some(Err(refuse(ErrorCode::RebalanceInProgress)));
            }
            let given = group.assignments.as_ref()?;
            Some(Ok(given.get(&request.member_id).cloned().unwrap_or_default()))
        });
        let assignment = assignment.await?;
        Ok(Response::new(v1::SyncGroupResponse {
            assignment,
            protocol_name: String::new(),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let request = request.into_inner();
        self.with(&request.group_id, |group| {
            group.beats += 1;
            group.check(&request.member_id, request.generation)?;
            if group.joining.is_some() {
                return Err(refuse(ErrorCode::RebalanceInProgress));
            }
            Ok(Response::new(v1::HeartbeatResponse {}))
        })
    }

    async fn leave_group(
        &self,
        request: Request<v1::LeaveGroupRequest>,
    ) -> Result<Response<v1::LeaveGroupResponse>, Status> {
        let request = request.into_inner();
        self.with(&request.group_id, |group| {
            if group.pending.remove(&request.member_id) {
                return Ok(Response::new(v1::LeaveGroupResponse {}));
            }
            group
                .members
                .remove(&request.member_id)
                .ok_or_else(|| refuse(ErrorCode::UnknownMemberId))?;
            group.start_joining();
            if group.members.is_empty() {
                group.joining = None;
            }
            Ok(Response::new(v1::LeaveGroupResponse {}))
        })
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        let request = request.into_inner();
        let group_id = request.group_id.clone();
        self.wait_while_held(&group_id, HeldCall::Commit).await;
        let meant = |of: &v1::CommitOffset| self.check_topic_id(&of.topic, &of.topic_id, of.partition);
        let errors: Vec<_> = request.offsets.iter().map(meant).collect();
        let answer = self.with(&group_id, |group| {
            if request.generation >= 0 {
                group.check(&request.member_id, request.generation)?;
                if group.joining.is_none() && group.assignments.is_none() {
                    return Err(refuse(ErrorCode::RebalanceInProgress));
                }
            }
            let offsets = request.offsets.into_iter().zip(errors).map(|(offset, error)| {
                let key = (offset.topic.clone(), offset.partition);
                group.commits.push((request.generation, offset.offset));
                if error.is_none() {
                    group.notes.insert(key.clone(), offset.metadata);
                    group.committed.insert(key, offset.offset);
                }
                v1::CommitOffsetResult {
                    topic: offset.topic,
                    partition: offset.partition,
                    error,
                }
            });
            Ok(Response::new(v1::CommitOffsetsResponse {
                offsets: offsets.collect(),
            }))
        });
        self.wait_while_held(&group_id, HeldCall::CommitAnswer).await;
        answer
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Result<Response<v1::FetchOffsetsResponse>, Status> {
        let request = request.into_inner();
        let meant = |of: &v1::TopicPartition| self.check_topic_id(&of.topic, &of.topic_id, of.partition);
        let errors: Vec<_> = request.partitions.iter().map(meant).collect();
        self.with(&request.group_id, |group| {
            let offsets = request
                .partitions
                .into_iter()
                .zip(errors)
                .map(|(p, error)| v1::CommittedOffset {
                    error,
                    offset: group
                        .committed
                        .get(&(p.topic.clone(), p.partition))
                        .copied()
                        .unwrap_or(-1),
                    metadata: group
                        .notes
                        .get(&(p.topic.clone(), p.partition))
                        .cloned()
                        .unwrap_or_default(),
                    topic: p.topic,
                    partition: p.partition,
                    ..Default::default()
                });
            Ok(Response::new(v1::FetchOffsetsResponse {
                offsets: offsets.collect(),
            }))
        })
    }

    async fn list_groups(
        &self,
        _: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn describe_group(
        &self,
        _: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::GroupDescription>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn delete_group(
        &self,
        _: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn reset_offsets(
        &self,
        _: Request<v1::ResetOffsetsRequest>,
    ) -> Result<Response<v1::ResetOffsetsResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }
}

impl super::FakeClusterState {
    /// Returns the number of heartbeats of a group.
    pub fn group_beats(&self, group: &str) -> usize {
        self.groups.get(group).map_or(0, |group| group.beats)
    }

    /// Returns the number of calls to a group that are held back.
    pub fn group_waiting(&self, group: &str) -> usize {
        let held = |group: &FakeGroup| if group.held.is_empty() { 0 } else { group.waiting };
        self.groups.get(group).map_or(0, held)
    }
}

impl super::FakeCluster {
    /// Returns a group's committed offset; -1 without one.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> i64 {
        let state = self.state.lock();
        let committed = state
            .groups
            .get(group)
            .and_then(|group| group.committed.get(&(topic.to_owned(), partition)));
        committed.copied().unwrap_or(-1)
    }

    /// Removes a member, as a coordinator does after the session time-out.
    pub fn expel(&self, group: &str, member: &str) {
        let mut state = self.state.lock();
        let group = state.groups.get_mut(group).unwrap();
        group.members.remove(member).unwrap();
        group.start_joining();
        if group.members.is_empty() {
            group.joining = None;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Reads or changes the state of a group.
    pub fn group<T>(&self, group: &str, act: impl FnOnce(&mut FakeGroup) -> T) -> T {
        let outcome = act(self.state.lock().groups.entry(group.to_owned()).or_default());
        self.changed.notify_waiters();
        outcome
    }

    /// Holds back calls of this kind.
    pub fn hold(&self, group: &str, call: HeldCall) {
        self.group(group, |group| group.held.insert(call));
    }

    /// Releases calls of this kind.
    pub fn release(&self, group: &str, call: HeldCall) {
        self.group(group, |group| group.held.remove(&call));
    }

    /// Returns the number of members, including assigned ids that have not joined yet.
    pub fn members(&self, group: &str) -> usize {
        self.state
            .lock()
            .groups
            .get(group)
            .map_or(0, |group| group.members.len() + group.pending.len())
    }
}
