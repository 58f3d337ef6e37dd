//! The flusher: decides when an object leaves the buffer, and uploads it. Uploads run concurrently,
//! up to a limit; the committer receives them in the order in which they left the buffer.
//!
//! A flush starts when data is buffered and no upload is in flight, or when an object is full;
//! unless an object is full, never sooner than the flush interval after the previous flush.

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry::{
    KeyValue,
    trace::{FutureExt, SpanContext, Status, TraceContextExt},
};
use streamhouse_core::trace::{SampledSpan, key, log_span};
use streamhouse_metadata::{PartitionCommit, keys};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tracing::Instrument;

use super::{WriterState, buffer::OpenWalObject};
use crate::{
    failpoint::FailPoint,
    metrics::FlushReason,
    store::{self, RetryPolicy, StoreErrorKind},
};

/// An object being uploaded: stored if `uploaded` resolves to `true`, and not stored if it resolves
/// to anything else.
#[derive(Debug)]
pub(super) struct FlushedObject {
    pub(super) sequence: u64,
    pub(super) object: OpenWalObject,
    pub(super) body: Bytes,
    pub(super) commits: Vec<PartitionCommit>,
    /// Spans of the traced requests in it.
    pub(super) traced: Arc<[SpanContext]>,
    /// When the upload began.
    pub(super) upload_started_at: Instant,
    pub(super) uploaded: oneshot::Receiver<bool>,
}

/// Runs until the incarnation ends.
pub(super) async fn run_flusher(shared: Arc<WriterState>, flushed: mpsc::UnboundedSender<FlushedObject>) {
    let mut flusher = WalFlusher {
        uploads: Arc::new(Semaphore::new(shared.settings.upload_concurrency)),
        idle: Arc::new(Semaphore::new(1)),
        next_sequence: 0,
        last: None,
        shared,
        flushed,
    };
    loop {
        tokio::select! {
            biased;
            () = flusher.shared.session.ended.cancelled() => break,
            (reason, slot) = flusher.wait_for_flush() => flusher.flush(reason, slot),
        }
    }
    let reported = flusher.shared.session_ended_error();
    flusher.shared.close(&reported);
}

struct WalFlusher {
    shared: Arc<WriterState>,
    flushed: mpsc::UnboundedSender<FlushedObject>,
    uploads: Arc<Semaphore>,
    /// Has its permit while no upload is in flight.
    idle: Arc<Semaphore>,
    next_sequence: u64,
    last: Option<Instant>,
}

/// The permits that an upload holds until it ends.
struct UploadSlot {
    _upload: OwnedSemaphorePermit,
    _idle: Option<OwnedSemaphorePermit>,
}

impl WalFlusher {
    /// Waits until a flush is due and an upload may begin.
    async fn wait_for_flush(&self) -> (FlushReason, UploadSlot) {
        loop {
            let changed = self.shared.buffer.changed.notified();
            match self.shared.buffer.pending_state() {
                (_, true) => {
                    if let Ok(upload) = self.uploads.clone().acquire_owned().await {
                        let idle = self.idle.clone().try_acquire_owned().ok();
                        return (
                            FlushReason::Full,
                            UploadSlot {
                                _upload: upload,
                                _idle: idle,
                            },
                        );
                    }
                }
                (true, false) => tokio::select! {
                    biased;
                    () = changed => {}
                    idle = self.wait_until_due() => {
                        let upload = self.uploads.clone().acquire_owned().await.ok();
                        if let Some((upload, idle)) = upload.zip(idle) {
                            return (FlushReason::Interval, UploadSlot { _upload: upload, _idle: Some(idle) });
                        }
                    }
                },
                (false, false) => changed.await,
            }
        }
    }

    /// Waits until the interval has passed and no upload is in flight.
    async fn wait_until_due(&self) -> Option<OwnedSemaphorePermit> {
        if let Some(last) = self.last {
            sleep_until(last + self.shared.settings.flush_interval).await;
        }
        self.idle.clone().acquire_owned().await.ok()
    }

    /// Takes the next object, starts its upload and passes it to the committer.
    fn flush(&mut self, reason: FlushReason, slot: UploadSlot) {
        let Some(mut object) = self.shared.buffer.take_next() else {
            return;
        };
        let begun = Instant::now();
        self.last = Some(begun);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let (body, commits) = object.assemble_body();
        self.shared.deps.metrics.record_flush(reason, body.len());
        let (done, uploaded) = oneshot::channel();
        let traced: Arc<[_]> = if self.shared.deps.traces.is_on() {
            object.span_contexts().into()
        } else {
            Arc::new([])
        };
        let shared = self.shared.clone();
        tokio::spawn(upload_object(
            shared,
            sequence,
            body.clone(),
            traced.clone(),
            slot,
            done,
        ));
        // The committer runs as long as this sender exists.
        let _ = self.flushed.send(FlushedObject {
            sequence,
            object,
            body,
            commits,
            traced,
            upload_started_at: begun,
            uploaded,
        });
    }
}

/// Stores one object, however long it takes; gives up only when the incarnation ends.
async fn upload_object(
    shared: Arc<WriterState>,
    sequence: u64,
    body: Bytes,
    traced: Arc<[SpanContext]>,
    slot: UploadSlot,
    done: oneshot::Sender<bool>,
) {
    let (deps, session) = (&shared.deps, &shared.session);
    let object = keys::wal_key(session.incarnation, sequence);
    deps.failpoints.reach(FailPoint::BeforeUpload).await;
    let started = Instant::now();
    let retry = RetryPolicy::new(deps.entropy.clone()).with_cancellation(session.ended.clone());
    let span = deps.traces.start_upload(&traced, &object, body.len());
    let log = log_span(span.as_ref().map(SampledSpan::context));
    let context = span.map(SampledSpan::into_context).unwrap_or_default();
    let stored = store::put_settled(deps.store.as_ref(), &object, body, &retry)
        .instrument(log.clone())
        .with_context(context.clone())
        .await;
    deps.metrics
        .flush_duration
        .observe(started.elapsed().as_secs_f64());
    drop(slot);
    if let Err(error) = &stored
        && error.kind() != StoreErrorKind::Cancelled
    {
        // Not a retryable failure: an object of another writer has the key, which only a bug or a
        // foreign writer can cause.
        let _logged = log.entered();
        tracing::error!(key = object, %error, "a WAL object cannot be stored; this incarnation ends");
    }
    if let Err(error) = &stored {
        let status = Status::error(error.to_string());
        context
            .span()
            .set_attribute(KeyValue::new(key::ERROR_TYPE, error.kind().name()));
        context.span().set_status(status);
    }
    context.span().end();
    let _ = done.send(stored.is_ok());
}
