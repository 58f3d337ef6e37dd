//! [`Consumer`]: reads records, as a member of a group or from partitions of its own choice. A fetcher task keeps records
//! ready within a byte bound; a heartbeat task keeps the membership; joins run beside the caller, and every change of the
//! assignment happens within [`Consumer::poll`].
//!
//! Guarantees: records of a partition come in offset order, each committed one once per assignment, none of a partition
//! that is not (any more) this consumer's; an automatic commit covers only records whose poll was followed by another.
//!
//! In reading order: `builder` -> `assignment` (positions) -> `fetcher` -> `decode` -> `records`; `group` (membership)
//! -> `assignors`, `heartbeat`, `commit`; `poll` brings them together; `traces` beside it.

mod assignment;
pub mod assignors;
mod builder;
mod commit;
mod decode;
mod fetcher;
mod group;
mod heartbeat;
mod listener;
mod membership;
mod poll;
mod positions;
mod queries;
mod records;
mod stream;
mod traces;

use std::sync::Arc;

use streamhouse_core::trace::Traces;

pub use assignors::Assignor;
pub use builder::{AutoOffsetReset, ConsumerBuilder};
pub use commit::Committer;
pub use listener::RebalanceListener;
pub use records::{ConsumerRecord, OwnedRecord, PartitionRecords, Records, RecordsIter};

use self::{
    assignment::Assignment,
    builder::{ConsumerConfig, Reading},
    commit::MemberIdentity,
    membership::Membership,
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
    /// Set while topics are subscribed.
    membership: Option<Membership>,
    last_commit: tokio::time::Instant,
    closed: bool,
    _fetcher: AbortOnDrop,
}

/// What the consumer's tasks have in common.
#[derive(Debug)]
struct Shared {
    client: Client,
    config: ConsumerConfig,
    metrics: ConsumerMetrics,
    traces: ConsumerTraces,
    assignment: parking_lot::Mutex<Assignment>,
    identity: parking_lot::Mutex<MemberIdentity>,
    /// Held by the commit that is under way.
    commits: tokio::sync::Mutex<()>,
    /// The assignment or a position changed: the fetcher looks again.
    changed: tokio::sync::Notify,
    /// There are records, errors or group matters: `poll` looks again.
    news: tokio::sync::Notify,
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
        let shared = Arc::new(Shared {
            traces: ConsumerTraces::new(traces, client_id, config.group.as_deref()),
            client,
            config,
            metrics,
            assignment: parking_lot::Mutex::default(),
            identity: parking_lot::Mutex::default(),
            commits: tokio::sync::Mutex::default(),
            changed: tokio::sync::Notify::new(),
            news: tokio::sync::Notify::new(),
        });
        let fetcher = tokio::spawn(fetcher::run(shared.clone()));
        let mut consumer = Self {
            _fetcher: AbortOnDrop(fetcher.abort_handle()),
            membership: None,
            last_commit: tokio::time::Instant::now(),
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
}
