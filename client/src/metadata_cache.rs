//! [`MetadataCache`]: the metadata of topics and agents that a client has cached. It merges
//! metadata answers and leader hints by leader epoch, so that a stale answer never replaces a newer
//! hint. Subscribers of its version see every change.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use streamhouse_core::{Error as ClusterError, ErrorCode, protocol::v1};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{config::parse_agent_uri, connection::item_error};

/// A missing topic is evicted if it was not requested for this long.
const MISSING_TOPIC_EXPIRY: Duration = Duration::from_secs(60);

/// Leader of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionLeader {
    pub(crate) epoch: i32,
    pub(crate) uri: Arc<str>,
}

#[derive(Debug)]
struct CachedTopic {
    /// Empty before the first answer.
    topic_id: Arc<str>,
    error: Option<ClusterError>,
    leaders: Vec<Option<PartitionLeader>>,
    max_message_bytes: usize,
}

impl Default for CachedTopic {
    fn default() -> Self {
        Self {
            topic_id: Arc::from(""),
            error: None,
            leaders: Vec::new(),
            max_message_bytes: 0,
        }
    }
}

#[derive(Debug, Default)]
struct CachedMetadata {
    cluster_id: String,
    topics: HashMap<Arc<str>, CachedTopic>,
    agents: Vec<Arc<str>>,
    /// Ids of agents, by URI; `None` for a URI that several agents share.
    agent_ids: HashMap<Arc<str>, Option<Arc<str>>>,
}

/// An existing topic, as described by one answer of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicSnapshot {
    /// Empty if agents send no ids.
    pub(crate) topic_id: Arc<str>,
    pub(crate) partitions: i32,
    /// Largest batch, in compressed bytes; 0 if the cluster does not send it.
    pub(crate) max_message_bytes: usize,
}

/// Result of looking up a topic in the cache.
#[derive(Debug, Clone)]
pub(crate) enum TopicLookup {
    /// No answer has been received yet.
    Unknown,
    /// The topic has this many partitions.
    Partitions(i32),
    /// The cluster answered with an error.
    Failed(ClusterError),
}

/// The cache of one client.
#[derive(Debug)]
pub(crate) struct MetadataCache {
    state: RwLock<CachedMetadata>,
    /// Topics in use, which every refresh requests, with the time of their last use.
    tracked: Mutex<BTreeMap<Arc<str>, Instant>>,
    version: watch::Sender<u64>,
    refresh: Notify,
    https: bool,
}

impl MetadataCache {
    pub(crate) fn new(https: bool) -> Self {
        Self {
            state: RwLock::default(),
            tracked: Mutex::default(),
            version: watch::Sender::new(0),
            refresh: Notify::new(),
            https,
        }
    }

    /// Makes refreshes request a topic. Callers that wait for a leader must call this again from
    /// time to time, because the name of a missing topic is evicted after [`MISSING_TOPIC_EXPIRY`].
    pub(crate) fn track_topic(&self, topic: &str) {
        self.track_topic_at(topic, Instant::now());
    }

    fn track_topic_at(&self, topic: &str, now: Instant) {
        let mut wanted = self.tracked.lock();
        if let Some(last) = wanted.get_mut(topic) {
            *last = now;
        } else {
            wanted.insert(topic.into(), now);
        }
    }

    /// Returns the topics to request.
    pub(crate) fn tracked_topics(&self) -> Vec<String> {
        self.tracked_topics_at(Instant::now())
    }

    fn tracked_topics_at(&self, now: Instant) -> Vec<String> {
        self.evict_missing_topics(now);
        self.tracked
            .lock()
            .keys()
            .map(|topic| topic.to_string())
            .collect()
    }

    /// Evicts missing topics that are no longer in use.
    fn evict_missing_topics(&self, now: Instant) {
        let missing = |state: &CachedTopic| {
            let error = state.error.as_ref();
            error.is_some_and(|error| error.code() == ErrorCode::UnknownTopicOrPartition)
        };
        let mut gone = Vec::new();
        {
            let state = self.state.read();
            self.tracked.lock().retain(|topic, last| {
                let keep =
                    now < *last + MISSING_TOPIC_EXPIRY || !state.topics.get(topic).is_some_and(missing);
                if !keep {
                    gone.push(topic.clone());
                }
                keep
            });
        }
        if !gone.is_empty() {
            let mut state = self.state.write();
            gone.iter().for_each(|topic| drop(state.topics.remove(topic)));
        }
    }

