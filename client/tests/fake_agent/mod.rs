//! A small in-memory cluster behind real gRPC, with scripted faults, for the client's tests. It
//! implements only the rules that the client relies on: leaders with epochs, idempotent producers,
//! groups.

#![allow(dead_code, unreachable_pub)] // a module of several test programs, each with its own use of it

mod admin;
mod data;
pub mod groups;
pub mod helpers;
pub mod log;

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use streamhouse_core::{
    Error, ErrorCode,
    protocol::v1::{
        self, admin_service_server::AdminServiceServer, data_service_server::DataServiceServer,
        group_service_server::GroupServiceServer,
    },
};
use tokio::{net::TcpListener, sync::Notify, task::AbortHandle, time::Instant};
use tonic::{
    Status,
    transport::{Server, ServerTlsConfig},
};

use self::log::FakeLog;

/// A fault of one produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProduceFault {
    /// Stored, but the stream breaks before the answer.
    LoseAnswer,
    /// Not stored, and the stream breaks.
    LoseRequest,
    /// Not stored; every partition is answered with this error.
    Refuse(ErrorCode),
    /// Stored, but never answered.
    Silence,
    /// Stored and answered, with a throttle in milliseconds.
    Throttle(u32),
    /// Stored, but every partition is answered with this error.
    StoreAndFail(ErrorCode),
    /// The leader of every partition in the request moves to the next agent first.
    MoveLeader,
    /// No fault: a placeholder in the script.
    None,
}

/// A partition.
#[derive(Debug, Default)]
pub struct FakePartition {
    pub log: FakeLog,
    pub leader: usize,
    pub epoch: i32,
    /// Whether it has no leader, though every agent serves it.
    pub leaderless: bool,
    /// Offsets whose object is damaged.
    pub damaged: Option<Range<i64>>,
}

/// A produce request that arrived.
#[derive(Debug, Clone, Copy)]
pub struct RequestArrival {
    pub at: Instant,
    pub agent: usize,
}

#[derive(Debug, Default)]
pub struct FakeClusterState {
    pub topics: HashMap<String, Vec<FakePartition>>,
    pub addresses: Vec<String>,
    /// One per produce request, in order; without any left, there is no fault.
    pub faults: VecDeque<ProduceFault>,
    pub arrivals: Vec<RequestArrival>,
    /// Whether answers of other agents name the leader.
    pub hints: bool,
    pub metadata_asked: usize,
    /// How often each topic was created: the first has the id `id-<name>`.
    pub creations: HashMap<String, usize>,
    /// Largest batch of each topic with a limit, and whether metadata answers contain it.
    pub limits: HashMap<String, (usize, bool)>,
    /// Largest request, in bytes of records; 0 for no limit.
    pub largest_request: usize,
    pub fetches: Vec<usize>,
    next_producer: i64,
    groups: HashMap<String, groups::FakeGroup>,
}

/// A cluster of fake agents. Clones share it.
#[derive(Clone)]
pub struct FakeCluster {
    pub state: Arc<Mutex<FakeClusterState>>,
    dead: Arc<Vec<AtomicBool>>,
    /// Notified when a log grows or a group changes.
    pub changed: Arc<Notify>,
    servers: Arc<Vec<AbortHandle>>,
}

/// One agent of the cluster.
#[derive(Clone)]
struct FakeAgent {
    cluster: FakeCluster,
    index: usize,
}

impl FakeCluster {
    /// Starts this many agents on free ports.
    pub async fn start(agents: usize) -> Self {
        Self::start_with(agents, None).await
    }

    /// Starts one agent with TLS.
    pub async fn start_secure(tls: ServerTlsConfig) -> Self {
        Self::start_with(1, Some(tls)).await
    }

