//! [`Consumer`]: reads records, as a member of a consumer group or from manually assigned
//! partitions.
//!
//! A background task fetches records ahead, up to [`ConsumerBuilder::prefetch`]. Another keeps the
//! group membership, whatever the application does: it joins, sends heartbeats and detects
//! expulsion. Partitions are taken over and given up within [`Consumer::poll`]; partitions that the
//! group has given to another member are neither read nor committed from the moment the loss is
//! detected.
//!
//! Guarantees:
//!
//! - Records of a partition are returned in offset order, each committed record once per
//!   assignment.
//! - No record is returned for a partition that is not assigned to this consumer.
//! - An automatic commit covers only records whose poll was followed by another poll.

mod assignment;
pub mod assignors;
mod builder;
mod commit;
mod decode;
mod fetcher;
mod handle;
mod heartbeat;
mod join;
mod listener;
mod membership;
mod operations;
mod poll;
mod positions;
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

use streamhouse_core::trace::OptionalTracer;

pub use assignors::Assignor;
pub use builder::{AutoOffsetReset, ConsumerBuilder};
pub use commit::{OffsetAndMetadata, OffsetCommitter};
pub use handle::ConsumerHandle;
pub use listener::{ListenerFuture, RebalanceListener};
pub use records::{ConsumerRecord, ConsumerRecords, ConsumerRecordsIter, OwnedRecord, PartitionRecords};

use self::{
    assignment::AssignmentState,
    builder::{ConsumerConfig, SubscriptionTarget},
    commit::CommitLedger,
    heartbeat::LEAVE_TIMEOUT,
    membership::{MemberConfig, MemberStateMachine, TopicPattern},
    traces::ConsumerTraces,
};
use crate::{
    Client,
    metrics::{ConsumerMetrics, MetricsRegistry},
    retry::Deadline,
};

/// Target of log events about records that are skipped or read again. The command line always shows
/// them.
const GAP_LOG_TARGET: &str = "streamhouse_client::gaps";

/// Reads records. A consumer is polled by one task; to read in parallel, add more consumers to the
/// group.
///
/// Dropping a consumer ends its tasks and connections at once. [`Consumer::close`] also commits
/// (with automatic commits) and leaves the group, so that the other members need not wait for the
/// session time-out.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> streamhouse_client::Result<()> {
/// use std::time::Duration;
/// use streamhouse_client::{AutoOffsetReset, Consumer};
///
/// let mut consumer = Consumer::builder()
///     .bootstrap("localhost:50051")
///     .group("billing")
///     .topics(["orders"])
///     .auto_offset_reset(AutoOffsetReset::Earliest)
///     .auto_commit(None)
///     .build()
///     .await?;
/// loop {
///     let records = consumer.poll(Duration::from_secs(1)).await?;
///     for record in &records {
///         println!("{}-{}@{}", record.topic, record.partition, record.offset);
///     }
///     consumer.commit().await?;
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<ConsumerShared>,
    /// Keeps the membership; set once topics are subscribed.
    driver: Option<AbortOnDrop>,
    last_commit: tokio::time::Instant,
    /// Whether closing has begun.
    closed: bool,
    _fetcher: AbortOnDrop,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// State that the consumer and its tasks share.
#[derive(Debug)]
struct ConsumerShared {
    client: Client,
    config: ConsumerConfig,
    metrics: ConsumerMetrics,
    traces: ConsumerTraces,
    assignment: parking_lot::Mutex<AssignmentState>,
    /// Locked before `assignment` if both are.
    member: parking_lot::Mutex<MemberStateMachine>,
    /// Set while topics are subscribed by a pattern.
    pattern: parking_lot::Mutex<Option<TopicPattern>>,
    /// Version that rises with every event of the member.
    member_changes: tokio::sync::watch::Sender<u64>,
    /// Locked by the commit in progress, so that commits run one after the other.
    commits: tokio::sync::Mutex<CommitLedger>,
    last_commit: AtomicU64,
    /// Serials of the commits that are not settled.
    pending_commits: tokio::sync::watch::Sender<BTreeSet<u64>>,
    /// Set by `wakeup`: the next `poll` returns without records.
    woken: AtomicBool,
    /// Set when the consumer is closed or dropped.
    closed: AtomicBool,
    /// Notified when the assignment or a position changes, to wake the fetcher.
    fetcher_wake: tokio::sync::Notify,
    /// Notified when there are records, errors or group events, to wake `poll`.
    poll_notifier: PollNotifier,
}

