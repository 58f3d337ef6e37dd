//! The fetcher: one task per consumer that keeps fetched batches ready, up to the prefetch limit.
//! It fetches partitions from their leaders, which cache the recent records; while a leader does
//! not answer, from any other agent. Up to two fetches, for different partitions, are in flight per
//! agent, so that one that waits for new records does not delay the others.

mod answers;

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use streamhouse_core::{Error as CoreError, ErrorCode, TopicPartition, protocol::v1};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

pub(super) use self::answers::reset_position;
use super::{
    Shared,
    assignment::{Position, TopicSight, Wanted},
    positions::{self, EndFound, Lookup},
};
use crate::{
    connection,
    metadata_cache::TopicKnown,
    retry::{Backoff, wire_ms},
};

const FETCHES_PER_AGENT: usize = 2;
/// Longest time between two rounds of the fetcher.
const IDLE: Duration = Duration::from_secs(5);
/// How often the ends of partitions that are not fetched are requested, to update their lag.
const ENDS_EVERY: Duration = Duration::from_secs(2);
/// If no metadata refresh was requested for this long, the next one is made at once.
const CALM: Duration = Duration::from_secs(5);

/// Result of a fetcher task.
enum Done {
    Fetch {
        uri: Arc<str>,
        asked: Vec<Wanted>,
        reserved: usize,
        answer: Result<v1::FetchResponse, CoreError>,
    },
    Lookup(Vec<Lookup>),
    Ends(Vec<EndFound>),
}

struct Agent {
    in_flight: usize,
    not_before: Option<Instant>,
    backoff: Backoff,
}

struct Fetcher {
    shared: Arc<Shared>,
    agents: HashMap<Arc<str>, Agent>,
    tasks: JoinSet<Done>,
    /// Bytes that the fetches in flight may return.
    reserved: usize,
    metadata: MetadataWish,
    topics_looked_at: Instant,
}

/// Throttles metadata refreshes: the first one is made at once, further ones with a growing delay.
struct MetadataWish {
    wished: Cell<bool>,
    last: Instant,
    not_before: Instant,
    backoff: Backoff,
}

impl MetadataWish {
    fn wish(&self) {
        self.wished.set(true);
    }

    /// Returns whether to refresh now.
    fn is_due(&mut self, now: Instant) -> bool {
        if !self.wished.get() || now < self.not_before {
            return false;
        }
        self.wished.set(false);
        if now >= self.last + CALM {
            self.backoff.reset();
        }
        self.last = now;
        self.not_before = now + self.backoff.next(Duration::ZERO);
        true
    }

    /// Returns when to check again.
    fn wake(&self) -> Option<Instant> {
        self.wished.get().then_some(self.not_before)
    }
}

