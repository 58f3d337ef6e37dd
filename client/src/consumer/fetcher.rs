//! The fetcher: one task per consumer that keeps fetched batches ready, up to the prefetch limit.
//! It fetches partitions from their leaders, which cache the recent records; while a leader does
//! not answer, from any other agent. Up to two fetches, for different partitions, are in flight per
//! agent, so that one that waits for new records does not delay the others.

mod responses;

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use streamhouse_core::{Error as ClusterError, ErrorCode, TopicPartition, protocol::v1};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    ConsumerShared,
    assignment::{FetchPosition, PartitionRequest, TopicObservation},
    positions::{self, PartitionEnd, PositionLookup},
};
use crate::{
    connection,
    metadata_cache::TopicLookup,
    retry::{Backoff, wire_ms},
};

const MAX_FETCHES_PER_AGENT: usize = 2;
/// Longest time between two rounds of the fetcher.
const IDLE_WAKE_INTERVAL: Duration = Duration::from_secs(5);
/// How often the ends of partitions that are not fetched are requested, to update their lag.
const END_REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// If no metadata refresh was requested for this long, the next one is made at once.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(5);

/// Result of a fetcher task.
enum FetchTaskOutcome {
    Fetch {
        uri: Arc<str>,
        asked: Vec<PartitionRequest>,
        reserved: usize,
        answer: Result<v1::FetchResponse, ClusterError>,
    },
    Lookup(Vec<PositionLookup>),
    Ends(Vec<PartitionEnd>),
}

struct AgentFetchState {
    in_flight: usize,
    not_before: Option<Instant>,
    backoff: Backoff,
}

struct Fetcher {
    shared: Arc<ConsumerShared>,
    agents: HashMap<Arc<str>, AgentFetchState>,
    tasks: JoinSet<FetchTaskOutcome>,
    /// Bytes that the fetches in flight may return.
    reserved: usize,
    metadata: MetadataRefreshThrottle,
    topics_refreshed_at: Instant,
}

/// Throttles metadata refreshes: the first one is made at once, further ones with a growing delay.
struct MetadataRefreshThrottle {
    requested: Cell<bool>,
    last: Instant,
    not_before: Instant,
    backoff: Backoff,
}

impl MetadataRefreshThrottle {
    fn request(&self) {
        self.requested.set(true);
    }

    /// Returns whether to refresh now.
    fn is_due(&mut self, now: Instant) -> bool {
        if !self.requested.get() || now < self.not_before {
            return false;
        }
        self.requested.set(false);
        if now >= self.last + BACKOFF_RESET_AFTER {
            self.backoff.reset();
        }
        self.last = now;
        self.not_before = now + self.backoff.next_delay(Duration::ZERO);
        true
    }

    /// Returns when to check again.
    fn next_due(&self) -> Option<Instant> {
        self.requested.get().then_some(self.not_before)
    }
}

/// Runs until the consumer is dropped.
pub(super) async fn run(shared: Arc<ConsumerShared>) {
    let mut metadata = shared.client.cache().subscribe();
    let now = Instant::now();
    let mut fetcher = Fetcher {
        shared: shared.clone(),
        agents: HashMap::new(),
        tasks: JoinSet::new(),
        reserved: 0,
        metadata: MetadataRefreshThrottle {
            requested: Cell::new(false),
            last: now,
            not_before: now,
            backoff: shared.client.backoff(),
        },
        topics_refreshed_at: now,
    };
    let mut has_news = false;
    loop {
        if shared.assignment.lock().take_subscription_changed() || has_news {
            fetcher.observe_topics();
        }
        let now = Instant::now();
        fetcher.start_lookups(now);
        fetcher.start_fetches(now);
        fetcher.start_end_lookups(now);
        let next_look = fetcher.refresh_metadata(now);
        let wake = fetcher
            .next_retry(now)
            .into_iter()
            .chain(next_look)
            .fold(now + IDLE_WAKE_INTERVAL, Instant::min);
        has_news = false;
        tokio::select! {
            Some(done) = fetcher.tasks.join_next() => {
                // The runtime reports a panic of the task. Its partitions stay busy; the others
                // continue.
                if let Ok(done) = done {
                    fetcher.handle_outcome(done);
                }
            }
            () = shared.fetcher_wake.notified() => {}
            Ok(()) = metadata.changed() => has_news = true,
            () = sleep_until(wake) => {}
        }
    }
}

impl Fetcher {
    fn next_retry(&self, now: Instant) -> Option<Instant> {
        let agents = self
            .agents
            .values()
            .filter_map(|agent| agent.not_before)
            .filter(|at| *at > now);
        agents.chain(self.shared.assignment.lock().next_retry(now)).min()
    }