/// Wakes the waiting poll, or the next one, and all other current waiters.
#[derive(Debug, Default)]
struct PollNotifier {
    poll: tokio::sync::Notify,
    others: tokio::sync::Notify,
}

impl PollNotifier {
    fn notify_one(&self) {
        self.poll.notify_one();
        self.others.notify_waiters();
    }

    fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.poll.notified()
    }

    /// Returns a future for waiters other than `poll`.
    fn notified_others(&self) -> tokio::sync::futures::Notified<'_> {
        self.others.notified()
    }
}

/// A task that is aborted when its owner is dropped.
#[derive(Debug)]
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Totals of a consumer, see [`Consumer::metrics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConsumerStats {
    /// Records returned by `poll`.
    pub records_consumed: u64,
    /// Bytes of those records, decompressed.
    pub bytes_consumed: u64,
    /// Bytes fetched ahead that wait for `poll`.
    pub buffered_bytes: u64,
    /// Damaged batches that were skipped, see [`ConsumerBuilder::skip_damaged_batches`].
    pub batches_skipped: u64,
    /// Offsets in the skipped batches.
    pub records_skipped: u64,
}

/// How far a consumer is behind the end of a partition.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct PartitionLag {
    /// Records between the position and the last known end.
    pub records: i64,
    /// Age in seconds of the next record to read (or of the last one read, if the next is not
    /// known); 0 at the end.
    pub seconds: f64,
}

impl Consumer {
    /// Returns a builder with default settings.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> streamhouse_client::Result<()> {
    /// use streamhouse_client::Consumer;
    ///
    /// let consumer = Consumer::builder()
    ///     .bootstrap("localhost:50051")
    ///     .group("billing")
    ///     .topics(["orders"])
    ///     .build()
    ///     .await?;
    /// # drop(consumer);
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> ConsumerBuilder {
        ConsumerBuilder::default()
    }

    fn start(
        client: Client,
        mut config: ConsumerConfig,
        registry: Option<MetricsRegistry>,
        traces: OptionalTracer,
    ) -> Self {
        let reading = std::mem::take(&mut config.subscription);
        let metrics = ConsumerMetrics::new(
            &registry.unwrap_or_default(),
            config.group.as_deref().unwrap_or(""),
        );
        let client_id = &client.config().client_id;
        let rules = MemberConfig {
            cooperative: config.assignors.iter().all(|assignor| assignor.is_cooperative()),
            is_static: config.group_instance_id.is_some(),
            heartbeat: config.heartbeat,
            max_poll_interval: config.max_poll_interval,
            leave_timeout: LEAVE_TIMEOUT,
        };
        let now = tokio::time::Instant::now();
        let shared = Arc::new(ConsumerShared {
            traces: ConsumerTraces::new(traces, client_id, config.group.as_deref()),
            client,
            config,
            metrics,
            assignment: parking_lot::Mutex::default(),
            member: parking_lot::Mutex::new(MemberStateMachine::new(rules, now)),
            pattern: parking_lot::Mutex::default(),
            member_changes: tokio::sync::watch::Sender::new(0),
            commits: tokio::sync::Mutex::default(),
            last_commit: AtomicU64::new(0),
            pending_commits: tokio::sync::watch::Sender::default(),
            woken: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            fetcher_wake: tokio::sync::Notify::new(),
            poll_notifier: PollNotifier::default(),
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
            SubscriptionTarget::Nothing => {}
            SubscriptionTarget::Topics(topics) => consumer.subscribe_topics(topics),
            SubscriptionTarget::Partitions(partitions) => consumer.assign_partitions(partitions),
        }
        consumer
    }
}

impl ConsumerShared {
    fn api_deadline(&self) -> Deadline {
        self.client.api_deadline()
    }

    /// Returns the serial of the next commit.
    fn next_commit_serial(&self) -> u64 {
        self.last_commit.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends reading and committing.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.poll_notifier.notify_one();
    }
}
