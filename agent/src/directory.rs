//! Owns this agent's view of the cluster: topics, agents and leaders, from the newest snapshot of
//! the metadata store. The lease keeper replaces the view; all others read it without waiting.
//!
//! It may be slightly stale. Safety does not depend on it: every write is fenced in the metadata
//! transaction.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use streamhouse_core::{
    Error, ErrorCode, Incarnation, PartitionUid, protocol::v1, topic_config::TopicConfig,
};
use streamhouse_metadata::{AgentEntry, ClusterSnapshot, PartitionEntry, TopicEntry};
use tokio::sync::{Notify, watch};
use tokio::time::{Duration, Instant, timeout};
use uuid::Uuid;

/// A topic of the snapshot, with parsed settings.
#[derive(Debug)]
pub struct DirectoryTopic {
    /// Record of the metadata store.
    pub record: TopicEntry,
    /// Id of the topic, in the form that clients use.
    pub id: String,
    /// Effective settings.
    pub config: TopicConfig,
}

/// An indexed snapshot.
#[derive(Debug, Default)]
pub struct ClusterView {
    /// Version of the snapshot; 0 before the first one.
    pub version: u64,
    /// Id of the cluster.
    pub cluster_id: String,
    topics: HashMap<String, Arc<DirectoryTopic>>,
    topics_by_id: HashMap<Uuid, Arc<DirectoryTopic>>,
    partitions: HashMap<PartitionUid, (Arc<DirectoryTopic>, i32)>,
    agents: HashMap<Incarnation, AgentEntry>,
    /// The snapshot itself.
    pub snapshot: ClusterSnapshot,
    loaded_at: Option<Instant>,
}

impl ClusterView {
    fn new(snapshot: ClusterSnapshot) -> Self {
        let mut view = Self {
            version: snapshot.version,
            cluster_id: snapshot.cluster_id.clone(),
            loaded_at: Some(Instant::now()),
            agents: snapshot
                .agents
                .iter()
                .map(|a| (a.incarnation, a.clone()))
                .collect(),
            ..Self::default()
        };
        for record in &snapshot.topics {
            let config = TopicConfig::from_stored(&record.config);
            let topic = Arc::new(DirectoryTopic {
                record: record.clone(),
                id: record.topic_id.to_string(),
                config,
            });
            for (index, partition) in (0_i32..).zip(&record.partitions) {
                view.partitions.insert(partition.uid, (topic.clone(), index));
            }
            view.topics_by_id.insert(record.topic_id, topic.clone());
            view.topics.insert(record.name.clone(), topic);
        }
        view.snapshot = snapshot;
        view
    }

    /// Returns the age of the snapshot.
    pub fn age(&self) -> Duration {
        self.loaded_at.map_or(Duration::ZERO, |taken| taken.elapsed())
    }

    /// Returns the topic with this name.
    pub fn topic(&self, name: &str) -> Option<&Arc<DirectoryTopic>> {
        self.topics.get(name)
    }

    /// Returns whether the topic with this name is the cluster's own.
    pub fn is_internal(&self, topic: &str) -> bool {
        self.topics.get(topic).is_some_and(|topic| topic.record.internal)
    }

    /// Returns the topic with this id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<DirectoryTopic>> {
        self.topics_by_id.get(&id)
    }

    /// Returns all topics in no particular order, including the internal one.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<DirectoryTopic>> {
        self.topics.values()
    }

    /// Returns a partition by topic and number.
    pub fn partition(&self, topic: &str, partition: i32) -> Option<&PartitionEntry> {
        let index = usize::try_from(partition).ok()?;
        self.topics.get(topic)?.record.partitions.get(index)
    }

    /// Returns the partition that a client means: by name and, unless `id` is empty, also by topic
    /// id. A topic that was deleted and created again has the same name and another id.
    ///
    /// # Errors
    ///
    /// `UnknownTopicOrPartition`, or `UnknownTopicId` if the name belongs to another topic.
    pub fn find_partition(&self, topic: &str, id: &str, partition: i32) -> Result<&PartitionEntry, Error> {
        let found = self.topics.get(topic);
        if let Some(found) = found
            && !id.is_empty()
            && found.id != id
        {
            let message = format!(
                "topic {topic:?} with the id {id} was deleted, and the topic with that name now has the id {}: refresh the \
                 metadata and look up offsets again",
                found.id
            );
            return Err(Error::new(ErrorCode::UnknownTopicId, message));
        }
        let record = found.and_then(|found| found.record.partitions.get(usize::try_from(partition).ok()?));
        record.ok_or_else(|| {
            Error::new(
                ErrorCode::UnknownTopicOrPartition,
                format!("there is no partition {topic}-{partition}"),
            )
        })
    }

    /// Returns topic and number of a partition.
    pub fn partition_name(&self, uid: PartitionUid) -> Option<(&Arc<DirectoryTopic>, i32)> {
        self.partitions.get(&uid).map(|(topic, index)| (topic, *index))
    }

    /// Returns the live agents, in no particular order.
    pub fn agents(&self) -> impl Iterator<Item = &AgentEntry> {
        self.agents.values()
    }

    /// Returns the agent of this incarnation, if it is live.
    pub fn agent(&self, incarnation: Incarnation) -> Option<&AgentEntry> {
        self.agents.get(&incarnation)
    }

    /// Returns whether a live agent leads the partition.
    pub fn is_led(&self, record: &PartitionEntry) -> bool {
        record
            .holder
            .is_some_and(|holder| self.agents.contains_key(&holder))
    }

    /// Returns how many partitions are led by a live agent, and how many are leaderless; of the
    /// coordinator slots or of user topics.
    pub fn count_led(&self, slots: bool) -> (usize, usize) {
        let records = self
            .topics()
            .filter(|topic| topic.record.internal == slots)
            .flat_map(|topic| &topic.record.partitions);
        records.fold((0, 0), |(led, leaderless), record| {
            let led_now = self.is_led(record);
            (led + usize::from(led_now), leaderless + usize::from(!led_now))
        })
    }

    /// Returns how many ended incarnations are not yet swept, and how long ago the first of them
    /// ended.
    pub fn unswept_backlog(&self) -> (usize, Duration) {
        let sealed_for = self.snapshot.unswept.iter().map(|(_, sealed_for)| *sealed_for);
        let oldest = sealed_for
            .max()
            .map_or(Duration::ZERO, |oldest| oldest + self.age());
        (self.snapshot.unswept.len(), oldest)
    }

    /// Returns the leader in the form that clients receive; `agent_id` is empty if there is none.
    pub fn leader(&self, record: &PartitionEntry) -> v1::Leader {
        let holder = record
            .holder
            .and_then(|incarnation| self.agents.get(&incarnation));
        v1::Leader {
            agent_id: holder.map(|a| a.agent_id.clone()).unwrap_or_default(),
            epoch: record.epoch,
            address: holder.map(|a| a.grpc_address.clone()).unwrap_or_default(),
        }
    }
}

