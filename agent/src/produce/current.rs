//! Owns the writer of the active incarnation. Set by the lease keeper; read by the request handler
//! and the gauges.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use super::WalWriter;
use crate::metrics::WriteStage;

/// The writer of the active incarnation; empty between incarnations and after a drain.
#[derive(Debug, Default)]
pub struct CurrentWriter {
    active: ArcSwapOption<WalWriter>,
    /// The stage in which writes of the previous incarnation stalled, and since when; `None` while
    /// an incarnation is active.
    stalled: Mutex<Option<(WriteStage, Instant)>>,
}

impl CurrentWriter {
    /// Returns the writer of the active incarnation, if there is one.
    pub fn get(&self) -> Option<Arc<WalWriter>> {
        self.active.load_full()
    }

    /// Starts to write with the writer of a new incarnation.
    pub fn start(&self, writer: Arc<WalWriter>) {
        self.active.store(Some(writer));
        self.stalled.lock().take();
    }

    /// Stops writing: the incarnation has ended.
    pub fn end(&self) {
        self.active.store(None);
    }

    /// Records the stage in which writes have stalled since `since`, which ends the incarnation.
    pub fn record_stall(&self, stage: WriteStage, since: Option<Instant>) {
        *self.stalled.lock() = since.map(|since| (stage, since));
    }

    /// Returns the bytes that are admitted and not yet answered.
    pub fn queued_bytes(&self) -> usize {
        self.get().map_or(0, |writer| writer.queued_bytes())
    }

    /// Returns the stage of the oldest object in flight, and how long it has been in it. A stalled
    /// write is as old as the stall that ended its incarnation.
    pub fn oldest_write(&self) -> Option<(WriteStage, Duration)> {
        let oldest = self.get().and_then(|writer| writer.oldest_write());
        oldest.or_else(|| self.stalled.lock().map(|(stage, since)| (stage, since.elapsed())))
    }
}