    /// Requests a metadata refresh.
    pub(crate) fn request_refresh(&self) {
        self.refresh.notify_one();
    }

    pub(crate) async fn wait_for_refresh_request(&self) {
        self.refresh.notified().await;
    }

    /// Subscribes to the version, which changes with every merge.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Option<PartitionLeader> {
        let state = self.state.read();
        let leaders = &state.topics.get(topic)?.leaders;
        leaders.get(usize::try_from(partition).ok()?)?.clone()
    }

    pub(crate) fn lookup_topic(&self, topic: &str) -> TopicLookup {
        let state = self.state.read();
        match state.topics.get(topic) {
            None => TopicLookup::Unknown,
            Some(known) => match &known.error {
                Some(error) => TopicLookup::Failed(error.clone()),
                None => TopicLookup::Partitions(i32::try_from(known.leaders.len()).unwrap_or(i32::MAX)),
            },
        }
    }

    /// Returns what is cached of an existing topic.
    pub(crate) fn topic_snapshot(&self, topic: &str) -> Option<TopicSnapshot> {
        let state = self.state.read();
        let known = state.topics.get(topic).filter(|known| known.error.is_none())?;
        Some(TopicSnapshot {
            topic_id: known.topic_id.clone(),
            partitions: i32::try_from(known.leaders.len()).unwrap_or(i32::MAX),
            max_message_bytes: known.max_message_bytes,
        })
    }

    /// Returns the id of the topic with this name, empty if it is not known. Requests carry it, so
    /// that an agent never serves them from a later topic of the same name.
    pub(crate) fn topic_id(&self, topic: &str) -> Arc<str> {
        let state = self.state.read();
        let known = state.topics.get(topic);
        known.map_or_else(|| Arc::from(""), |known| known.topic_id.clone())
    }

    /// Returns the URIs of all known agents.
    pub(crate) fn agents(&self) -> Vec<Arc<str>> {
        self.state.read().agents.clone()
    }

    /// Returns the id of the agent that advertises this URI, if it is only one.
    pub(crate) fn agent_id(&self, uri: &str) -> Option<Arc<str>> {
        self.state.read().agent_ids.get(uri).cloned().flatten()
    }

    /// Returns the URI of an agent named in an answer, and keeps its id for error messages.
    pub(crate) fn register_agent(&self, named: &v1::Leader) -> Option<Arc<str>> {
        let uri = self.agent_uri(&named.address)?;
        let is_known = |state: &CachedMetadata| match state.agent_ids.get(&uri) {
            // The agents of a shared address answer for each other.
            Some(None) => true,
            Some(Some(id)) => **id == *named.agent_id,
            None => named.agent_id.is_empty(),
        };
        if !is_known(&self.state.read()) {
            let id = Some(Arc::from(&*named.agent_id));
            self.state.write().agent_ids.insert(uri.clone(), id);
        }
        Some(uri)
    }

    /// Converts an advertised address into a URI.
    pub(crate) fn agent_uri(&self, address: &str) -> Option<Arc<str>> {
        if address.is_empty() {
            return None;
        }
        let scheme = if self.https { "https" } else { "http" };
        parse_agent_uri(&format!("{scheme}://{address}")).ok()
    }

    fn partition_leader(&self, leader: Option<&v1::Leader>) -> Option<PartitionLeader> {
        let leader = leader?;
        Some(PartitionLeader {
            epoch: leader.epoch,
            uri: self.agent_uri(&leader.address)?,
        })
    }

    /// Merges an answer of the cluster.
    pub(crate) fn merge(&self, answer: v1::MetadataResponse) {
        {
            let mut state = self.state.write();
            state.cluster_id = answer.cluster_id;
            let (agents, agent_ids) = self.agents_by_uri(&answer.agents);
            if !agents.is_empty() {
                (state.agents, state.agent_ids) = (agents, agent_ids);
            }
            for topic in answer.topics {
                self.merge_topic(&mut state, topic);
            }
        }
        self.version.send_modify(|version| *version += 1);
    }

    /// Returns the agents' URIs, each once, and the ids of those that are one agent's.
    #[allow(clippy::type_complexity)]
    fn agents_by_uri(
        &self,
        agents: &[v1::AgentDescription],
    ) -> (Vec<Arc<str>>, HashMap<Arc<str>, Option<Arc<str>>>) {
        let (mut uris, mut ids) = (Vec::new(), HashMap::new());
        for agent in agents {
            let Some(uri) = self.agent_uri(&agent.grpc_address) else {
                continue;
            };
            let id = Some(Arc::from(&*agent.agent_id));
            if ids.insert(uri.clone(), id).is_some() {
                ids.insert(uri, None);
            } else {
                uris.push(uri);
            }
        }
        (uris, ids)
    }

    fn merge_topic(&self, state: &mut CachedMetadata, topic: v1::TopicMetadata) {
        let known = state.topics.entry(topic.name.into()).or_default();
        if let Some(error) = item_error(topic.error) {
            // Keep the leaders: the error may be temporary.
            known.error = Some(error);
            return;
        }
        known.error = None;
        known.max_message_bytes = topic.max_message_bytes as usize;
        if *known.topic_id != *topic.topic_id {
            // The topic was deleted and recreated: leader epochs start over.
            known.topic_id = topic.topic_id.into();
            known.leaders.clear();
        }
        let count = topic
            .partitions
            .iter()
            .map(|p| p.partition)
            .max()
            .map_or(0, |most| most.saturating_add(1));
        known
            .leaders
            .resize(usize::try_from(count).unwrap_or(0).min(1_000_000), None);
        for partition in topic.partitions {
            let fresh = self.partition_leader(partition.leader.as_ref());
            let Some(slot) = usize::try_from(partition.partition)
                .ok()
                .and_then(|at| known.leaders.get_mut(at))
            else {
                continue;
            };
            let epoch = partition.leader.as_ref().map_or(i32::MAX, |leader| leader.epoch);
            if slot.as_ref().is_none_or(|old| old.epoch <= epoch) {
                *slot = fresh;
            }
        }
    }

    /// Merges the leader named by an agent that is not the leader. Returns whether that changed the
    /// cache.
    pub(crate) fn apply_leader_hint(&self, topic: &str, partition: i32, leader: Option<&v1::Leader>) -> bool {
        let Some(fresh) = self.partition_leader(leader) else {
            return false;
        };
        {
            let mut state = self.state.write();
            let Some(slot) = state
                .topics
                .get_mut(topic)
                .and_then(|known| known.leaders.get_mut(usize::try_from(partition).ok()?))
            else {
                return false;
            };
            if slot.as_ref().is_some_and(|old| old.epoch >= fresh.epoch) {
                return false;
            }
            *slot = Some(fresh);
        }
        self.version.send_modify(|version| *version += 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_topic_that_is_gone_is_let_go_when_nobody_wants_it() {
        let cache = MetadataCache::new(false);
        let start = Instant::now();
        let late = start + MISSING_TOPIC_EXPIRY;
        cache.track_topic_at("t", start);
        cache.track_topic_at("u", start);
        cache.merge(answer("1", &[leader(1, 1)]));
        assert_eq!(
            cache.tracked_topics_at(late),
            ["t", "u"],
            "an idle one stays, and one not known yet"
        );
        let mut gone = answer("", &[]);
        gone.topics[0].error = Some(ClusterError::new(ErrorCode::UnknownTopicOrPartition, "no t").into());
        cache.merge(gone);
        cache.track_topic_at("t", late);
        assert_eq!(cache.tracked_topics_at(late), ["t", "u"], "it is waited for");
        assert_eq!(cache.tracked_topics_at(late + MISSING_TOPIC_EXPIRY), ["u"]);
        assert!(matches!(cache.lookup_topic("t"), TopicLookup::Unknown));
        cache.track_topic_at("t", late);
        cache.merge(answer("2", &[leader(1, 1)]));
        assert_eq!(cache.tracked_topics_at(late + MISSING_TOPIC_EXPIRY), ["t", "u"]);
    }

    fn leader(epoch: i32, port: u16) -> v1::Leader {
        v1::Leader {
            agent_id: "a".into(),
            epoch,
            address: format!("h:{port}"),
        }
    }

    fn answer(id: &str, leaders: &[v1::Leader]) -> v1::MetadataResponse {
        let partitions = leaders
            .iter()
            .zip(0..)
            .map(|(leader, partition)| v1::PartitionMetadata {
                partition,
                leader: Some(leader.clone()),
            })
            .collect();
        let topic = v1::TopicMetadata {
            name: "t".into(),
            topic_id: id.into(),
            error: None,
            partitions,
            max_message_bytes: 0,
        };
        v1::MetadataResponse {
            topics: vec![topic],
            ..Default::default()
        }
    }

    #[test]
    fn a_stale_answer_does_not_replace_a_newer_hint() {
        let cache = MetadataCache::new(false);
        cache.merge(answer("1", &[leader(3, 1)]));
        assert!(cache.apply_leader_hint("t", 0, Some(&leader(4, 2))));
        assert!(!cache.apply_leader_hint("t", 0, Some(&leader(3, 9))));
        cache.merge(answer("1", &[leader(3, 1)]));
        assert_eq!(&*cache.leader("t", 0).unwrap().uri, "http://h:2");
        cache.merge(answer("1", &[leader(5, 3)]));
        assert_eq!(&*cache.leader("t", 0).unwrap().uri, "http://h:3");
    }

    #[test]
    fn a_topic_made_anew_starts_over() {
        let cache = MetadataCache::new(true);
        assert_eq!(&*cache.topic_id("t"), "");
        cache.merge(answer("1", &[leader(9, 1), leader(9, 1)]));
        assert_eq!(&*cache.topic_id("t"), "1");
        cache.merge(answer("2", &[leader(1, 2)]));
        assert_eq!(&*cache.topic_id("t"), "2");
        assert_eq!(&*cache.leader("t", 0).unwrap().uri, "https://h:2");
        assert!(matches!(cache.lookup_topic("t"), TopicLookup::Partitions(1)));
        assert_eq!(cache.leader("t", 1), None);
        assert_eq!(cache.leader("t", -1), None);
    }

    #[test]
    fn agents_behind_one_address_are_one_to_connect_to_and_none_by_name() {
        let cache = MetadataCache::new(false);
        let agents = [("a", "lb:1"), ("b", "lb:1"), ("c", "own:1"), ("d", "lb:1")];
        let agents = agents.map(|(id, address)| v1::AgentDescription {
            agent_id: id.into(),
            grpc_address: address.into(),
            ..Default::default()
        });
        cache.merge(v1::MetadataResponse {
            agents: agents.to_vec(),
            ..answer("1", &[leader(1, 1)])
        });
        assert_eq!(cache.agents(), ["http://lb:1".into(), "http://own:1".into()]);
        assert_eq!(cache.agent_id("http://own:1").as_deref(), Some("c"));
        assert_eq!(cache.agent_id("http://lb:1"), None);
        let coordinator = |address: &str| v1::Leader {
            agent_id: "b".into(),
            epoch: 1,
            address: address.into(),
        };
        cache.register_agent(&coordinator("lb:1"));
        assert_eq!(cache.agent_id("http://lb:1"), None, "it is still shared");
        cache.register_agent(&coordinator("new:1"));
        assert_eq!(cache.agent_id("http://new:1").as_deref(), Some("b"));
    }

    #[test]
    fn a_lost_leader_is_forgotten_and_an_error_is_kept() {
        let cache = MetadataCache::new(false);
        cache.merge(answer("1", &[leader(1, 1)]));
        cache.merge(answer(
            "1",
            &[v1::Leader {
                agent_id: String::new(),
                epoch: 1,
                address: String::new(),
            }],
        ));
        assert_eq!(cache.leader("t", 0), None);
        let mut failed = answer("", &[]);
        failed.topics[0].error =
            Some(ClusterError::new(streamhouse_core::ErrorCode::UnknownTopicOrPartition, "no t").into());
        cache.merge(failed);
        assert!(matches!(cache.lookup_topic("t"), TopicLookup::Failed(_)));
    }
}