    async fn start_with(agents: usize, tls: Option<ServerTlsConfig>) -> Self {
        let mut listeners = Vec::new();
        let mut state = FakeClusterState {
            hints: true,
            ..FakeClusterState::default()
        };
        for _ in 0..agents {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            state.addresses.push(listener.local_addr().unwrap().to_string());
            listeners.push(listener);
        }
        let mut cluster = Self {
            state: Arc::new(Mutex::new(state)),
            dead: Arc::new((0..agents).map(|_| AtomicBool::new(false)).collect()),
            changed: Arc::default(),
            servers: Arc::default(),
        };
        let mut servers = Vec::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            let agent = FakeAgent {
                cluster: cluster.clone(),
                index,
            };
            let mut server = Server::builder();
            if let Some(tls) = &tls {
                server = server.tls_config(tls.clone()).unwrap();
            }
            let server = server
                .add_service(
                    DataServiceServer::new(agent.clone())
                        .max_decoding_message_size(64 << 20)
                        .max_encoding_message_size(64 << 20),
                )
                .add_service(AdminServiceServer::new(agent.clone()))
                .add_service(GroupServiceServer::new(agent));
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            servers.push(tokio::spawn(server.serve_with_incoming(incoming)).abort_handle());
        }
        cluster.servers = Arc::new(servers);
        cluster
    }

    /// Creates or recreates a topic. Its partitions are led by the agents in turn.
    pub fn create(&self, topic: &str, partitions: usize) {
        let mut state = self.state.lock();
        *state.creations.entry(topic.to_owned()).or_default() += 1;
        state.topics.insert(topic.to_owned(), Vec::new());
        drop(state);
        self.grow(topic, partitions);
    }

    /// Adds partitions to a topic.
    pub fn grow(&self, topic: &str, partitions: usize) {
        let mut state = self.state.lock();
        let agents = state.addresses.len();
        let all = state.topics.get_mut(topic).unwrap();
        for at in all.len()..partitions {
            all.push(FakePartition {
                leader: at % agents,
                epoch: 1,
                ..FakePartition::default()
            });
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Deletes a topic and its committed offsets.
    pub fn delete(&self, topic: &str) {
        let mut state = self.state.lock();
        state.topics.remove(topic).unwrap();
        for group in state.groups.values_mut() {
            group.committed.retain(|(of, _), _| of != topic);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Changes a partition.
    pub fn change(&self, topic: &str, partition: usize, change: impl FnOnce(&mut FakePartition)) {
        change(&mut self.state.lock().topics.get_mut(topic).unwrap()[partition]);
        self.changed.notify_waiters();
    }

    /// Returns the addresses of all agents, or of one.
    pub fn bootstrap(&self) -> String {
        self.state.lock().addresses.join(",")
    }

    pub fn address(&self, agent: usize) -> String {
        self.state.lock().addresses[agent].clone()
    }

    /// Scripts faults for the next requests, one each.
    pub fn script_faults(&self, faults: impl IntoIterator<Item = ProduceFault>) {
        self.state.lock().faults.extend(faults);
    }

    /// Makes an agent answer only with errors; its partitions move to the next live one.
    pub fn kill(&self, agent: usize) {
        self.dead[agent].store(true, Ordering::SeqCst);
        let agents = self.dead.len();
        for partition in self.state.lock().topics.values_mut().flatten() {
            if partition.leader == agent {
                partition.leader = (agent + 1) % agents;
                partition.epoch += 1;
            }
        }
        self.changed.notify_waiters();
    }

    /// Waits until a condition holds, checking again whenever the cluster changes.
    pub async fn wait_until(&self, done: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on, no change is missed.
            changed.as_mut().enable();
            if done(self) {
                return;
            }
            changed.await;
        }
    }

    /// Returns the values in a partition, in order.
    pub fn values(&self, topic: &str, partition: usize) -> Vec<String> {
        self.state.lock().topics[topic][partition].log.values()
    }

    /// Returns the values of a topic by partition.
    pub fn all_values(&self, topic: &str) -> Vec<Vec<String>> {
        let state = self.state.lock();
        state.topics[topic]
            .iter()
            .map(|partition| partition.log.values())
            .collect()
    }

    /// Limits the batches of a topic; `said` is whether metadata answers contain the limit.
    pub fn limit_batches(&self, topic: &str, bytes: usize, said: bool) {
        self.state.lock().limits.insert(topic.to_owned(), (bytes, said));
    }

    fn leader(&self, state: &FakeClusterState, partition: &FakePartition) -> v1::Leader {
        if partition.leaderless {
            return v1::Leader {
                epoch: partition.epoch,
                ..v1::Leader::default()
            };
        }
        v1::Leader {
            agent_id: format!("agent-{}", partition.leader),
            epoch: partition.epoch,
            address: state.addresses[partition.leader].clone(),
        }
    }
}

impl FakeClusterState {
    pub fn topic_id(&self, topic: &str) -> String {
        match self.creations.get(topic) {
            None | Some(1) => format!("id-{topic}"),
            Some(times) => format!("id-{topic}-{times}"),
        }
    }

    /// Returns the partition of the requested topic id.
    fn find(&self, topic: &str, id: &str, partition: i32) -> Result<&FakePartition, Error> {
        let partitions = self.topics.get(topic);
        if partitions.is_some() && !id.is_empty() && id != self.topic_id(topic) {
            return Err(Error::new(
                ErrorCode::UnknownTopicId,
                "another topic has the name",
            ));
        }
        let found = partitions.and_then(|partitions| partitions.get(usize::try_from(partition).ok()?));
        found.ok_or_else(|| Error::new(ErrorCode::UnknownTopicOrPartition, "no such partition"))
    }
}

impl FakeAgent {
    fn check_alive(&self) -> Result<(), Status> {
        if self.cluster.dead[self.index].load(Ordering::SeqCst) {
            return Err(Status::unavailable("the agent is dead"));
        }
        Ok(())
    }
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        // The servers hold clones; only a test's last handle holds the remaining copy of this list.
        if Arc::strong_count(&self.servers) == 1 {
            self.servers.iter().for_each(AbortHandle::abort);
        }
    }
}
