//! Metrics of the groups that this agent coordinates: lag, members and state. Reported even after
//! all members of a group are gone, which consumers themselves could not do. The number of series
//! is bounded: groups beyond [`MAX_GROUPS`], and pairs of group and topic beyond
//! [`MAX_GROUP_TOPICS`], share one series. The coordinator replaces all values every few seconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use parking_lot::Mutex;
use prometheus::{IntGaugeVec, Opts, Result};

use super::{OTHER_LABEL_VALUE, register::MetricRegistrar};

/// Maximum number of groups with series of their own, per agent.
pub(super) const MAX_GROUPS: usize = 200;
/// Maximum number of pairs of group and topic with series of their own, per agent.
pub(super) const MAX_GROUP_TOPICS: usize = 1_000;

/// The state of a group, as its coordinator has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupStatus {
    /// Kafka's state name: Empty, PreparingRebalance, CompletingRebalance, Stable, Dead; or Empty,
    /// Assigning, Reconciling, Stable for the consumer protocol.
    pub state: &'static str,
    /// Number of members.
    pub members: usize,
}

/// The progress of a group in a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupProgress {
    /// Sum of the committed offsets of its partitions.
    pub committed: i64,
    /// Records between the committed offsets and the high watermarks.
    pub lag: i64,
}

/// The metrics of all groups that an agent coordinates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupsReport {
    /// By group.
    pub conditions: BTreeMap<String, GroupStatus>,
    /// By group and topic.
    pub progress: BTreeMap<(String, String), GroupProgress>,
}

/// The gauges, and the series that they currently have.
pub(super) struct GroupMetrics {
    lag: IntGaugeVec,
    committed: IntGaugeVec,
    members: IntGaugeVec,
    state: IntGaugeVec,
    /// The current series.
    shown: Mutex<ShownSeries>,
}

#[derive(Default)]
struct ShownSeries {
    pairs: BTreeSet<(String, String)>,
    groups: BTreeMap<String, Option<&'static str>>,
}

impl fmt::Debug for GroupMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Groups({})", self.shown.lock().groups.len())
    }
}

impl GroupMetrics {
    pub(super) fn new(register: &MetricRegistrar) -> Result<Self> {
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let opts = Opts::new(format!("streamhouse_group_{name}"), help);
            register.register(IntGaugeVec::new(opts, labels)?)
        };
        Ok(Self {
            lag: gauges(
                "lag_records",
                "Records between what a group has committed and the end, with or without members; from its coordinator.",
                &["group", "topic"],
            )?,
            committed: gauges(
                "committed_offset",
                "The offsets that a group has committed, over all partitions of the topic; from its coordinator.",
                &["group", "topic"],
            )?,
            members: gauges("members", "Members of a group; from its coordinator.", &["group"])?,
            state: gauges(
                "state",
                "Always 1; the label is the state of the group, as its coordinator has it.",
                &["group", "state"],
            )?,
            shown: Mutex::default(),
        })
    }

    /// Replaces all series by those of this report.
    pub(super) fn set(&self, report: &GroupsReport) {
        let mut shown = self.shown.lock();
        let named = self::select_named_groups(report, &shown);
        let mut pairs: BTreeMap<(String, String), GroupProgress> = BTreeMap::new();
        for ((group, topic), progress) in &report.progress {
            let mut pair = (OTHER_LABEL_VALUE.to_owned(), OTHER_LABEL_VALUE.to_owned());
            if named.contains(group.as_str()) {
                let own = (group.clone(), topic.clone());
                if pairs.len() < MAX_GROUP_TOPICS || pairs.contains_key(&own) {
                    pair = own;
                }
            }
            let sum = pairs.entry(pair).or_default();
            sum.committed = sum.committed.saturating_add(progress.committed);
            sum.lag = sum.lag.saturating_add(progress.lag);
        }
        for ((group, topic), progress) in &pairs {
            self.lag.with_label_values(&[group, topic]).set(progress.lag);
            self.committed
                .with_label_values(&[group, topic])
                .set(progress.committed);
        }
        let mut groups: BTreeMap<String, (Option<&'static str>, usize)> = BTreeMap::new();
        for (group, condition) in &report.conditions {
            if named.contains(group.as_str()) {
                groups.insert(group.clone(), (Some(condition.state), condition.members));
            } else {
                groups.entry(OTHER_LABEL_VALUE.to_owned()).or_default().1 += condition.members;
            }
        }
        for (group, (state, members)) in &groups {
            let members = i64::try_from(*members).unwrap_or(i64::MAX);
            self.members.with_label_values(&[group]).set(members);
            if let Some(state) = state {
                self.state.with_label_values(&[group.as_str(), state]).set(1);
            }
        }
        // Adds new series before removing old ones, so that a scrape in between misses none.
        for (group, topic) in shown.pairs.iter().filter(|pair| !pairs.contains_key(pair)) {
            let _ = self.lag.remove_label_values(&[group, topic]);
            let _ = self.committed.remove_label_values(&[group, topic]);
        }
        for (group, state) in &shown.groups {
            let now = groups.get(group);
            if now.is_none() {
                let _ = self.members.remove_label_values(&[group]);
            }
            if let Some(state) = state
                && now.is_none_or(|(now, _)| now != &Some(*state))
            {
                let _ = self.state.remove_label_values(&[group.as_str(), state]);
            }
        }
        *shown = ShownSeries {
            pairs: pairs.into_keys().collect(),
            groups: groups
                .into_iter()
                .map(|(group, (state, _))| (group, state))
                .collect(),
        };
    }
}

/// Selects the groups with series of their own: those that have them already, then those with the
/// largest lag.
fn select_named_groups<'a>(report: &'a GroupsReport, shown: &ShownSeries) -> BTreeSet<&'a str> {
    let mut lags: BTreeMap<&str, i64> = report
        .conditions
        .keys()
        .map(|group| (group.as_str(), 0))
        .collect();
    for ((group, _), progress) in &report.progress {
        let lag = lags.entry(group).or_default();
        *lag = lag.saturating_add(progress.lag);
    }
    let mut groups: Vec<(&str, i64)> = lags.into_iter().collect();
    groups.sort_by_key(|(group, lag)| (!shown.groups.contains_key(*group), std::cmp::Reverse(*lag)));
    groups
        .into_iter()
        .take(MAX_GROUPS)
        .map(|(group, _)| group)
        .collect()
}
