//! The fetcher: a task per consumer that keeps fetched batches ready, within the prefetch bound. Partitions are fetched
//! from their leaders, whose memory holds the tail; while a leader does not answer, from any other agent. At most two
//! fetches are on their way to an agent, of different partitions, so that one that waits for new records does not hold up
//! the rest.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use streamhouse_core::{
    Error as CoreError, ErrorCode, TopicPartition,
    batch::{BatchHeader, Batches},
    protocol::v1,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    AutoOffsetReset, Shared,
    assignment::{Position, Wanted},
    positions::{self, Lookup},
};
use crate::{
    admin::OffsetAt,
    connection::{self, item_error},
    error::Error,
    metadata_cache::TopicKnown,
    retry::{Backoff, wire_ms},
};

const FETCHES_PER_AGENT: usize = 2;
/// Nothing waits longer than this to be looked at again.
const IDLE: Duration = Duration::from_secs(5);
/// Before a partition that failed for another reason than its leader is asked for again.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// What a task brought back.
enum Done {
    Fetch {
        uri: Arc<str>,
        asked: Vec<Wanted>,
        reserved: usize,
        answer: Result<v1::FetchResponse, CoreError>,
    },
    Lookup(Vec<Lookup>),
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
    /// Bytes that fetches on their way may bring.
    reserved: usize,
}