    /// Merges the metadata of the subscribed topics. If it changed, `poll` joins again; without a
    /// group, the new partitions are read at once.
    fn observe_topics(&self) {
        let cache = self.shared.client.cache();
        let followed = self.shared.assignment.lock().subscribed_topics();
        let mut news = false;
        for topic in followed {
            cache.track_topic(&topic);
            let id = cache.topic_id(&topic);
            let sight = match cache.lookup_topic(&topic) {
                // The topic was recreated between the two reads: wait for the next change.
                TopicLookup::Partitions(_) if cache.topic_id(&topic) != id => continue,
                TopicLookup::Partitions(partitions) => TopicObservation { id, partitions },
                TopicLookup::Failed(error) if error.code() == ErrorCode::UnknownTopicOrPartition => {
                    TopicObservation {
                        id: Arc::from(""),
                        partitions: 0,
                    }
                }
                TopicLookup::Unknown => {
                    self.metadata.request();
                    continue;
                }
                TopicLookup::Failed(_) => continue,
            };
            news |= self
                .shared
                .assignment
                .lock()
                .observe_topic(&topic, &sight, &self.shared.metrics);
        }
        if news {
            self.shared.poll_notifier.notify_one();
        }
    }

    /// Requests missing metadata, and regularly that of the subscribed topics. Returns when to
    /// check again.
    fn refresh_metadata(&mut self, now: Instant) -> Option<Instant> {
        let every = self.shared.config.topic_refresh;
        let follows = self.shared.assignment.lock().is_subscribed();
        let regular = follows.then_some(self.topics_refreshed_at + every);
        if regular.is_some_and(|at| at <= now) || self.metadata.is_due(now) {
            self.topics_refreshed_at = now;
            self.shared.client.cache().request_refresh();
        }
        let regular = follows.then_some(self.topics_refreshed_at + every);
        regular.into_iter().chain(self.metadata.next_due()).min()
    }

    /// Requests the ends of partitions that are not fetched.
    fn start_end_lookups(&mut self, now: Instant) {
        let wanted = self
            .shared
            .assignment
            .lock()
            .take_stale_ends(now, END_REFRESH_INTERVAL);
        if !wanted.is_empty() {
            let shared = self.shared.clone();
            self.tasks.spawn(async move {
                FetchTaskOutcome::Ends(positions::find_ends(&shared, wanted, END_REFRESH_INTERVAL).await)
            });
        }
    }

    fn start_lookups(&mut self, now: Instant) {
        let wanted = self.shared.assignment.lock().take_lookups(now);
        let wanted = self.bind_topic_ids(wanted);
        if !wanted.is_empty() {
            let shared = self.shared.clone();
            self.tasks.spawn(async move {
                FetchTaskOutcome::Lookup(positions::look_up_positions(&shared, wanted).await)
            });
        }
    }

    fn start_fetches(&mut self, now: Instant) {
        let config = &self.shared.config;
        let free = {
            let mut assignment = self.shared.assignment.lock();
            if assignment.buffered() > config.prefetch / 2 {
                assignment.evict_paused();
            }
            config
                .prefetch
                .saturating_sub(assignment.buffered() + self.reserved)
        };
        if free == 0 {
            return;
        }
        // A partition that fills half of the limit alone must not starve the others.
        let most = (config.prefetch / 2).max(1);
        let fetches = self.shared.assignment.lock().take_fetches(now, most);
        let mut fetches = self.bind_topic_ids(fetches);
        // Rotate: under a tight limit, the last partitions by name would otherwise never be
        // fetched.
        if !fetches.is_empty() {
            let by = self.shared.client.config().entropy.next_u64() as usize % fetches.len();
            fetches.rotate_left(by);
        }
        let mut by_agent: BTreeMap<Arc<str>, Vec<PartitionRequest>> = BTreeMap::new();
        for wanted in fetches {
            match self.choose_agent(&wanted.key, now) {
                Some(uri) => by_agent.entry(uri).or_default().push(wanted),
                None => self.shared.assignment.lock().retry_after(&wanted, None),
            }
        }
        for (uri, asked) in by_agent {
            self.start_fetch(uri, asked);
        }
    }

    /// Binds the requests to topic ids, and holds back those whose topic's metadata is not cached:
    /// a read without an id could return records of a deleted topic, followed by those of the next
    /// topic of that name.
    fn bind_topic_ids(&self, mut wanted: Vec<PartitionRequest>) -> Vec<PartitionRequest> {
        let cache = self.shared.client.cache();
        wanted.retain_mut(|wanted| {
            if !wanted.topic_id.is_empty() {
                return true;
            }
            if matches!(cache.lookup_topic(&wanted.key.topic), TopicLookup::Unknown) {
                cache.track_topic(&wanted.key.topic);
                self.metadata.request();
                self.shared.assignment.lock().retry_after(wanted, None);
                return false;
            }
            let topic_id = cache.topic_id(&wanted.key.topic);
            self.shared.assignment.lock().bind_topic_id(wanted, &topic_id);
            true
        });
        wanted
    }

