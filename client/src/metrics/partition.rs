//! Per-partition gauges of consumers. Each partition has its own series; partitions beyond the
//! registry's limit (or all of them if the limit is 0) share one series per topic. A shared series
//! holds sums, and for the age the maximum, so that dashboards and alerts by group and topic work
//! the same.

use std::{
    array,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use prometheus::{Gauge, GaugeVec, IntGauge, IntGaugeVec};

use super::{factory::MetricFactory, labels::OTHER_LABEL};

/// Number of integer gauges; the constants below are their indexes.
const INTEGER_GAUGES: usize = 3;
const LAG: usize = 0;
const COMMITTED: usize = 1;
const CURRENT: usize = 2;

/// Labels of a series: group, topic and partition.
type SeriesLabels = [String; 3];

/// Gauges of all consumers of a registry.
#[derive(Debug)]
pub(super) struct PartitionVecs {
    numbers: [IntGaugeVec; INTEGER_GAUGES],
    lag_seconds: GaugeVec,
    active: Mutex<ActiveSeries>,
    /// Number of partitions that have their own series.
    limit: usize,
}

/// The exported series.
#[derive(Debug, Default)]
struct ActiveSeries {
    series: HashMap<SeriesLabels, Arc<GaugeSeries>>,
    /// Number of series that belong to a single partition.
    dedicated: usize,
    /// Number of the next user of a series.
    next_user: u64,
}

/// One series of every gauge, and its users.
#[derive(Debug)]
struct GaugeSeries {
    numbers: [IntGauge; INTEGER_GAUGES],
    lag_seconds: Gauge,
    ages: Mutex<BTreeMap<u64, f64>>,
}

impl GaugeSeries {
    /// Sets the age of a user's next record, or removes the user with `None`. Returns whether the
    /// series still has users.
    fn set_age(&self, user: u64, age: Option<f64>) -> bool {
        let mut ages = self.ages.lock();
        let before = match age {
            Some(age) => ages.insert(user, age),
            None => ages.remove(&user),
        };
        let (highest, age) = (self.lag_seconds.get(), age.unwrap_or(0.0));
        if age >= highest {
            self.lag_seconds.set(age);
        } else if before.is_some_and(|before| before >= highest) {
            // Scan all ages only if the oldest one changed: thousands of partitions may share a
            // series.
            self.lag_seconds.set(ages.values().copied().fold(0.0, f64::max));
        }
        !ages.is_empty()
    }
}

impl PartitionVecs {
    pub(super) fn new(r: &MetricFactory<'_>, limit: usize) -> Self {
        let partition = &["group", "topic", "partition"][..];
        let gauge = |name, help| r.gauge(name, help, partition);
        Self {
            numbers: [
                gauge(
                    "streamhouse_consumer_lag_records",
                    "Records between position and end.",
                ),
                gauge(
                    "streamhouse_consumer_last_committed_offset",
                    "The offset last committed.",
                ),
                gauge(
                    "streamhouse_consumer_current_offset",
                    "The offset that poll returns next.",
                ),
            ],
            lag_seconds: r.float_gauge(
                "streamhouse_consumer_lag_seconds",
                "Age of the record read next.",
                partition,
            ),
            active: Mutex::default(),
            limit,
        }
    }

    /// Adds a user to a partition's series. Returns the series and the user's number.
    fn acquire(&self, group: &str, topic: &str, partition: i32) -> (SeriesLabels, Arc<GaugeSeries>, u64) {
        let mut shown = self.active.lock();
        let mut labels = [group.to_owned(), topic.to_owned(), partition.to_string()];
        let own =
            topic != OTHER_LABEL && (shown.dedicated < self.limit || shown.series.contains_key(&labels));
        if !own {
            OTHER_LABEL.clone_into(&mut labels[2]);
        }
        shown.next_user += 1;
        let user = shown.next_user;
        if !shown.series.contains_key(&labels) {
            let series = GaugeSeries {
                numbers: array::from_fn(|n| self.numbers[n].with_label_values(&labels)),
                lag_seconds: self.lag_seconds.with_label_values(&labels),
                ages: Mutex::default(),
            };
            shown.series.insert(labels.clone(), Arc::new(series));
            shown.dedicated += usize::from(own);
        }
        let series = shown.series[&labels].clone();
        series.set_age(user, Some(0.0));
        (labels, series, user)
    }

    /// Removes a user from a series, and the series with its last user.
    fn release(&self, labels: &SeriesLabels, user: u64) {
        let mut shown = self.active.lock();
        if shown
            .series
            .get(labels)
            .is_none_or(|series| series.set_age(user, None))
        {
            return;
        }
        shown.series.remove(labels);
        shown.dedicated -= usize::from(labels[2] != OTHER_LABEL);
        for gauge in &self.numbers {
            let _ = gauge.remove_label_values(labels);
        }
        let _ = self.lag_seconds.remove_label_values(labels);
    }
}

/// One partition's share of the gauges, removed on drop.
#[derive(Debug)]
pub(super) struct PartitionGauges {
    labels: SeriesLabels,
    series: Arc<GaugeSeries>,
    user: u64,
    part: Mutex<[i64; INTEGER_GAUGES]>,
    vecs: Arc<PartitionVecs>,
}

impl PartitionGauges {
    /// Creates the gauges of a partition, by the label values of its group and topic; the latter
    /// may be [`OTHER_LABEL`].
    pub(super) fn new(vecs: &Arc<PartitionVecs>, [group, topic]: [&str; 2], partition: i32) -> Self {
        let (labels, series, user) = vecs.acquire(group, topic, partition);
        Self {
            labels,
            series,
            user,
            part: Mutex::default(),
            vecs: vecs.clone(),
        }
    }

    pub(super) fn set_position(&self, offset: i64) {
        self.set_gauge(CURRENT, offset);
    }

    pub(super) fn set_committed(&self, offset: i64) {
        self.set_gauge(COMMITTED, offset);
    }

    pub(super) fn set_lag(&self, records: i64, seconds: f64) {
        self.set_gauge(LAG, records);
        self.series.set_age(self.user, Some(seconds));
    }

    fn set_gauge(&self, which: usize, value: i64) {
        let mut part = self.part.lock();
        self.series.numbers[which].add(value - part[which]);
        part[which] = value;
    }
}

impl Drop for PartitionGauges {
    fn drop(&mut self) {
        // Another member reads the partition now: a gauge that no longer changes would look like a
        // growing backlog.
        for which in [LAG, COMMITTED, CURRENT] {
            self.set_gauge(which, 0);
        }
        self.vecs.release(&self.labels, self.user);
    }
}
