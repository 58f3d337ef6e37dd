//! Limits on the number of series of a registry, available with and without the feature `metrics`.

/// How many topics, groups and partitions have their own series in one registry. All others share a
/// series with the label value `_other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeriesLimits {
    /// Topics. Default 200.
    pub topics: usize,
    /// Consumer groups. Default 200.
    pub groups: usize,
    /// Partitions, with four gauges each per consumer. Default 10,000. 0 disables series of single
    /// partitions: a group then has one series per topic, with the sum of the lags and the maximum
    /// age.
    pub partitions: usize,
}

impl Default for SeriesLimits {
    fn default() -> Self {
        Self {
            topics: 200,
            groups: 200,
            partitions: 10_000,
        }
    }
}

impl SeriesLimits {
    /// Sets the number of topics.
    #[must_use]
    pub fn with_topics(mut self, topics: usize) -> Self {
        self.topics = topics;
        self
    }

    /// Sets the number of consumer groups.
    #[must_use]
    pub fn with_groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// Sets the number of partitions.
    #[must_use]
    pub fn with_partitions(mut self, partitions: usize) -> Self {
        self.partitions = partitions;
        self
    }
}