    /// Returns the agent to fetch from: the leader or, while it fails or there is none, any other
    /// available agent. `None` while no agent may be called.
    fn choose_agent(&self, key: &TopicPartition, now: Instant) -> Option<Arc<str>> {
        let usable = |uri: &Arc<str>| {
            self.agents
                .get(uri)
                .is_none_or(|agent| agent.not_before.is_none_or(|at| at <= now))
        };
        let has_room = |uri: &Arc<str>| {
            self.agents
                .get(uri)
                .is_none_or(|agent| agent.in_flight < MAX_FETCHES_PER_AGENT)
        };
        let cache = self.shared.client.cache();
        cache.track_topic(&key.topic);
        let leader = cache.leader(&key.topic, key.partition).map(|leader| leader.uri);
        if leader.is_none() {
            self.metadata.request();
        }
        match leader.filter(usable) {
            Some(uri) => Some(uri).filter(has_room),
            None => self
                .shared
                .client
                .candidate_agents()
                .into_iter()
                .find(|uri| usable(uri) && has_room(uri)),
        }
    }

    fn start_fetch(&mut self, uri: Arc<str>, asked: Vec<PartitionRequest>) {
        let config = &self.shared.config;
        let buffered = self.shared.assignment.lock().buffered();
        let free = config.prefetch.saturating_sub(buffered + self.reserved);
        if free == 0 {
            let mut assignment = self.shared.assignment.lock();
            asked
                .iter()
                .for_each(|wanted| assignment.retry_after(wanted, None));
            return;
        }
        let reserved = config.fetch_max_bytes.min(free);
        let request = v1::FetchRequest {
            max_wait_ms: wire_ms(config.fetch_max_wait),
            min_bytes: wire_bytes(config.fetch_min_bytes.min(reserved)),
            max_bytes: wire_bytes(reserved),
            partitions: asked
                .iter()
                .map(|wanted| v1::PartitionFetch {
                    topic: wanted.key.topic.clone(),
                    partition: wanted.key.partition,
                    offset: fetch_offset(wanted),
                    max_bytes: wire_bytes(config.partition_fetch_bytes),
                    topic_id: wanted.topic_id.to_string(),
                })
                .collect(),
        };
        self.reserved += reserved;
        let backoff = self.shared.client.backoff();
        let agent = self.agents.entry(uri.clone()).or_insert(AgentFetchState {
            in_flight: 0,
            not_before: None,
            backoff,
        });
        agent.in_flight += 1;
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            let allowed = shared.config.fetch_max_wait + shared.client.config().request_timeout;
            let fetch = |channel| async move { connection::data_client(channel).fetch(request).await };
            let answer = shared.client.call_agent(&uri, allowed, fetch).await;
            FetchTaskOutcome::Fetch {
                uri,
                asked,
                reserved,
                answer,
            }
        });
    }
}

fn fetch_offset(wanted: &PartitionRequest) -> i64 {
    match wanted.position {
        FetchPosition::At(offset) => offset,
        _ => 0,
    }
}

fn wire_bytes(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClientConfig;

    #[test]
    fn metadata_that_do_not_help_are_asked_for_ever_more_rarely() {
        let mut now = Instant::now();
        let mut metadata = MetadataRefreshThrottle {
            requested: Cell::new(false),
            last: now,
            not_before: now,
            backoff: Backoff::new(&ClientConfig::new("a:1")),
        };
        assert!(!metadata.is_due(now), "without a wish");
        let mut pauses = Vec::new();
        for _ in 0..6 {
            metadata.request();
            assert!(metadata.is_due(now));
            metadata.request();
            assert!(
                !metadata.is_due(now),
                "a leaderless partition wishes with every look"
            );
            let next = metadata.next_due().unwrap();
            pauses.push(next - now);
            now = next;
        }
        assert!(pauses.is_sorted_by(|before, after| before <= after || *after >= Duration::from_millis(800)));
        assert!(pauses[5] >= Duration::from_millis(800));
        now += BACKOFF_RESET_AFTER;
        assert!(metadata.is_due(now));
        metadata.request();
        assert!(
            metadata.next_due().unwrap() - now <= Duration::from_millis(100),
            "after a calm at once again"
        );
    }
}