/// Runs until its consumer is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut metadata = shared.client.cache().watch();
    let mut fetcher = Fetcher {
        shared: shared.clone(),
        agents: HashMap::new(),
        tasks: JoinSet::new(),
        reserved: 0,
    };
    loop {
        let now = Instant::now();
        fetcher.start_lookups(now);
        fetcher.start_fetches(now);
        let wake = fetcher.next_retry(now).unwrap_or(now + IDLE).min(now + IDLE);
        tokio::select! {
            Some(done) = fetcher.tasks.join_next() => {
                // A task that panicked was reported by the runtime; its partitions stay busy, the others go on.
                if let Ok(done) = done {
                    fetcher.finish(done);
                }
            }
            () = shared.changed.notified() => {}
            Ok(()) = metadata.changed() => {}
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
            let assignment = self.shared.assignment.lock();
            config
                .prefetch
                .saturating_sub(assignment.buffered() + self.reserved)
        };
        if free == 0 {
            return;
        }
        // A partition that alone fills half of the bound must not starve the others.
        let most = (config.prefetch / 2).max(1);
        let fetches = self.shared.assignment.lock().fetches(now, most);
        let mut fetches = self.bind(fetches);
        // Whoever came last in the order of names would come last for ever under a tight bound.
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

    /// Names the topics that are meant. Those that the cluster has not told of yet have to wait: what is read without an id
    /// could be of a topic that is deleted, and what follows of the next one of its name.
    fn bind(&self, mut wanted: Vec<Wanted>) -> Vec<Wanted> {
        let cache = self.shared.client.cache();
        wanted.retain_mut(|wanted| {
            if !wanted.topic_id.is_empty() {
                return true;
            }
            if matches!(cache.topic(&wanted.key.topic), TopicKnown::NotYet) {
                cache.want(&wanted.key.topic);
                cache.request_refresh();
                self.shared.assignment.lock().again(wanted, None);
                return false;
            }
            let topic_id = cache.topic_id(&wanted.key.topic);
            self.shared.assignment.lock().bind(wanted, &topic_id);
            true
        });
        wanted
    }

    /// The leader; while it fails or nobody leads, any other agent that answers. `None` while none may be asked.
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
            cache.request_refresh();
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

    fn finish(&mut self, done: Done) {
        match done {
            Done::Lookup(lookups) => self.finish_lookups(lookups),
            Done::Fetch {
                uri,
                asked,
                reserved,
                answer,
            } => {
                self.reserved -= reserved;
                self.finish_fetch(&uri, asked, answer);
            }
        }
        self.shared.news.notify_one();
    }

    fn finish_lookups(&mut self, lookups: Vec<Lookup>) {
        let mut assignment = self.shared.assignment.lock();
        for Lookup { wanted, found } in lookups {
            match found {
                Ok((position, committed)) => assignment.found(&wanted, position, committed),
                Err(error @ Error::NoOffset { .. }) => assignment.failed(&wanted, error),
                Err(error) if error.code() == ErrorCode::UnknownTopicId => {
                    self.shared.client.cache().request_refresh();
                    assignment.topic_changed(&wanted, error, Instant::now() + FAILED_PAUSE);
                }
                Err(error) => {
                    tracing::warn!(partition = %wanted.key, %error, "cannot find where to read; trying again");
                    assignment.again(&wanted, Some(Instant::now() + FAILED_PAUSE));
                }
            }
        }
    }

    fn finish_fetch(
        &mut self,
        uri: &Arc<str>,
        asked: Vec<Wanted>,
        answer: Result<v1::FetchResponse, CoreError>,
    ) {
        let now = Instant::now();
        let Some(agent) = self.agents.get_mut(uri) else {
            return;
        };
        agent.in_flight = agent.in_flight.saturating_sub(1);
        let response = match answer {
            Ok(response) => response,
            Err(error) => {
                let pause = agent
                    .backoff
                    .next(Duration::from_millis(error.retry_after_ms().into()));
                agent.not_before = Some(now + pause);
                tracing::debug!(agent = %uri, %error, "a fetch failed; trying again elsewhere");
                self.shared.client.cache().request_refresh();
                let mut assignment = self.shared.assignment.lock();
                asked.iter().for_each(|wanted| assignment.again(wanted, None));
                return;
            }
        };
        agent.backoff.reset();
        agent.not_before =
            (response.throttle_ms > 0).then(|| now + Duration::from_millis(response.throttle_ms.into()));
        let mut results: HashMap<TopicPartition, v1::PartitionFetchResult> = HashMap::new();
        for result in response.partitions {
            results.insert(
                TopicPartition::new(result.topic.clone(), result.partition),
                result,
            );
        }
        for wanted in asked {
            match results.remove(&wanted.key) {
                Some(result) => self.finish_partition(&wanted, result, now),
                // An agent may leave out what did not fit any more.
                None => self.shared.assignment.lock().again(&wanted, None),
            }
        }
    }

    fn finish_partition(&self, wanted: &Wanted, result: v1::PartitionFetchResult, now: Instant) {
        let cache = self.shared.client.cache();
        cache.hint(&wanted.key.topic, wanted.key.partition, result.leader.as_ref());
        let mut assignment = self.shared.assignment.lock();
        if result.error.is_some() && result.high_watermark >= 0 {
            assignment.ends_at(wanted, result.high_watermark, self.shared.client.now_ms());
        }
        match item_error(result.error) {
            None => match split(&result.records) {
                Ok(batches) => {
                    assignment.fetched(
                        wanted,
                        batches,
                        result.high_watermark,
                        self.shared.client.now_ms(),
                    );
                }
                Err(reason) => {
                    let (partition, offset) = (wanted.key.clone(), offset_of(wanted));
                    assignment.failed(
                        wanted,
                        Error::Corrupt {
                            partition,
                            offset,
                            reason,
                        },
                    );
                }
            },
            Some(error) if error.code() == ErrorCode::OffsetOutOfRange => {
                tracing::info!(partition = %wanted.key, offset = offset_of(wanted), "the offset is out of range");
                match reset_position(self.shared.config.auto_offset_reset) {
                    Some(position) => assignment.found(wanted, position, None),
                    None => assignment.failed(
                        wanted,
                        Error::NoOffset {
                            partition: wanted.key.clone(),
                        },
                    ),
                }
            }
            Some(error) if error.code() == ErrorCode::UnknownTopicId => {
                tracing::warn!(partition = %wanted.key, %error, "the topic was deleted and made anew");
                cache.request_refresh();
                let pause = self.shared.client.backoff().next(Duration::ZERO);
                assignment.topic_changed(wanted, error.into(), now + pause);
            }
            Some(error) => {
                if error.is_retryable() {
                    cache.request_refresh();
                } else {
                    tracing::warn!(partition = %wanted.key, %error, "cannot fetch; trying again");
                }
                let asked = Duration::from_millis(error.retry_after_ms().into());
                let pause = if error.is_retryable() {
                    self.shared.client.backoff().next(asked)
                } else {
                    FAILED_PAUSE
                };
                assignment.again(wanted, Some(now + pause));
            }
        }
    }
}

/// Where `auto_offset_reset` reads on.
pub(super) fn reset_position(reset: AutoOffsetReset) -> Option<Position> {
    match reset {
        AutoOffsetReset::Earliest => Some(Position::Lookup(OffsetAt::Earliest)),
        AutoOffsetReset::Latest => Some(Position::Lookup(OffsetAt::Latest)),
        AutoOffsetReset::None => None,
    }
}

/// The batches of an answer, each a slice of it.
fn split(records: &Bytes) -> Result<Vec<(BatchHeader, Bytes)>, String> {
    Batches::of(records)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
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
