//! [`Consumer`]: reads records, as a member of a group or from partitions of its own choice. A fetcher task keeps records
//! ready within a byte bound; another keeps the membership: it joins, sends heartbeats and notices when the group goes on
//! without this member, whatever the application does. New partitions are taken over, and old ones given up, within
//! [`Consumer::poll`]; lost ones are neither read nor committed from the moment of the loss.
//!
//! Guarantees: records of a partition come in offset order, each committed one once per assignment, none of a partition
//! that is not (any more) this consumer's; an automatic commit covers only records whose poll was followed by another.
//!
//! In reading order: `builder` -> `assignment` (positions) -> `fetcher` -> `decode` -> `records`; `membership` (its pure
//! `machine` and the `driver`) -> `group`, `heartbeat` -> `assignors`; `commit`; `poll` brings them together, `handle` is the
//! consumer for other tasks; `traces` beside it.

mod assignment;
pub mod assignors;
mod builder;
mod commit;
mod decode;
mod fetcher;
mod group;
mod handle;
mod heartbeat;
mod listener;
mod membership;
mod poll;
mod positions;
mod queries;
mod records;
mod stream;
mod traces;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use streamhouse_core::trace::Traces;

pub use assignors::Assignor;
pub use builder::{AutoOffsetReset, ConsumerBuilder};
pub use commit::{Committer, OffsetAndMetadata};
pub use handle::ConsumerHandle;
pub use listener::RebalanceListener;
pub use records::{ConsumerRecord, OwnedRecord, PartitionRecords, Records, RecordsIter};

use self::{
    assignment::Assignment,
    builder::{ConsumerConfig, Reading},
    commit::CommitLedger,
    heartbeat::LEAVE_WITHIN,
    membership::{MemberMachine, MemberRules, TopicPattern},
    traces::ConsumerTraces,
};
use crate::{
    Client,
    metrics::{ConsumerMetrics, Registry},
    retry::Deadline,
};

/// The target of log lines that say which records are left out or read again: the command line always shows them.
const GAPS: &str = "streamhouse_client::gaps";

/// Reads records. One consumer is polled by one task; use several consumers of a group for more.
///
/// Dropping it ends its tasks and connections at once; [`Consumer::close`] also commits (in automatic mode) and leaves
/// the group, so that the other members need not wait for the session time-out.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    /// Keeps the membership, once topics are subscribed.
    driver: Option<AbortOnDrop>,
    last_commit: tokio::time::Instant,
    /// Closing has begun.
    closed: bool,
    _fetcher: AbortOnDrop,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// What the consumer's tasks have in common.
#[derive(Debug)]
struct Shared {
    client: Client,
    config: ConsumerConfig,
    metrics: ConsumerMetrics,
    traces: ConsumerTraces,
    assignment: parking_lot::Mutex<Assignment>,
    /// Locked before the assignment where both are.
    member: parking_lot::Mutex<MemberMachine>,
    /// Set while topics are subscribed by a pattern.
    pattern: parking_lot::Mutex<Option<TopicPattern>>,
    /// Rises with everything that happens to the member.
    member_changes: tokio::sync::watch::Sender<u64>,
    /// Held by the commit that is under way.
    commits: tokio::sync::Mutex<CommitLedger>,
    last_commit: AtomicU64,
    /// The places of the commits that are not settled yet.
    pending_commits: tokio::sync::watch::Sender<BTreeSet<u64>>,
    /// Somebody wants `poll` to return.
    woken: AtomicBool,
    /// Everything is given up, or the consumer is gone.
    closed: AtomicBool,
    /// The assignment or a position changed: the fetcher looks again.
    changed: tokio::sync::Notify,
    /// There are records, errors or group matters: `poll` looks again.
    news: News,
}

/// Wakes the poll that waits, now or the next time, and everybody else who waits at the moment.
#[derive(Debug, Default)]
struct News {
    poll: tokio::sync::Notify,
    others: tokio::sync::Notify,
}

impl News {
    fn notify_one(&self) {
        self.poll.notify_one();
        self.others.notify_waiters();
    }

    fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.poll.notified()
    }

    /// For others than the poll.
    fn for_others(&self) -> tokio::sync::futures::Notified<'_> {
        self.others.notified()
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a consumer has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConsumerStats {
    /// Records returned by `poll`.
    pub records_consumed: u64,
    /// Their bytes, decompressed.
    pub bytes_consumed: u64,
    /// Bytes fetched ahead that wait for `poll`.
    pub buffered_bytes: u64,
    /// Damaged batches that were passed over, see [`ConsumerBuilder::skip_damaged_batches`].
    pub batches_skipped: u64,
    /// The offsets in them.
    pub records_skipped: u64,
}

/// How far a consumer is behind the end of a partition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lag {
    /// Records between its position and the last known end.
    pub records: i64,
    /// Age of the record it reads next (or read last, where the next one is not known); 0 at the end.
    pub seconds: f64,
}

impl Consumer {
    /// A consumer with defaults, to be changed.
    pub fn builder() -> ConsumerBuilder {
        ConsumerBuilder::default()
    }

    fn start(client: Client, mut config: ConsumerConfig, registry: Option<Registry>, traces: Traces) -> Self {
        let reading = std::mem::take(&mut config.reading);
        let metrics = ConsumerMetrics::new(
            &registry.unwrap_or_default(),
            config.group.as_deref().unwrap_or(""),
        );
        let client_id = &client.settings().client_id;
        let rules = MemberRules {
            cooperative: config.assignors.iter().all(|assignor| assignor.is_cooperative()),
            is_static: config.group_instance_id.is_some(),
            heartbeat: config.heartbeat,
            max_poll_interval: config.max_poll_interval,
            leave_within: LEAVE_WITHIN,
        };
        let now = tokio::time::Instant::now();
        let shared = Arc::new(Shared {
            traces: ConsumerTraces::new(traces, client_id, config.group.as_deref()),
            client,
            config,
            metrics,
            assignment: parking_lot::Mutex::default(),
            member: parking_lot::Mutex::new(MemberMachine::new(rules, now)),
            pattern: parking_lot::Mutex::default(),
            member_changes: tokio::sync::watch::Sender::new(0),
            commits: tokio::sync::Mutex::default(),
            last_commit: AtomicU64::new(0),
            pending_commits: tokio::sync::watch::Sender::default(),
            woken: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            changed: tokio::sync::Notify::new(),
            news: News::default(),
        });
        let fetcher = tokio::spawn(fetcher::run(shared.clone()));
        let mut consumer = Self {
            _fetcher: AbortOnDrop(fetcher.abort_handle()),
            driver: None,
            last_commit: now,
            closed: false,
            shared,
        };
        match reading {
            Reading::Nothing => {}
            Reading::Topics(topics) => consumer.join(topics),
            Reading::Partitions(partitions) => consumer.take(partitions),
        }
        consumer
    }
}

impl Shared {
    fn api_deadline(&self) -> Deadline {
        self.client.api_deadline()
    }

    /// The place of the next commit in the order of all.
    fn next_commit(&self) -> u64 {
        self.last_commit.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Nothing is read or committed any more.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.news.notify_one();
    }
}
