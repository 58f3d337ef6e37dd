//! The write path: [`handler`] validates and admits batches, [`buffer`] collects them, [`flush`]
//! uploads WAL objects, [`commit`] commits them and answers. Each incarnation has one
//! [`WalWriter`].
//!
//! An append is answered by its ticket, once: with an offset only after the object that holds it is
//! stored and its commit is in the metadata store (INV-P1), in the order in which batches were
//! appended (INV-P4).

mod batches;
pub mod buffer;
mod commit;
mod current;
mod flush;
pub mod handler;
mod verify;

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use streamhouse_core::{Error, ErrorCode, time::Entropy};
use streamhouse_metadata::MetadataStore;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Duration, Instant, sleep},
};

pub use buffer::{AppendRequest, AppendResult, AppendedPosition};
pub use current::CurrentWriter;
pub use handler::ProduceDeps;

use crate::{
    failpoint::FailPointRegistry,
    metrics::{AgentMetrics, WriteStage},
    partition::tail::TailBudget,
    session::AgentSession,
    store::{ObjectStore, retry::timeout_for},
    traces::AgentTraces,
};

/// How long to wait for the outcome of a commit after the incarnation has ended.
const COMMIT_OUTCOME_GRACE: Duration = Duration::from_secs(10);

/// Settings of the writer.
#[derive(Debug, Clone, Copy)]
pub struct WriterSettings {
    /// Shortest time between two flushes.
    pub flush_interval: Duration,
    /// Size at which an object is full, in bytes.
    pub flush_bytes: usize,
    /// Maximum number of concurrent uploads.
    pub upload_concurrency: usize,
    /// Bytes that may be admitted and not yet answered.
    pub memory: usize,
}

/// Dependencies of every incarnation's writer.
#[derive(Debug, Clone)]
pub struct WriterDeps {
    /// Where objects are committed.
    pub metadata: Arc<dyn MetadataStore>,
    /// Where objects are stored.
    pub store: Arc<dyn ObjectStore>,
    /// Source of jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Budget of the committed batches that stay in memory.
    pub tails: Arc<TailBudget>,
    /// Metrics of this agent.
    pub metrics: Arc<AgentMetrics>,
    /// Starts the agent's trace spans.
    pub traces: AgentTraces,
    /// Fail points of tests.
    pub failpoints: Arc<FailPointRegistry>,
}

/// Writes validated batches to the object store and commits them in the metadata store.
#[derive(Debug)]
pub struct WalWriter {
    shared: Arc<WriterState>,
}

#[derive(Debug)]
struct WriterState {
    deps: WriterDeps,
    /// Incarnation whose objects are written. Ended by the lease keeper, and by the writer when it
    /// finds the incarnation sealed. Partitions found fenced are removed from it.
    session: Arc<AgentSession>,
    settings: WriterSettings,
    buffer: buffer::WalBuffer,
    memory: Arc<Semaphore>,
    /// Number of accepted appends that are answered.
    answered: watch::Sender<u64>,
    /// The oldest object in flight, which all others wait for.
    oldest: Mutex<Option<OldestWrite>>,
    /// Error for producers when the agent gives the incarnation up.
    give_up_cause: OnceLock<Error>,
}

/// The oldest object in flight.
#[derive(Debug, Clone, Copy)]
struct OldestWrite {
    stage: WriteStage,
    /// When it entered this stage.
    since: Instant,
    /// The same, or when the previous object was done, if that was later.
    no_progress_since: Instant,
    bytes: usize,
}

impl OldestWrite {
    /// Returns the state of an object that is stored and is being committed from now on.
    fn new_commit(bytes: usize) -> Self {
        let now = Instant::now();
        Self {
            stage: WriteStage::Commit,
            since: now,
            no_progress_since: now,
            bytes,
        }
    }
}

/// How long the oldest write has waited.
#[derive(Debug, Clone, Copy)]
pub struct WriteStall {
    /// Stage in which it waits.
    pub stage: WriteStage,
    /// How long nothing has progressed.
    pub waited: Duration,
    /// How long the uploads in flight may take on a slow connection.
    pub transfer: Duration,
}

