//! The way of a record into the object store: [`handler`] validates and admits, [`buffer`] collects, [`flush`] uploads,
//! [`commit`] commits and answers. One [`Writer`] a life.
//!
//! An append is answered by its ticket, once: with an offset only after the object that holds it is stored and its commit
//! is in the metadata (INV-P1), in the order in which batches were appended (INV-P4).

pub mod buffer;
mod commit;
mod flush;
pub mod handler;
mod verify;

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use streamhouse_core::{Error, ErrorCode, Incarnation, time::Entropy};
use streamhouse_metadata::MetadataStore;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Duration, Instant, sleep},
};
use tokio_util::sync::CancellationToken;

pub use buffer::{Ack, Append, Appended};

use crate::{
    failpoint::FailPoints,
    fetch::tail::TailBudget,
    metrics::{Metrics, WriteStage},
    partition::Held,
    store::{ObjectStore, retry::time_for},
    traces::AgentTraces,
};

/// How long the outcome of a commit is asked for after its life is over.
const LAST_ANSWER: Duration = Duration::from_secs(10);

/// How the writer collects and uploads.
#[derive(Debug, Clone, Copy)]
pub struct WriterSettings {
    /// The shortest time between two flushes.
    pub flush_interval: Duration,
    /// An object is full at this size.
    pub flush_bytes: usize,
    /// Uploads at once.
    pub upload_concurrency: usize,
    /// Bytes admitted and not yet answered.
    pub memory: usize,
}

/// What a writer works with.
#[derive(Debug, Clone)]
pub struct WriterDeps {
    /// Whose objects it writes.
    pub incarnation: Incarnation,
    /// Where they are committed.
    pub metadata: Arc<dyn MetadataStore>,
    /// Where they are stored.
    pub store: Arc<dyn ObjectStore>,
    /// For jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Partitions found fenced are let go.
    pub held: Arc<Held>,
    /// Where committed batches stay readable.
    pub tails: Arc<TailBudget>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// What is said of it in traces.
    pub traces: AgentTraces,
    /// Where tests interfere.
    pub failpoints: Arc<FailPoints>,
    /// Cancelled by the lease keeper when the life is over, and by the writer when it finds the life sealed.
    pub over: CancellationToken,
}

/// Takes validated batches to the object store and the metadata.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    deps: WriterDeps,
    settings: WriterSettings,
    buffer: buffer::Buffer,
    memory: Arc<Semaphore>,
    /// Appends accepted and answered so far.
    answered: watch::Sender<u64>,
    /// The object that everything else waits for.
    oldest: Mutex<Option<OldestWrite>>,
    /// What producers are told when the agent gives the life up.
    cause: OnceLock<Error>,
}

/// The oldest object under way.
#[derive(Debug, Clone, Copy)]
struct OldestWrite {
    stage: WriteStage,
    /// Since when it is in this stage.
    since: Instant,
    /// The same, or when the object before it was done, if that was later.
    no_progress_since: Instant,
    bytes: usize,
}

impl OldestWrite {
    /// Is stored, and to be committed from now on.
    fn commits_now(bytes: usize) -> Self {
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
pub struct Stall {
    /// What for.
    pub stage: WriteStage,
    /// For how long nothing at all was done.
    pub waited: Duration,
    /// What the uploads under way need on a slow line.
    pub transfer: Duration,
}

impl Writer {
    /// Starts the flusher and the committer; they end when `deps.over` is cancelled and everything is answered.
    pub fn start(deps: WriterDeps, settings: WriterSettings) -> Self {
        let shared = Arc::new(Shared {
            buffer: buffer::Buffer::new(settings.flush_bytes),
            memory: Arc::new(Semaphore::new(settings.memory)),
            answered: watch::Sender::new(0),
            oldest: Mutex::default(),
            cause: OnceLock::new(),
            deps,
            settings,
        });
        let (flushed, queue) = mpsc::unbounded_channel();
        tokio::spawn(flush::run(shared.clone(), flushed));
        tokio::spawn(commit::run(shared.clone(), queue));
        Self { shared }
    }

    /// Takes an append in; its ticket answers.
    pub fn append(&self, append: Append) {
        self.shared.buffer.append(append);
    }

    /// The memory for appends: a permit a byte.
    pub fn memory(&self) -> &Arc<Semaphore> {
        &self.shared.memory
    }

    /// Bytes admitted and not yet answered.
    pub fn queued_bytes(&self) -> usize {
        self.shared
            .settings
            .memory
            .saturating_sub(self.shared.memory.available_permits())
    }

    /// What the oldest object under way waits for, and for how long already.
    pub fn oldest(&self) -> Option<(WriteStage, Duration)> {
        let oldest = *self.shared.oldest.lock();
        oldest.map(|oldest| (oldest.stage, oldest.since.elapsed()))
    }

    /// For how long no write was done while one was under way; `None` when none is.
    pub fn stall(&self) -> Option<Stall> {
        let oldest = (*self.shared.oldest.lock())?;
        let bytes = match oldest.stage {
            WriteStage::Upload => oldest
                .bytes
                .saturating_mul(self.shared.settings.upload_concurrency),
            WriteStage::Commit => 0,
        };
        Some(Stall {
            stage: oldest.stage,
            waited: oldest.no_progress_since.elapsed(),
            transfer: time_for(Duration::ZERO, bytes as u64),
        })
    }

    /// Ends the life because nothing can be written: everything that is not committed is answered with `cause`.
    pub fn give_up(&self, cause: Error) {
        let _ = self.shared.cause.set(cause);
        self.shared.deps.over.cancel();
    }

    /// Resolves when everything appended before is answered.
    pub async fn drain(&self) {
        let target = self.shared.buffer.accepted();
        let mut answered = self.shared.answered.subscribe();
        let _ = answered.wait_for(|answered| *answered >= target).await;
    }
}

impl Shared {
    /// Ends the life: whatever is appended from now on is refused.
    fn close(&self, error: &Error) {
        self.deps.over.cancel();
        let refused = self.buffer.close(error);
        self.answered(refused);
    }

    fn oldest_is(&self, oldest: Option<OldestWrite>) {
        *self.oldest.lock() = oldest;
    }

    /// What producers are told when the life ended before the commit: nothing of theirs was committed.
    fn life_over(&self) -> Error {
        self.cause.get().cloned().unwrap_or_else(life_over)
    }

    /// Resolves when nobody should wait for a commit any longer: its life is over, and the store had time to say how it
    /// ended. What was given up has waited long enough.
    async fn last_answer(&self) {
        self.deps.over.cancelled().await;
        if self.cause.get().is_none() {
            sleep(LAST_ANSWER).await;
        }
    }

    fn answered(&self, appends: u64) {
        self.answered.send_modify(|answered| *answered += appends);
    }
}

/// What producers are told when nobody knows what became of their records: an idempotent producer's retry settles it.
fn outcome_unknown(why: &'static str) -> Error {
    Error::new(ErrorCode::MetadataUnavailable, why)
}

/// What producers are told when the agent lost its lease before the commit: nothing of theirs was committed.
fn life_over() -> Error {
    Error::new(
        ErrorCode::NotLeader,
        "this agent lost its lease before the commit; refresh the metadata and try again",
    )
}
