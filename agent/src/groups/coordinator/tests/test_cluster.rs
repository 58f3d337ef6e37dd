//! A cluster for the tests: a real SQLite store, agents with leases in it, and members that call
//! their coordinators.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use streamhouse_core::{PartitionUid, murmur2::group_slot, time::system_entropy};
use streamhouse_metadata::{
    AgentRegistration, GROUP_SLOT_TOPIC, Incarnation, LeaseMove, LeaseMoveOutcome, MetadataStore, NewTopic,
    PartitionEntry,
};

use super::super::*;
use crate::{
    directory::ClusterDirectory,
    faulty_metadata::{
        FaultyMetadataStore, MetadataFault, MetadataFaultHandle, MetadataFaultKind, MetadataMethod,
    },
    groups::{GroupDirectory, GroupLimits, consumer::TopicCatalog},
};
use streamhouse_core::protocol::v1;

/// Methods of the store that a coordinator calls.
const GROUP_METHODS: [MetadataMethod; 4] = [
    MetadataMethod::groups,
    MetadataMethod::put_group,
    MetadataMethod::commit_offsets,
    MetadataMethod::fetch_offsets,
];

/// The store, and the names cached by the agents.
pub(super) struct GroupTestCluster {
    pub(super) store: Arc<FaultyMetadataStore>,
    pub(super) names: Arc<TestTopicNames>,
}

/// The topics that the agents know: none before a refresh.
#[derive(Debug, Default)]
pub(super) struct TestTopicNames {
    store: Mutex<Option<Arc<dyn MetadataStore>>>,
    uids: Mutex<HashMap<(String, i32), (String, PartitionUid)>>,
    directory: ClusterDirectory,
}

#[async_trait]
impl GroupDirectory for TestTopicNames {
    fn resolve_partition(&self, topic: &str, topic_id: &str, partition: i32) -> Result<PartitionUid, Error> {
        match self.uids.lock().get(&(topic.to_owned(), partition)) {
            Some((id, _)) if !topic_id.is_empty() && id != topic_id => Err(Error::new(
                ErrorCode::UnknownTopicId,
                "another topic has the name",
            )),
            Some((_, uid)) => Ok(*uid),
            None => Err(Error::new(
                ErrorCode::UnknownTopicOrPartition,
                "nothing has the name",
            )),
        }
    }

    fn coordinator(&self, _: &str) -> Option<v1::Leader> {
        None
    }

    fn catalog(&self) -> Arc<dyn TopicCatalog> {
        self.directory.view()
    }

    async fn refresh(&self) {
        let store = self.store.lock().clone().unwrap();
        let snapshot = store.snapshot(None).await.unwrap().unwrap();
        self.directory.replace(snapshot.clone());
        let mut uids = self.uids.lock();
        for topic in snapshot.topics {
            for (index, partition) in (0..).zip(topic.partitions) {
                let id = topic.topic_id.to_string();
                uids.insert((topic.name.clone(), index), (id, partition.uid));
            }
        }
    }
}

/// One agent with its coordinator.
pub(super) struct TestAgent {
    pub(super) coordinator: Arc<GroupCoordinator>,
    pub(super) incarnation: Incarnation,
}

pub(super) fn limits() -> GroupLimits {
    GroupLimits {
        initial_rebalance_delay: Duration::ZERO,
        ..GroupLimits::dev()
    }
}

impl GroupTestCluster {
    /// Creates a cluster with the topic "orders" of four partitions.
    pub(super) async fn new() -> Self {
        let store = FaultyMetadataStore::new_in_memory().await;
        let topic = NewTopic {
            name: "orders".to_owned(),
            partitions: 4,
            config: Default::default(),
        };
        store.create_topic(&topic).await.unwrap();
        let names = Arc::new(TestTopicNames::default());
        *names.store.lock() = Some(store.clone());
        Self { store, names }
    }

    /// Lets no call about groups reach the store from now on.
    pub(super) fn disconnect_store(&self) -> MetadataFaultHandle {
        self.store.lose_before(GROUP_METHODS)
    }

    /// Drops the replies to writes of groups from now on.
    pub(super) fn lose_replies(&self) -> MetadataFaultHandle {
        self.store
            .lose_after([MetadataMethod::put_group, MetadataMethod::commit_offsets])
    }

    /// Blocks calls about the group, or the `Slot(n)`, before they take effect.
    pub(super) fn block_calls(&self, about: &str) -> MetadataFaultHandle {
        self.store
            .add_fault(MetadataFault::new(MetadataFaultKind::Hang, GROUP_METHODS).with_argument(about))
    }