/// Runs until the consumer is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut metadata = shared.client.cache().watch();
    let now = Instant::now();
    let mut fetcher = Fetcher {
        shared: shared.clone(),
        agents: HashMap::new(),
        tasks: JoinSet::new(),
        reserved: 0,
        metadata: MetadataWish {
            wished: Cell::new(false),
            last: now,
            not_before: now,
            backoff: shared.client.backoff(),
        },
        topics_looked_at: now,
    };
    let mut has_news = false;
    loop {
        if shared.assignment.lock().follows_others() || has_news {
            fetcher.look_at_topics();
        }
        let now = Instant::now();
        fetcher.start_lookups(now);
        fetcher.start_fetches(now);
        fetcher.start_ends(now);
        let next_look = fetcher.refresh_metadata(now);
        let wake = fetcher
            .next_retry(now)
            .into_iter()
            .chain(next_look)
            .fold(now + IDLE, Instant::min);
        has_news = false;
        tokio::select! {
            Some(done) = fetcher.tasks.join_next() => {
                // The runtime reports a panic of the task. Its partitions stay busy; the others
                // continue.
                if let Ok(done) = done {
                    fetcher.finish(done);
                }
            }
            () = shared.changed.notified() => {}
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
    fn look_at_topics(&self) {
        let cache = self.shared.client.cache();
        let followed = self.shared.assignment.lock().followed();
        let mut news = false;
        for topic in followed {
            cache.want(&topic);
            let id = cache.topic_id(&topic);
            let sight = match cache.topic(&topic) {
                // The topic was recreated between the two reads: wait for the next change.
                TopicKnown::Partitions(_) if cache.topic_id(&topic) != id => continue,
                TopicKnown::Partitions(partitions) => TopicSight { id, partitions },
                TopicKnown::Failed(error) if error.code() == ErrorCode::UnknownTopicOrPartition => {
                    TopicSight {
                        id: Arc::from(""),
                        partitions: 0,
                    }
                }
                TopicKnown::NotYet => {
                    self.metadata.wish();
                    continue;
                }
                TopicKnown::Failed(_) => continue,
            };
            news |= self
                .shared
                .assignment
                .lock()
                .sight(&topic, &sight, &self.shared.metrics);
        }
        if news {
            self.shared.news.notify_one();
        }
    }

    /// Requests missing metadata, and regularly that of the subscribed topics. Returns when to
    /// check again.
    fn refresh_metadata(&mut self, now: Instant) -> Option<Instant> {
        let every = self.shared.config.topic_refresh;
        let follows = self.shared.assignment.lock().follows();
        let regular = follows.then_some(self.topics_looked_at + every);
        if regular.is_some_and(|at| at <= now) || self.metadata.is_due(now) {
            self.topics_looked_at = now;
            self.shared.client.cache().request_refresh();
        }
        let regular = follows.then_some(self.topics_looked_at + every);
        regular.into_iter().chain(self.metadata.wake()).min()
    }

    /// Requests the ends of partitions that are not fetched.
    fn start_ends(&mut self, now: Instant) {
        let wanted = self.shared.assignment.lock().stale_ends(now, ENDS_EVERY);
        if !wanted.is_empty() {
            let shared = self.shared.clone();
            self.tasks
                .spawn(async move { Done::Ends(positions::find_ends(&shared, wanted, ENDS_EVERY).await) });
        }
    }

    fn start_lookups(&mut self, now: Instant) {
        let wanted = self.shared.assignment.lock().lookups(now);
        let wanted = self.bind(wanted);
        if !wanted.is_empty() {
            let shared = self.shared.clone();
            self.tasks
                .spawn(async move { Done::Lookup(positions::look_up(&shared, wanted).await) });
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
        let fetches = self.shared.assignment.lock().fetches(now, most);
        let mut fetches = self.bind(fetches);
        // Rotate: under a tight limit, the last partitions by name would otherwise never be
        // fetched.
        if !fetches.is_empty() {
            let by = self.shared.client.settings().entropy.next_u64() as usize % fetches.len();
            fetches.rotate_left(by);
        }
        let mut by_agent: BTreeMap<Arc<str>, Vec<Wanted>> = BTreeMap::new();
        for wanted in fetches {
            match self.agent_for(&wanted.key, now) {
                Some(uri) => by_agent.entry(uri).or_default().push(wanted),
                None => self.shared.assignment.lock().again(&wanted, None),
            }
        }
        for (uri, asked) in by_agent {
            self.start_fetch(uri, asked);
        }
    }

    /// Binds the requests to topic ids, and holds back those whose topic's metadata is not cached:
    /// a read without an id could return records of a deleted topic, followed by those of the next
    /// topic of that name.
    fn bind(&self, mut wanted: Vec<Wanted>) -> Vec<Wanted> {
        let cache = self.shared.client.cache();
        wanted.retain_mut(|wanted| {
            if !wanted.topic_id.is_empty() {
                return true;
            }
            if matches!(cache.topic(&wanted.key.topic), TopicKnown::NotYet) {
                cache.want(&wanted.key.topic);
                self.metadata.wish();
                self.shared.assignment.lock().again(wanted, None);
                return false;
            }
            let topic_id = cache.topic_id(&wanted.key.topic);
            self.shared.assignment.lock().bind(wanted, &topic_id);
            true
        });
        wanted
    }

    /// Returns the agent to fetch from: the leader or, while it fails or there is none, any other
    /// available agent. `None` while no agent may be called.
    fn agent_for(&self, key: &TopicPartition, now: Instant) -> Option<Arc<str>> {
        let usable = |uri: &Arc<str>| {
            self.agents
                .get(uri)
                .is_none_or(|agent| agent.not_before.is_none_or(|at| at <= now))
        };
        let has_room = |uri: &Arc<str>| {
            self.agents
                .get(uri)
                .is_none_or(|agent| agent.in_flight < FETCHES_PER_AGENT)
        };
        let cache = self.shared.client.cache();
        cache.want(&key.topic);
        let leader = cache.leader(&key.topic, key.partition).map(|leader| leader.uri);
        if leader.is_none() {
            self.metadata.wish();
        }
        match leader.filter(usable) {
            Some(uri) => Some(uri).filter(has_room),
            None => self
                .shared
                .client
                .candidates()
                .into_iter()
                .find(|uri| usable(uri) && has_room(uri)),
        }
    }

    fn start_fetch(&mut self, uri: Arc<str>, asked: Vec<Wanted>) {
        let config = &self.shared.config;
        let buffered = self.shared.assignment.lock().buffered();
        let free = config.prefetch.saturating_sub(buffered + self.reserved);
        if free == 0 {
            let mut assignment = self.shared.assignment.lock();
            asked.iter().for_each(|wanted| assignment.again(wanted, None));
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
                    offset: offset_of(wanted),
                    max_bytes: wire_bytes(config.partition_fetch_bytes),
                    topic_id: wanted.topic_id.to_string(),
                })
                .collect(),
        };
        self.reserved += reserved;
        let backoff = self.shared.client.backoff();
        let agent = self.agents.entry(uri.clone()).or_insert(Agent {
            in_flight: 0,
            not_before: None,
            backoff,
        });
        agent.in_flight += 1;
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            let allowed = shared.config.fetch_max_wait + shared.client.settings().request_timeout;
            let fetch = |channel| async move { connection::data(channel).fetch(request).await };
            let answer = shared.client.call_at(&uri, allowed, fetch).await;
            Done::Fetch {
                uri,
                asked,
                reserved,
                answer,
            }
        });
    }
}

fn offset_of(wanted: &Wanted) -> i64 {
    match wanted.position {
        Position::At(offset) => offset,
        _ => 0,
    }
}

fn wire_bytes(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    #[test]
    fn metadata_that_do_not_help_are_asked_for_ever_more_rarely() {
        let mut now = Instant::now();
        let mut metadata = MetadataWish {
            wished: Cell::new(false),
            last: now,
            not_before: now,
            backoff: Backoff::new(&Settings::new("a:1")),
        };
        assert!(!metadata.is_due(now), "without a wish");
        let mut pauses = Vec::new();
        for _ in 0..6 {
            metadata.wish();
            assert!(metadata.is_due(now));
            metadata.wish();
            assert!(
                !metadata.is_due(now),
                "a leaderless partition wishes with every look"
            );
            let next = metadata.wake().unwrap();
            pauses.push(next - now);
            now = next;
        }
        assert!(pauses.is_sorted_by(|before, after| before <= after || *after >= Duration::from_millis(800)));
        assert!(pauses[5] >= Duration::from_millis(800));
        now += CALM;
        assert!(metadata.is_due(now));
        metadata.wish();
        assert!(
            metadata.wake().unwrap() - now <= Duration::from_millis(100),
            "after a calm at once again"
        );
    }
}
