//! A small in-memory cluster behind real gRPC, with scripted faults: what the client's tests run against. It keeps the
//! rules that the client relies on (leaders with epochs, idempotent producers, groups) and nothing else.

#![allow(dead_code, unreachable_pub)] // a module of several test programs, each with its own use of it

mod admin;
mod data;
pub mod groups;
pub mod log;
pub mod reading;

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

use self::log::Log;

/// What goes wrong with one produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
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
    /// Stored; every partition is answered with this error all the same.
    StoreAndFail(ErrorCode),
    /// The leader of every partition in it moves to the next agent first.
    MoveLeader,
    /// Nothing goes wrong: a place in the script.
    None,
}

/// A partition.
#[derive(Debug, Default)]
pub struct Partition {
    pub log: Log,
    pub leader: usize,
    pub epoch: i32,
    /// Nobody leads it, though every agent serves it.
    pub leaderless: bool,
    /// Offsets whose object is damaged.
    pub damaged: Option<Range<i64>>,
}

/// A produce request that arrived.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub at: Instant,
    pub agent: usize,
}

#[derive(Debug, Default)]
pub struct State {
    pub topics: HashMap<String, Vec<Partition>>,
    pub addresses: Vec<String>,
    /// One for each produce request, in order; none left: nothing goes wrong.
    pub faults: VecDeque<Fault>,
    pub arrivals: Vec<Arrival>,
    /// Whether leaders are named when another agent is asked.
    pub hints: bool,
    pub metadata_asked: usize,
    /// How often each topic was made: the first has the id `id-<name>`.
    pub made: HashMap<String, usize>,
    /// The largest batch of each topic that has a limit, and whether metadata say so.
    pub limits: HashMap<String, (usize, bool)>,
    /// The largest request, in bytes of records; 0 without a limit.
    pub largest_request: usize,
    pub fetches: Vec<usize>,
    next_producer: i64,
    groups: HashMap<String, groups::Group>,
}

/// The cluster: clones share it.
#[derive(Clone)]
pub struct Cluster {
    pub state: Arc<Mutex<State>>,
    dead: Arc<Vec<AtomicBool>>,
    /// Told when a log grows or a group changes.
    pub changed: Arc<Notify>,
    servers: Arc<Vec<AbortHandle>>,
}

/// One agent of it.
#[derive(Clone)]
struct Agent {
    cluster: Cluster,
    index: usize,
}

impl Cluster {
    /// Starts so many agents on free ports.
    pub async fn start(agents: usize) -> Self {
        Self::start_with(agents, None).await
    }

    /// Starts one agent that speaks TLS.
    pub async fn start_secure(tls: ServerTlsConfig) -> Self {
        Self::start_with(1, Some(tls)).await
    }

    async fn start_with(agents: usize, tls: Option<ServerTlsConfig>) -> Self {
        let mut listeners = Vec::new();
        let mut state = State {
            hints: true,
            ..State::default()
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
            let agent = Agent {
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

    /// Makes a topic, or makes it anew; its partitions are led by the agents in turn.
    pub fn create(&self, topic: &str, partitions: usize) {
        let mut state = self.state.lock();
        *state.made.entry(topic.to_owned()).or_default() += 1;
        state.topics.insert(topic.to_owned(), Vec::new());
        drop(state);
        self.grow(topic, partitions);
    }

    /// Gives a topic more partitions.
    pub fn grow(&self, topic: &str, partitions: usize) {
        let mut state = self.state.lock();
        let agents = state.addresses.len();
        let all = state.topics.get_mut(topic).unwrap();
        for at in all.len()..partitions {
            all.push(Partition {
                leader: at % agents,
                epoch: 1,
                ..Partition::default()
            });
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Deletes a topic, and what groups have committed for it.
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
    pub fn change(&self, topic: &str, partition: usize, change: impl FnOnce(&mut Partition)) {
        change(&mut self.state.lock().topics.get_mut(topic).unwrap()[partition]);
        self.changed.notify_waiters();
    }

    /// Where the agents are: all, or one.
    pub fn bootstrap(&self) -> String {
        self.state.lock().addresses.join(",")
    }

    pub fn address(&self, agent: usize) -> String {
        self.state.lock().addresses[agent].clone()
    }

    /// Goes wrong with the next requests, one each.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().faults.extend(faults);
    }

    /// The agent answers nothing but errors any more; its partitions move to the next living one.
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

    /// Waits until the cluster is as wished; looks again whenever it changes.
    pub async fn wait_until(&self, done: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on a change is not missed.
            changed.as_mut().enable();
            if done(self) {
                return;
            }
            changed.await;
        }
    }

    /// The values in a partition, in order.
    pub fn values(&self, topic: &str, partition: usize) -> Vec<String> {
        self.state.lock().topics[topic][partition].log.values()
    }

    /// What a topic holds, partition by partition.
    pub fn all_values(&self, topic: &str) -> Vec<Vec<String>> {
        let state = self.state.lock();
        state.topics[topic]
            .iter()
            .map(|partition| partition.log.values())
            .collect()
    }

    /// Limits the batches of a topic; metadata say so, or not.
    pub fn limit(&self, topic: &str, bytes: usize, said: bool) {
        self.state.lock().limits.insert(topic.to_owned(), (bytes, said));
    }

    fn leader(&self, state: &State, partition: &Partition) -> v1::Leader {
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

impl State {
    pub fn topic_id(&self, topic: &str) -> String {
        match self.made.get(topic) {
            None | Some(1) => format!("id-{topic}"),
            Some(times) => format!("id-{topic}-{times}"),
        }
    }

    /// The partition that is meant.
    fn find(&self, topic: &str, id: &str, partition: i32) -> Result<&Partition, Error> {
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

impl Agent {
    fn alive(&self) -> Result<(), Status> {
        if self.cluster.dead[self.index].load(Ordering::SeqCst) {
            return Err(Status::unavailable("the agent is dead"));
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The servers hold clones; the last handle of a test holds the only copy of this list with them.
        if Arc::strong_count(&self.servers) == 1 {
            self.servers.iter().for_each(AbortHandle::abort);
        }
    }
}
