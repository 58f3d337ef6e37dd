//! Limits of what one connection and one request may take.

use streamhouse_core::kafka::{ApiKey, MessageReader};
use tokio::time::Duration;

/// Maximum number of requests of one connection that wait for their answer.
pub(super) const MAX_IN_FLIGHT_REQUESTS: usize = 64;
/// How long a connection may be silent; Kafka's `connections.max.idle.ms`.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a frame that has begun may take to arrive; larger ones get more time.
pub(super) const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may leave an answer unread; larger ones get more time.
pub(super) const ANSWER_SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// How long requests may take that are being served when the listener stops.
pub(super) const STOP_GRACE: Duration = Duration::from_millis(750);
/// How long a connection may take until its client has authenticated.
pub(super) const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client whose authentication has failed waits for its answer: Kafka's
/// `connection.failed.authentication.delay.ms`. Some clients try again at once.
pub(super) const FAILED_AUTHENTICATION_DELAY: Duration = Duration::from_millis(100);
/// How soon a connection may authenticate again, as in Kafka.
pub(super) const MIN_REAUTHENTICATION_INTERVAL: Duration = Duration::from_secs(1);
/// Size of a request of a client that has not authenticated, in bytes.
pub(super) const MAX_UNAUTHENTICATED_FRAME: usize = 64 << 10;
/// Bytes of a request beside its records.
pub(super) const REQUEST_OVERHEAD: usize = 64 << 10;
/// Answers of this size or less take no memory of the budget: a connection has one of them.
pub(super) const SMALL_ANSWER_BYTES: usize = 8 << 10;

/// Bytes that the partitions of a Produce request may take when they are decoded, beside the
/// records: more than 10,000 partitions.
const MAX_DECODED_PRODUCE: usize = 1 << 20;
/// Bytes that the lists and texts of any other request may take when they are decoded.
const MAX_DECODED: usize = 8 << 20;
/// Bytes that a small Produce request may take when it is decoded.
const MIN_DECODED_PRODUCE: usize = 4096;

/// Returns the memory that the lists and texts of a request may take when they are decoded, in
/// bytes. A batch has 61 bytes at least, which is more than its partition takes in memory.
pub(super) fn decoded_bytes(api_key: i16, length: usize) -> usize {
    if api_key == ApiKey::Produce.number() {
        return length
            .saturating_add(MIN_DECODED_PRODUCE)
            .min(MAX_DECODED_PRODUCE);
    }
    MessageReader::memory_limit(length).min(MAX_DECODED)
}

#[cfg(test)]
mod tests {
    use streamhouse_core::kafka::{PartitionProduceData, TopicProduceData};

    use super::*;

    #[test]
    fn a_produce_request_may_have_many_partitions_of_one_small_batch_each() {
        // Header and one record of a batch, the partition's number and the lengths.
        const BATCH: usize = 61 + 7 + 4 + 4;
        let produce = ApiKey::Produce.number();
        for partitions in [1, 100, 10_000] {
            let taken = size_of::<TopicProduceData>() + partitions * size_of::<PartitionProduceData>();
            assert!(taken <= decoded_bytes(produce, partitions * BATCH));
        }
    }

    #[test]
    fn a_request_of_any_size_leaves_memory_to_others() {
        for key in ApiKey::ALL {
            assert!(decoded_bytes(key.number(), 64 << 20) <= MAX_DECODED);
        }
    }
}
