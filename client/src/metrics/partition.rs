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

use super::registry::{OTHER, Register, Registry};

/// Number of integer gauges; the constants below are their indexes.
const NUMBERS: usize = 3;
const LAG: usize = 0;
const COMMITTED: usize = 1;
const CURRENT: usize = 2;

/// Labels of a series: group, topic and partition.
type Labels = [String; 3];

pub(super) struct PartitionVecs {
    numbers: [IntGaugeVec; NUMBERS],
    lag_seconds: GaugeVec,
    shown: Mutex<Shown>,
}

/// The exported series.
#[derive(Default)]
struct Shown {
    series: HashMap<Labels, Arc<Series>>,
    /// Number of series that belong to a single partition.
    own: usize,
    /// Number of the next user of a series.
    next: u64,
}

/// One series of every gauge, and its users.
#[derive(Debug)]
struct Series {
    numbers: [IntGauge; NUMBERS],
    lag_seconds: Gauge,
    ages: Mutex<BTreeMap<u64, f64>>,
}

impl Series {
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
    pub(super) fn new(r: &Register<'_>) -> Self {
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
            lag_seconds: r.real_gauge(
                "streamhouse_consumer_lag_seconds",
                "Age of the record read next.",
                partition,
            ),
            shown: Mutex::default(),
        }
    }

    /// Adds a user to a partition's series. Returns the series and the user's number.
    fn enter(&self, group: &str, topic: &str, partition: i32, limit: usize) -> (Labels, Arc<Series>, u64) {
        let mut shown = self.shown.lock();
        let mut labels = [group.to_owned(), topic.to_owned(), partition.to_string()];
        let own = topic != OTHER && (shown.own < limit || shown.series.contains_key(&labels));
        if !own {
            OTHER.clone_into(&mut labels[2]);
        }
        shown.next += 1;
        let user = shown.next;
        if !shown.series.contains_key(&labels) {
            let series = Series {
                numbers: array::from_fn(|n| self.numbers[n].with_label_values(&labels)),
                lag_seconds: self.lag_seconds.with_label_values(&labels),
                ages: Mutex::default(),
            };
            shown.series.insert(labels.clone(), Arc::new(series));
            shown.own += usize::from(own);
        }
        let series = shown.series[&labels].clone();
        series.set_age(user, Some(0.0));
        (labels, series, user)
    }

    /// Removes a user from a series, and the series with its last user.
    fn leave(&self, labels: &Labels, user: u64) {
        let mut shown = self.shown.lock();
        if shown
            .series
            .get(labels)
            .is_none_or(|series| series.set_age(user, None))
        {
            return;
        }
        shown.series.remove(labels);
        shown.own -= usize::from(labels[2] != OTHER);
        for gauge in &self.numbers {
            let _ = gauge.remove_label_values(labels);
        }
        let _ = self.lag_seconds.remove_label_values(labels);
    }
}

/// One partition's share of the gauges, removed on drop.
#[derive(Debug)]
pub(super) struct PartitionGauges {
    labels: Labels,
    series: Arc<Series>,
    user: u64,
    part: Mutex<[i64; NUMBERS]>,
    registry: Registry,
}

impl PartitionGauges {
    /// `topic` is the label value, which may be [`OTHER`].
    pub(super) fn new(registry: &Registry, group: &str, topic: &str, partition: i32) -> Self {
        let inner = &registry.inner;
        let (labels, series, user) = inner
            .partitions
            .enter(group, topic, partition, inner.limits.partitions);
        Self {
            labels,
            series,
            user,
            part: Mutex::default(),
            registry: registry.clone(),
        }
    }

    pub(super) fn position(&self, offset: i64) {
        self.show(CURRENT, offset);
    }

    pub(super) fn committed(&self, offset: i64) {
        self.show(COMMITTED, offset);
    }

    pub(super) fn lag(&self, records: i64, seconds: f64) {
        self.show(LAG, records);
        self.series.set_age(self.user, Some(seconds));
    }

    fn show(&self, which: usize, value: i64) {
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
            self.show(which, 0);
        }
        self.registry.inner.partitions.leave(&self.labels, self.user);
    }
}
