//! [`Partitioner`]: which partition a record goes to. The default is Kafka's: the murmur2 hash of
//! the key, so that a key goes to the same partition as with any Kafka client. Records without a
//! key stay with one partition until its batch closes, which makes batches full and few.

use std::fmt;

use streamhouse_core::murmur2::murmur2;

/// Chooses partitions by key. It is not asked about records with an explicit partition.
pub trait Partitioner: Send + Sync + fmt::Debug + 'static {
    /// Returns the partition, in `0..partitions`. `None` leaves the choice to the producer, which
    /// stays with one partition until its batch closes.
    fn partition(&self, topic: &str, key: Option<&[u8]>, partitions: i32) -> Option<i32>;
}

/// Kafka's default partitioner: murmur2 for records with a key, sticky for those without.
#[derive(Debug, Clone, Copy, Default)]
pub struct DefaultPartitioner;

impl Partitioner for DefaultPartitioner {
    fn partition(&self, _: &str, key: Option<&[u8]>, partitions: i32) -> Option<i32> {
        key.map(|key| key_partition(key, partitions))
    }
}

/// Sends records to all partitions in turn, whatever the key. The distribution is even, but batches
/// are smaller and records of a key have no order.
#[derive(Debug, Default)]
pub struct RoundRobinPartitioner {
    next: std::sync::atomic::AtomicU32,
}

impl Partitioner for RoundRobinPartitioner {
    fn partition(&self, _: &str, _: Option<&[u8]>, partitions: i32) -> Option<i32> {
        let next = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        i32::try_from(next % u32::try_from(partitions).ok()?.max(1)).ok()
    }
}

/// Returns the partition that Kafka's clients choose for a key.
pub fn key_partition(key: &[u8], partitions: i32) -> i32 {
    // Like Kafka's `toPositive`: clear the sign bit instead of negating.
    (murmur2(key) as i32 & i32::MAX) % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_land_where_kafkas_clients_put_them() {
        // Hashes from Kafka's own `UtilsTest`.
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ] {
            assert_eq!(key_partition(key.as_bytes(), 7), (hash & i32::MAX) % 7, "{key}");
        }
    }

    #[test]
    fn no_key_is_left_to_the_sticky_choice_but_an_empty_key_is_a_key() {
        assert_eq!(DefaultPartitioner.partition("t", None, 4), None);
        assert_eq!(
            DefaultPartitioner.partition("t", Some(b""), 4),
            Some(key_partition(b"", 4))
        );
    }

    #[test]
    fn round_robin_visits_all() {
        let partitioner = RoundRobinPartitioner::default();
        let visited: Vec<_> = (0..6)
            .filter_map(|_| partitioner.partition("t", Some(b"k"), 3))
            .collect();
        assert_eq!(visited, [0, 1, 2, 0, 1, 2]);
    }
}
