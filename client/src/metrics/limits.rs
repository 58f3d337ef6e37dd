//! How many series a registry may have. Whoever makes a registry says so; both builds, with and without metrics, know it.

/// What may have series of its own in one registry. What comes beyond shares one series with the label `_other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Topics: 200 unless said otherwise.
    pub topics: usize,
    /// Consumer groups: 200 unless said otherwise.
    pub groups: usize,
    /// Partitions, with four gauges each for a consumer: 10,000 unless said otherwise. 0 switches series of single partitions off:
    /// a group then has one for each topic, with the sum of the lags and the highest age.
    pub partitions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            topics: 200,
            groups: 200,
            partitions: 10_000,
        }
    }
}
