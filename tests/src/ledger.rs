//! A workload that verifies delivery: numbered records are sent to every partition,
//! acknowledgements are recorded, and finally the log is read from its start and compared with
//! them.
//!
//! [`DeliveryLedger::check`] proves: an acknowledged record is stored once, at the acknowledged
//! offset, with its bytes; no record is stored twice; each producer's records of a partition are in
//! the order sent; offsets have no gaps.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use streamhouse_client::{AutoOffsetReset, Consumer, Producer, Record, TopicPartition};
use tokio::task::JoinHandle;

static NEXT_PRODUCER: AtomicU64 = AtomicU64::new(0);

/// Acknowledged records: partition and offset by value.
pub type AckedRecords = HashMap<String, (i32, i64)>;

/// A topic and the records acknowledged in it.
#[derive(Debug, Clone)]
pub struct DeliveryLedger {
    bootstrap: String,
    topic: String,
    partitions: i32,
    acked: Arc<Mutex<AckedRecords>>,
}

/// A running workload.
#[derive(Debug)]
pub struct RunningWorkload {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    acked: Arc<AtomicU64>,
    /// Why the first delivery failed that did.
    failure: Arc<OnceLock<String>>,
    task: JoinHandle<anyhow::Result<u64>>,
}

/// Records of the log by partition, in offset order.
pub type PartitionLogs = BTreeMap<i32, Vec<(i64, String)>>;