/// Holds the newest [`ClusterView`], and passes on requests for a newer one.
#[derive(Debug)]
pub struct ClusterDirectory {
    view: ArcSwap<ClusterView>,
    version: watch::Sender<u64>,
    wanted: Notify,
}

impl Default for ClusterDirectory {
    fn default() -> Self {
        Self {
            view: ArcSwap::default(),
            version: watch::Sender::new(0),
            wanted: Notify::new(),
        }
    }
}

/// How long a request waits for a newer view before it uses the existing one.
const REFRESH_TIMEOUT: Duration = Duration::from_millis(500);

impl ClusterDirectory {
    /// Returns the newest view.
    pub fn view(&self) -> Arc<ClusterView> {
        self.view.load_full()
    }

    /// Replaces the view; called only by the lease keeper.
    pub fn replace(&self, snapshot: ClusterSnapshot) {
        let version = snapshot.version;
        self.view.store(Arc::new(ClusterView::new(snapshot)));
        self.version.send_replace(version);
    }

    /// Notifies the callers of [`refresh`](Self::refresh) that the view is still the newest.
    pub fn confirm_newest(&self) {
        self.version.send_modify(|_| ());
    }

    /// Requests a newer view and waits, for a limited time, until the lease keeper has checked.
    pub async fn refresh(&self) -> Arc<ClusterView> {
        let mut version = self.version.subscribe();
        version.mark_unchanged();
        self.wanted.notify_one();
        let _ = timeout(REFRESH_TIMEOUT, version.changed()).await;
        self.view()
    }

    /// Requests a newer view without waiting for it.
    pub fn request_refresh(&self) {
        self.wanted.notify_one();
    }

    /// Waits until a newer view is requested; awaited by the lease keeper.
    pub async fn refresh_requested(&self) {
        self.wanted.notified().await;
    }

    /// Returns a receiver of the version of each new view.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn topic(internal: bool, holders: &[Option<i64>]) -> TopicEntry {
        let partitions = holders.iter().map(|holder| PartitionEntry {
            uid: PartitionUid(0),
            holder: holder.map(Incarnation),
            epoch: 1,
        });
        TopicEntry {
            name: format!("internal-{internal}"),
            folder: format!("internal-{internal}"),
            internal,
            partitions: partitions.collect(),
            topic_id: uuid::Uuid::nil(),
            config: BTreeMap::new(),
            created_at_ms: 0,
        }
    }

    #[test]
    fn partitions_of_nobody_and_of_a_dead_agent_are_leaderless() {
        let live = AgentEntry {
            incarnation: Incarnation(2),
            node_id: 1,
            agent_id: "agent-0".to_owned(),
            grpc_address: String::new(),
            http_address: String::new(),
            kafka_address: String::new(),
            zone: String::new(),
            version: String::new(),
            draining: false,
        };
        let view = ClusterView::new(ClusterSnapshot {
            agents: vec![live],
            topics: vec![
                topic(false, &[Some(2), Some(1), None, Some(2), Some(2)]),
                topic(true, &[Some(2), None]),
            ],
            unswept: vec![
                (Incarnation(1), Duration::from_secs(9)),
                (Incarnation(0), Duration::from_secs(90)),
            ],
            ..ClusterSnapshot::default()
        });
        assert_eq!((view.count_led(false), view.count_led(true)), ((3, 2), (1, 1)));
        let (incarnations, oldest) = view.unswept_backlog();
        assert_eq!(incarnations, 2);
        assert!(oldest >= Duration::from_secs(90));
        assert_eq!(ClusterView::default().unswept_backlog(), (0, Duration::ZERO));
    }
}
