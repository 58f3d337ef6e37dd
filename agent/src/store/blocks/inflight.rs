//! Reads in flight: each block is read at most once, adjacent blocks together, and a bounded number
//! of blocks at a time.

use std::{collections::HashMap, fmt, sync::Arc};

use bytes::Bytes;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::{
    super::{GetRange, ObjectStore, StoreError, StoreErrorKind},
    BlockId,
};

/// Maximum number of blocks in flight; further reads wait.
pub(super) const MAX_INFLIGHT_BLOCKS: usize = 32;
/// Maximum number of adjacent blocks that one GET reads.
const MAX_RUN_BLOCKS: usize = 8;

/// The outcome of reading a block; `None` while it is in flight.
type BlockOutcome = Option<Result<Bytes, StoreError>>;

/// A block that was requested and may still be in flight.
pub(super) struct PendingBlock {
    index: u64,
    arrival: watch::Receiver<BlockOutcome>,
}

impl PendingBlock {
    /// Waits for the block.
    pub(super) async fn wait(mut self) -> Result<(u64, Bytes), StoreError> {
        match self
            .arrival
            .wait_for(Option::is_some)
            .await
            .map(|outcome| outcome.clone())
        {
            Ok(Some(outcome)) => outcome.map(|bytes| (self.index, bytes)),
            // The reading task is gone: the runtime is shutting down.
            _ => Err(StoreError::new(
                StoreErrorKind::Unavailable,
                "the read was cancelled; try again",
            )),
        }
    }
}

/// The reads in flight.
pub(super) struct InflightReads {
    store: Arc<dyn ObjectStore>,
    cache: Cache<BlockId, Bytes>,
    block: u64,
    under_way: Mutex<HashMap<BlockId, watch::Receiver<BlockOutcome>>>,
    room: Semaphore,
}

impl fmt::Debug for InflightReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Flights({:?}, {} under way)",
            self.store,
            self.under_way.lock().len()
        )
    }
}

/// Adjacent blocks that one GET reads.
struct BlockRun {
    key: Arc<str>,
    first: u64,
    arrivals: Vec<watch::Sender<BlockOutcome>>,
}

impl InflightReads {
    pub(super) fn new(store: Arc<dyn ObjectStore>, cache: Cache<BlockId, Bytes>, block: u64) -> Self {
        let (under_way, room) = (Mutex::default(), Semaphore::new(MAX_INFLIGHT_BLOCKS));
        Self {
            store,
            cache,
            block,
            under_way,
            room,
        }
    }

    /// Returns the number of blocks in flight.
    pub(super) fn inflight_blocks(&self) -> usize {
        MAX_INFLIGHT_BLOCKS.saturating_sub(self.room.available_permits())
    }

    /// Returns whether a read-ahead should not start now.
    pub(super) fn is_busy(&self) -> bool {
        self.room.available_permits() < MAX_INFLIGHT_BLOCKS / 2
    }

    /// Joins the reads of the blocks `indexes` (ascending) of the object, and starts those not in
    /// flight yet.
    pub(super) fn join_or_start(
        self: &Arc<Self>,
        key: &Arc<str>,
        size: Option<u64>,
        indexes: &[u64],
    ) -> Vec<PendingBlock> {
        let mut landings = Vec::with_capacity(indexes.len());
        let mut runs: Vec<BlockRun> = Vec::new();
        let mut under_way = self.under_way.lock();
        for &index in indexes {
            let id = BlockId {
                key: key.clone(),
                index,
            };
            // The block may have arrived since the caller looked: it enters the cache before it
            // leaves this map.
            let arrival = match (under_way.get(&id), self.cache.get(&id)) {
                (Some(arrival), _) => arrival.clone(),
                (None, Some(bytes)) => watch::channel(Some(Ok(bytes))).1,
                (None, None) => {
                    let (sender, arrival) = watch::channel(None);
                    under_way.insert(id, arrival.clone());
                    match runs.last_mut() {
                        Some(run) if run.end_index() == index && run.arrivals.len() < MAX_RUN_BLOCKS => {
                            run.arrivals.push(sender);
                        }
                        _ => runs.push(BlockRun {
                            key: key.clone(),
                            first: index,
                            arrivals: vec![sender],
                        }),
                    }
                    arrival
                }
            };
            landings.push(PendingBlock { index, arrival });
        }
        drop(under_way);
        for run in runs {
            let flights = self.clone();
            // A task of its own: others may wait for the same blocks when the caller is cancelled.
            drop(tokio::spawn(async move { flights.run_read(run, size).await }));
        }
        landings
    }

    async fn run_read(&self, run: BlockRun, size: Option<u64>) {
        let landed = InflightGuard {
            flights: self,
            run: &run,
        };
        let blocks = u32::try_from(run.arrivals.len()).unwrap_or(u32::MAX);
        // Held until the run is split: its bytes exist twice until then.
        let _room = self.room.acquire_many(blocks).await;
        let outcome = self.fetch(&run, size).await;
        for (index, arrival) in (run.first..).zip(&run.arrivals) {
            let outcome = outcome
                .as_ref()
                .map_err(Clone::clone)
                .map(|bytes| self.extract_block(&run, bytes, index));
            if let Ok(bytes) = &outcome
                && !bytes.is_empty()
            {
                self.cache.insert(
                    BlockId {
                        key: run.key.clone(),
                        index,
                    },
                    bytes.clone(),
                );
            }
            arrival.send_replace(Some(outcome));
        }
        // Evicts for these blocks now and not at some later time.
        self.cache.run_pending_tasks();
        drop(landed);
    }

    async fn fetch(&self, run: &BlockRun, size: Option<u64>) -> Result<Bytes, StoreError> {
        let end = run.end_index().saturating_mul(self.block);
        let range = run.first * self.block..end.min(size.unwrap_or(end));
        let (expected, end) = (range.end - range.start, range.end);
        let short = || {
            StoreError::new(
                StoreErrorKind::Corrupt,
                format!("object {} ends before byte {end}", run.key),
            )
        };
        let bytes = match self.store.get(&run.key, GetRange::Bounded(range)).await {
            Err(error) if error.kind() == StoreErrorKind::InvalidRange => return Err(short()),
            bytes => bytes?,
        };
        if size.is_none() || bytes.len() as u64 == expected {
            return Ok(bytes);
        }
        Err(short())
    }

    fn extract_block(&self, run: &BlockRun, bytes: &Bytes, index: u64) -> Bytes {
        if run.arrivals.len() == 1 {
            return bytes.clone();
        }
        let block = usize::try_from(self.block).unwrap_or(usize::MAX);
        let start = usize::try_from(index - run.first).unwrap_or_default() * block;
        let end = start.saturating_add(block).min(bytes.len());
        // A copy: a slice would keep the whole run in memory, uncounted.
        Bytes::copy_from_slice(bytes.get(start..end).unwrap_or_default())
    }
}

impl BlockRun {
    /// Returns the index after the last block.
    fn end_index(&self) -> u64 {
        self.first + self.arrivals.len() as u64
    }
}

/// Removes the run from the map, however its task ends.
struct InflightGuard<'a> {
    flights: &'a InflightReads,
    run: &'a BlockRun,
}

impl Drop for InflightGuard<'_> {
    fn drop(&mut self) {
        let mut under_way = self.flights.under_way.lock();
        for index in self.run.first..self.run.end_index() {
            under_way.remove(&BlockId {
                key: self.run.key.clone(),
                index,
            });
        }
    }
}