impl DeliveryLedger {
    /// Creates a ledger for an existing topic.
    pub fn new(bootstrap: impl Into<String>, topic: impl Into<String>, partitions: i32) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            topic: topic.into(),
            partitions,
            acked: Arc::default(),
        }
    }

    /// Starts producing about `per_second` records per second, until [`RunningWorkload::finish`].
    pub async fn produce(&self, per_second: u64) -> anyhow::Result<RunningWorkload> {
        let producer = Producer::builder()
            .bootstrap(&self.bootstrap)
            .linger(Duration::from_millis(2))
            .delivery_timeout(Duration::from_secs(90))
            .build()
            .await?;
        let name = NEXT_PRODUCER.fetch_add(1, Ordering::Relaxed);
        let (stop, sent, acked) = (
            Arc::<AtomicBool>::default(),
            Arc::<AtomicU64>::default(),
            Arc::<AtomicU64>::default(),
        );
        let failure = Arc::<OnceLock<String>>::default();
        let (ledger, stopped, counted, settled) = (self.clone(), stop.clone(), sent.clone(), acked.clone());
        let failed = failure.clone();
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(10));
            let mut number = 0_u64;
            while !stopped.load(Ordering::Acquire) {
                ticks.tick().await;
                for _ in 0..per_second.div_ceil(100) {
                    let partition = (number % u64::from(ledger.partitions.unsigned_abs())) as i32;
                    let value = format!("{name}/{partition}/{number:012}");
                    let record = Record::new(&ledger.topic, value.clone()).with_partition(partition);
                    let delivery = producer.send(record).await?;
                    let (acks, settled, failed) = (ledger.acked.clone(), settled.clone(), failed.clone());
                    delivery.on_completion(move |outcome| match (outcome, acks.lock()) {
                        (Ok(place), Ok(mut acks)) => {
                            acks.insert(value, (place.partition, place.offset));
                            settled.fetch_add(1, Ordering::AcqRel);
                        }
                        (Err(error), _) => {
                            failed.get_or_init(|| format!("{value}: {error}"));
                        }
                        (Ok(_), Err(_)) => {}
                    });
                    number += 1;
                    counted.fetch_add(1, Ordering::AcqRel);
                }
            }
            producer.close(Duration::from_secs(90)).await?;
            Ok(number)
        });
        Ok(RunningWorkload {
            stop,
            sent,
            acked,
            failure,
            task,
        })
    }

    /// Returns how many records have been acknowledged.
    pub fn acked(&self) -> usize {
        self.acked.lock().map(|acked| acked.len()).unwrap_or(0)
    }

    /// Reads all records from the log starts to the high watermarks.
    ///
    /// # Errors
    ///
    /// Fails if that takes longer than two minutes.
    pub async fn read(&self) -> anyhow::Result<PartitionLogs> {
        let partitions: Vec<TopicPartition> = (0..self.partitions)
            .map(|partition| TopicPartition::new(&self.topic, partition))
            .collect();
        let mut consumer = Consumer::builder()
            .bootstrap(&self.bootstrap)
            .assign(partitions.clone())
            .auto_offset_reset(AutoOffsetReset::Earliest)
            .build()
            .await?;
        let ends = consumer.end_offsets(&partitions).await?;
        let starts = consumer.beginning_offsets(&partitions).await?;
        let mut left: i64 = partitions.iter().map(|p| ends[p] - starts[p]).sum();
        let mut log = PartitionLogs::new();
        let reading = async {
            while left > 0 {
                for record in &consumer.poll(Duration::from_secs(1)).await? {
                    let value = String::from_utf8(record.value.context("a value is null")?.to_vec())?;
                    log.entry(record.partition)
                        .or_default()
                        .push((record.offset, value));
                    left -= 1;
                }
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(120), reading)
            .await
            .context("the log could not be read in time")??;
        consumer.close().await?;
        Ok(log)
    }

    /// Reads the log and compares it with the acknowledgements.
    ///
    /// # Errors
    ///
    /// Fails with the first violation, or if nothing was acknowledged.
    pub async fn check(&self) -> anyhow::Result<PartitionLogs> {
        let log = self.read().await?;
        let acked = self
            .acked
            .lock()
            .map_err(|_| anyhow::anyhow!("the ledger is broken"))?
            .clone();
        ensure!(
            !acked.is_empty(),
            "nothing was acknowledged, so nothing was proved"
        );
        let mut seen = HashSet::new();
        for (partition, records) in &log {
            let mut last: HashMap<&str, &str> = HashMap::new();
            for (place, (offset, value)) in records.iter().enumerate() {
                let first = records[0].0;
                ensure!(
                    *offset == first + place as i64,
                    "partition {partition}: offset {offset} follows a gap"
                );
                ensure!(
                    seen.insert(value.as_str()),
                    "{value} stands twice, again at {partition}@{offset}"
                );
                let (producer, number) = value.split_once('/').context("a foreign value")?;
                if let Some(before) = last.insert(producer, number) {
                    ensure!(
                        before < number,
                        "{value} at {partition}@{offset} stands after {before}: the order is lost"
                    );
                }
                if let Some(acked) = acked.get(value) {
                    // A batch that was stored long before its acknowledgement has no offset in it.
                    let unknown = (*partition, -1);
                    ensure!(
                        *acked == (*partition, *offset) || *acked == unknown,
                        "{value} was acked at {acked:?}, stands at {partition}@{offset}"
                    );
                }
            }
        }
        let lost: Vec<&String> = acked
            .keys()
            .filter(|value| !seen.contains(value.as_str()))
            .collect();
        ensure!(
            lost.is_empty(),
            "{} acknowledged records are lost, such as {:?}",
            lost.len(),
            lost.first()
        );
        Ok(log)
    }
}

impl RunningWorkload {
    /// Returns how many records of this workload have been acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Acquire)
    }

    /// Waits until `more` further records have been acknowledged.
    ///
    /// # Errors
    ///
    /// Fails if that takes longer than a minute or the workload ends.
    pub async fn wait_for_acked(&self, more: u64) -> anyhow::Result<()> {
        let target = self.acked() + more;
        for _ in 0..6000 {
            if self.acked() >= target {
                return Ok(());
            }
            if self.task.is_finished() {
                bail!("the workload ended early");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!(
            "no progress: {} of {target} records acknowledged within a minute; {}",
            self.acked(),
            self.first_failure()
        )
    }

    /// Stops the workload, waits for all deliveries, and returns how many records were sent.
    ///
    /// # Errors
    ///
    /// Fails if a record was not acknowledged.
    pub async fn finish(mut self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Release);
        let sent = (&mut self.task).await??;
        let acked = self.acked.load(Ordering::Acquire);
        ensure!(sent == self.sent.load(Ordering::Acquire));
        ensure!(
            acked == sent,
            "{sent} records were sent, {acked} acknowledged; {}",
            self.first_failure()
        );
        Ok(sent)
    }

    fn first_failure(&self) -> String {
        match self.failure.get() {
            Some(failure) => format!("the first failure: {failure}"),
            None => "none has failed".to_owned(),
        }
    }
}