    pub(super) async fn agent(&self, name: &str) -> TestAgent {
        self.agent_with(name, limits()).await
    }

    pub(super) async fn agent_with(&self, name: &str, limits: GroupLimits) -> TestAgent {
        let registration = AgentRegistration {
            agent_id: name.to_owned(),
            grpc_address: format!("{name}:1"),
            http_address: String::new(),
            kafka_address: String::new(),
            zone: String::new(),
            version: "0".to_owned(),
            lease_ttl: Duration::from_secs(3600),
        };
        let incarnation = self
            .store
            .register_agent(&registration)
            .await
            .unwrap()
            .incarnation;
        let coordinator = GroupCoordinator::new(CoordinatorDeps {
            store: self.store.clone(),
            entropy: system_entropy(),
            cluster: self.names.clone(),
            metrics: Arc::new(crate::metrics::AgentMetrics::new().unwrap()),
            limits,
        });
        TestAgent {
            coordinator,
            incarnation,
        }
    }

    async fn slot_record(&self, slot: i32) -> PartitionEntry {
        let snapshot = self.store.snapshot(None).await.unwrap().unwrap();
        let topic = snapshot
            .topics
            .iter()
            .find(|topic| topic.name == GROUP_SLOT_TOPIC)
            .unwrap();
        topic.partitions[usize::try_from(slot).unwrap()]
    }

    /// Moves the lease of the group's slot to the agent, without notifying it.
    pub(super) async fn move_lease(&self, agent: &TestAgent, group: &str) -> (i32, Lease) {
        let slot = group_slot(group, GROUP_SLOTS);
        let record = self.slot_record(slot).await;
        let wish = LeaseMove {
            partition: record.uid,
            from: record.holder,
            epoch: record.epoch,
            to: Some(agent.incarnation),
        };
        let outcome = self.store.move_leases(&[wish]).await.unwrap()[0];
        let LeaseMoveOutcome::Moved { epoch, .. } = outcome else {
            panic!("the lease did not move")
        };
        (
            slot,
            Lease {
                partition: record.uid,
                incarnation: agent.incarnation,
                epoch,
            },
        )
    }

    /// Makes the agent the group's coordinator, without notifying the previous one.
    pub(super) async fn make_coordinator(&self, agent: &TestAgent, group: &str) {
        let (slot, lease) = self.move_lease(agent, group).await;
        agent.coordinator.acquire(slot, lease).await.unwrap();
    }

    /// Creates a cluster with one agent that coordinates the group "g".
    pub(super) async fn with_agent() -> (Self, TestAgent) {
        let world = Self::new().await;
        let agent = world.agent("a").await;
        world.make_coordinator(&agent, "g").await;
        (world, agent)
    }
}

pub(super) fn join_request(member_id: &str) -> v1::JoinGroupRequest {
    v1::JoinGroupRequest {
        group_id: "g".to_owned(),
        member_id: member_id.to_owned(),
        client_id: "client".to_owned(),
        protocol_type: "consumer".to_owned(),
        protocols: vec![v1::GroupProtocol {
            name: "range".to_owned(),
            metadata: "what I want".into(),
        }],
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 60_000,
        ..Default::default()
    }
}