impl WalWriter {
    /// Starts the flusher and the committer; they end when the session has ended and everything is
    /// answered.
    pub fn start(deps: WriterDeps, settings: WriterSettings, session: Arc<AgentSession>) -> Self {
        let shared = Arc::new(WriterState {
            buffer: buffer::WalBuffer::new(settings.flush_bytes),
            memory: Arc::new(Semaphore::new(settings.memory)),
            answered: watch::Sender::new(0),
            oldest: Mutex::default(),
            give_up_cause: OnceLock::new(),
            deps,
            session,
            settings,
        });
        let (flushed, queue) = mpsc::unbounded_channel();
        tokio::spawn(flush::run_flusher(shared.clone(), flushed));
        tokio::spawn(commit::run_committer(shared.clone(), queue));
        Self { shared }
    }

    /// Returns the session whose batches it writes.
    pub fn session(&self) -> &AgentSession {
        &self.shared.session
    }

    /// Accepts an append; its ticket is answered later.
    pub fn append(&self, append: AppendRequest) {
        self.shared.buffer.append(append);
    }

    /// Returns the memory for appends: one permit per byte.
    pub fn memory(&self) -> &Arc<Semaphore> {
        &self.shared.memory
    }

    /// Returns the number of bytes that may be admitted at once.
    pub fn memory_capacity(&self) -> usize {
        self.shared.settings.memory
    }

    /// Returns the bytes that are admitted and not yet answered.
    pub fn queued_bytes(&self) -> usize {
        self.shared
            .settings
            .memory
            .saturating_sub(self.shared.memory.available_permits())
    }

    /// Returns the stage of the oldest object in flight, and how long it has been in it.
    pub fn oldest_write(&self) -> Option<(WriteStage, Duration)> {
        let oldest = *self.shared.oldest.lock();
        oldest.map(|oldest| (oldest.stage, oldest.since.elapsed()))
    }

    /// Returns how long no write has progressed while one is in flight; `None` if none is.
    pub fn current_stall(&self) -> Option<WriteStall> {
        let oldest = (*self.shared.oldest.lock())?;
        let bytes = match oldest.stage {
            WriteStage::Upload => oldest
                .bytes
                .saturating_mul(self.shared.settings.upload_concurrency),
            WriteStage::Commit => 0,
        };
        Some(WriteStall {
            stage: oldest.stage,
            waited: oldest.no_progress_since.elapsed(),
            transfer: timeout_for(Duration::ZERO, bytes as u64),
        })
    }

    /// Ends the incarnation because nothing can be written: everything that is not committed is
    /// answered with `give_up_cause`.
    pub fn give_up(&self, cause: Error) {
        let _ = self.shared.give_up_cause.set(cause);
        self.shared.session.ended.cancel();
    }

    /// Waits until everything appended so far is answered.
    pub async fn drain(&self) {
        let target = self.shared.buffer.accepted_count();
        let mut answered = self.shared.answered.subscribe();
        let _ = answered.wait_for(|answered| *answered >= target).await;
    }
}

impl WriterState {
    /// Ends the incarnation: every later append is refused.
    fn close(&self, error: &Error) {
        self.session.ended.cancel();
        let refused = self.buffer.close(error);
        self.add_answered(refused);
    }

    fn set_oldest(&self, oldest: Option<OldestWrite>) {
        *self.oldest.lock() = oldest;
    }

    /// Returns the error for appends that were not committed before the incarnation ended.
    fn session_ended_error(&self) -> Error {
        self.give_up_cause.get().cloned().unwrap_or_else(lease_lost_error)
    }

    /// Waits until the outcome of a commit is no longer worth waiting for: the incarnation has
    /// ended, and the store had time to answer. A write that was given up has waited long enough.
    async fn wait_commit_abandoned(&self) {
        self.session.ended.cancelled().await;
        if self.give_up_cause.get().is_none() {
            sleep(COMMIT_OUTCOME_GRACE).await;
        }
    }

    fn add_answered(&self, appends: u64) {
        self.answered.send_modify(|answered| *answered += appends);
    }
}

/// Returns the error for appends that may or may not be committed: an idempotent producer's retry
/// resolves it.
fn unknown_outcome_error(why: &'static str) -> Error {
    Error::new(ErrorCode::MetadataUnavailable, why)
}

/// Returns the error for appends that were not committed before the agent lost its lease.
fn lease_lost_error() -> Error {
    Error::new(
        ErrorCode::NotLeader,
        "this agent lost its lease before the commit; refresh the metadata and try again",
    )
}
