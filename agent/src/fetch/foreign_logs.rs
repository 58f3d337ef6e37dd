//! Polls the logs of partitions that other agents lead, on behalf of all waiting fetches of this
//! agent: the metadata store is asked once per round for all partitions together, and once more for
//! each partition that grew. Called by fetch.
//!
//! One task per agent, running while at least one fetch waits. An observation may be slightly
//! stale, so it is only used for what it proves: that nothing is new at the high watermark it saw,
//! or where the records after it are.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use streamhouse_core::{Error, PartitionUid};
use streamhouse_metadata::{LogBounds, LogPosition, LogView, MetadataStore};
use tokio::{
    sync::{Notify, watch},
    time::{Duration, Instant, sleep_until},
};

use crate::log::MAX_SPANS;

/// Time between two rounds.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Shortest time between two rounds, however many fetches arrive.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Partitions that grew whose logs are read concurrently.
const MAX_CONCURRENT_READS: usize = 4;

/// The result of polling one log.
#[derive(Debug)]
pub(super) enum LogObservation {
    /// The log. `appended` is what follows the high watermark of the previous observation, if it
    /// was read.
    Log {
        bounds: LogBounds,
        appended: Option<(i64, LogView)>,
    },
    /// The partition does not exist.
    Gone,
    /// The metadata store failed.
    Failed(Error),
}

/// Receives observations; `None` before the first.
pub(super) type ObservationReceiver = watch::Receiver<Option<Arc<LogObservation>>>;

/// Polls the partitions that fetches wait for.
#[derive(Debug, Default)]
pub struct ForeignLogWatcher {
    watched: Mutex<WatchedPartitions>,
    /// Notified when a fetch waits for a first observation.
    poll_now: Notify,
}

#[derive(Debug, Default)]
struct WatchedPartitions {
    partitions: HashMap<PartitionUid, watch::Sender<Option<Arc<LogObservation>>>>,
    running: bool,
}

impl ForeignLogWatcher {
    /// Returns the latest observation of a partition, waiting for the first one, and the receiver
    /// of later ones.
    pub(super) async fn latest(
        self: &Arc<Self>,
        metadata: &Arc<dyn MetadataStore>,
        uid: PartitionUid,
    ) -> (Arc<LogObservation>, ObservationReceiver) {
        let mut looks = self.subscribe(metadata, uid);
        loop {
            let seen = looks.borrow_and_update().clone();
            if let Some(seen) = seen {
                return (seen, looks);
            }
            self.poll_now.notify_one();
            if looks.changed().await.is_err() {
                looks = self.subscribe(metadata, uid);
            }
        }
    }

    /// Returns the number of fetches that wait for a partition.
    #[cfg(test)]
    pub(crate) fn waiter_count(&self, uid: PartitionUid) -> usize {
        let watched = self.watched.lock();
        watched
            .partitions
            .get(&uid)
            .map_or(0, watch::Sender::receiver_count)
    }

    fn subscribe(
        self: &Arc<Self>,
        metadata: &Arc<dyn MetadataStore>,
        uid: PartitionUid,
    ) -> ObservationReceiver {
        let mut watched = self.watched.lock();
        if !watched.running {
            watched.running = true;
            tokio::spawn(self.clone().run(metadata.clone()));
        }
        let sender = watched
            .partitions
            .entry(uid)
            .or_insert_with(|| watch::Sender::new(None));
        sender.subscribe()
    }

    /// Polls until no fetch waits any more.
    async fn run(self: Arc<Self>, metadata: Arc<dyn MetadataStore>) {
        loop {
            let started = Instant::now();
            let Some(uids) = self.watched_partitions() else {
                return;
            };
            self.poll_once(metadata.as_ref(), &uids).await;
            sleep_until(started + MIN_POLL_INTERVAL).await;
            tokio::select! {
                () = self.poll_now.notified() => {}
                () = sleep_until(started + POLL_INTERVAL) => {}
            }
        }
    }

    /// Returns the partitions that fetches wait for; `None` ends the task.
    fn watched_partitions(&self) -> Option<Vec<PartitionUid>> {
        let mut watched = self.watched.lock();
        watched.partitions.retain(|_, sender| sender.receiver_count() > 0);
        watched.running = !watched.partitions.is_empty();
        watched
            .running
            .then(|| watched.partitions.keys().copied().collect())
    }

    async fn poll_once(&self, metadata: &dyn MetadataStore, uids: &[PartitionUid]) {
        let found: HashMap<PartitionUid, LogBounds> = match metadata.bounds(uids).await {
            Ok(found) => found.into_iter().collect(),
            Err(error) => {
                let error = Error::from(error);
                for &uid in uids {
                    self.publish(uid, LogObservation::Failed(error.clone()));
                }
                return;
            }
        };
        let mut grown = Vec::new();
        for &uid in uids {
            match (found.get(&uid), self.known_bounds(uid)) {
                (None, _) => self.publish(uid, LogObservation::Gone),
                (Some(bounds), Some(known)) if bounds.high_watermark > known.high_watermark => {
                    grown.push((uid, known.high_watermark, *bounds));
                }
                (Some(bounds), Some(known))
                    if (bounds.log_start, bounds.high_watermark)
                        == (known.log_start, known.high_watermark) => {}
                (Some(bounds), _) => self.publish(
                    uid,
                    LogObservation::Log {
                        bounds: *bounds,
                        appended: None,
                    },
                ),
            }
        }
        stream::iter(grown)
            .for_each_concurrent(MAX_CONCURRENT_READS, |(uid, from, bounds)| async move {
                let read = metadata.read_log(uid, LogPosition::Offset(from), MAX_SPANS).await;
                // Without the view each fetch reads the log itself.
                let (bounds, news) = match read {
                    Ok(view) => (view.bounds, Some((from, view))),
                    Err(_) => (bounds, None),
                };
                self.publish(
                    uid,
                    LogObservation::Log {
                        bounds,
                        appended: news,
                    },
                );
            })
            .await;
    }

    /// Returns the bounds of the latest observation.
    fn known_bounds(&self, uid: PartitionUid) -> Option<LogBounds> {
        let watched = self.watched.lock();
        let seen = watched.partitions.get(&uid)?.borrow().clone()?;
        match *seen {
            LogObservation::Log { bounds, .. } => Some(bounds),
            LogObservation::Gone | LogObservation::Failed(_) => None,
        }
    }

    fn publish(&self, uid: PartitionUid, seen: LogObservation) {
        if let Some(sender) = self.watched.lock().partitions.get(&uid) {
            sender.send_replace(Some(Arc::new(seen)));
        }
    }
}