impl TestAgent {
    pub(super) async fn join(&self, request: v1::JoinGroupRequest) -> Result<v1::JoinGroupResponse, Error> {
        match self.coordinator.join(request, "127.0.0.1", false).await? {
            JoinOutcome::Joined(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    /// Spawns a join; the handle resolves to its outcome.
    pub(super) fn spawn_join(&self, request: v1::JoinGroupRequest) -> CallHandle<v1::JoinGroupResponse> {
        let coordinator = self.coordinator.clone();
        tokio::spawn(async move {
            match coordinator.join(request, "127.0.0.1", false).await? {
                JoinOutcome::Joined(response) => Ok(response),
                other => panic!("{other:?}"),
            }
        })
    }

    pub(super) async fn sync(&self, member: &v1::JoinGroupResponse) -> Result<v1::SyncGroupResponse, Error> {
        self.coordinator.sync(sync_request(member)).await
    }

    pub(super) fn spawn_sync(&self, member: &v1::JoinGroupResponse) -> CallHandle<v1::SyncGroupResponse> {
        let (coordinator, request) = (self.coordinator.clone(), sync_request(member));
        tokio::spawn(async move { coordinator.sync(request).await })
    }

    pub(super) async fn heartbeat(&self, member: &v1::JoinGroupResponse) -> ErrorCode {
        let request = v1::HeartbeatRequest {
            group_id: "g".to_owned(),
            generation: member.generation,
            member_id: member.member_id.clone(),
            ..Default::default()
        };
        error_code(self.coordinator.heartbeat(&request).await)
    }

    pub(super) async fn leave(&self, member: &v1::JoinGroupResponse) -> Result<(), Error> {
        let request = v1::LeaveGroupRequest {
            group_id: "g".to_owned(),
            member_id: member.member_id.clone(),
            ..Default::default()
        };
        self.coordinator.leave(request).await
    }

    pub(super) async fn commit(&self, member: Option<&v1::JoinGroupResponse>, offset: i64) -> ErrorCode {
        let answer = self
            .coordinator
            .commit_offsets(commit_request("g", member, offset))
            .await;
        let item = |answer: v1::CommitOffsetsResponse| answer.offsets[0].error.clone();
        match answer.map(item) {
            Ok(None) => ErrorCode::None,
            Ok(Some(error)) => ErrorCode::from_number(error.code),
            Err(error) => error.code(),
        }
    }

    /// Returns the committed offset of "g" for orders-0.
    pub(super) async fn committed_offset(&self) -> i64 {
        let request = v1::FetchOffsetsRequest {
            group_id: "g".to_owned(),
            partitions: vec![v1::TopicPartition {
                topic: "orders".to_owned(),
                partition: 0,
                ..Default::default()
            }],
        };
        self.coordinator.fetch_offsets(&request).await.unwrap().offsets[0].offset
    }

    pub(super) async fn state(&self) -> (String, usize) {
        let description = self.coordinator.describe("g").await.unwrap();
        (description.state, description.members.len())
    }

    /// Joins one member, alone and stable.
    pub(super) async fn join_single_member(&self) -> v1::JoinGroupResponse {
        let member = self.join(join_request("")).await.unwrap();
        self.sync(&member).await.unwrap();
        member
    }

    /// Joins two members, the first as the leader, both stable.
    pub(super) async fn join_pair(&self) -> (v1::JoinGroupResponse, v1::JoinGroupResponse) {
        let first = self.join(join_request("")).await.unwrap();
        let second = self.spawn_join(join_request(""));
        wait_until(async || self.heartbeat(&first).await == ErrorCode::RebalanceInProgress).await;
        let first = self.join(join_request(&first.member_id)).await.unwrap();
        let second = second.await.unwrap().unwrap();
        let synced = self.spawn_sync(&second);
        self.sync(&first).await.unwrap();
        synced.await.unwrap().unwrap();
        (first, second)
    }
}

/// The handle of a spawned call.
pub(super) type CallHandle<T> = tokio::task::JoinHandle<Result<T, Error>>;

/// Assigns every member its own id.
fn sync_request(member: &v1::JoinGroupResponse) -> v1::SyncGroupRequest {
    let assignments = member.members.iter().map(|member| v1::MemberAssignment {
        member_id: member.member_id.clone(),
        assignment: member.member_id.clone().into(),
    });
    v1::SyncGroupRequest {
        group_id: "g".to_owned(),
        generation: member.generation,
        member_id: member.member_id.clone(),
        assignments: assignments.collect(),
        ..Default::default()
    }
}

pub(super) fn commit_request(
    group: &str,
    member: Option<&v1::JoinGroupResponse>,
    offset: i64,
) -> v1::CommitOffsetsRequest {
    v1::CommitOffsetsRequest {
        group_id: group.to_owned(),
        generation: member.map_or(-1, |member| member.generation),
        member_id: member.map(|member| member.member_id.clone()).unwrap_or_default(),
        offsets: vec![offset_to_commit("orders", 0, offset)],
        ..Default::default()
    }
}

pub(super) fn offset_to_commit(topic: &str, partition: i32, offset: i64) -> v1::CommitOffset {
    v1::CommitOffset {
        topic: topic.to_owned(),
        partition,
        offset,
        leader_epoch: 3,
        metadata: format!("at {offset}"),
        topic_id: String::new(),
    }
}

pub(super) fn error_code<T>(outcome: Result<T, Error>) -> ErrorCode {
    outcome.map_or_else(|error| error.code(), |_| ErrorCode::None)
}

/// Waits until the condition holds.
pub(super) async fn wait_until(mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .expect("the condition must come true");
}
