//! [`DeadLetters`]: a topic for records that an application cannot process, so that it can continue
//! without losing them.

use std::fmt;

use crate::{
    consumer::{ConsumerRecord, OwnedRecord},
    error::Result,
    producer::{Producer, Record, RecordHeader, RecordMetadata},
};

/// Header of a dead letter: the topic the record was read from.
pub const TOPIC_HEADER: &str = "dead-letter.topic";
/// Header of a dead letter: the partition the record was read from, in decimal digits.
pub const PARTITION_HEADER: &str = "dead-letter.partition";
/// Header of a dead letter: the record's offset, in decimal digits.
pub const OFFSET_HEADER: &str = "dead-letter.offset";
/// Header of a dead letter: the record's timestamp in milliseconds since the Unix epoch, in decimal
/// digits.
pub const TIMESTAMP_HEADER: &str = "dead-letter.timestamp";
/// Header of a dead letter: the error of the processing, at most 4096 bytes.
pub const ERROR_HEADER: &str = "dead-letter.error";

/// Longest error message in [`ERROR_HEADER`], in bytes.
const MAX_ERROR_BYTES: usize = 4096;

/// Sends consumed records to a dead-letter topic, with headers that name the record's origin and
/// the error.
///
/// Key, value and headers are unchanged; the dead letter's own headers follow them. If a record
/// becomes a dead letter again, the last header of each name is the newest. The dead letter has its
/// own timestamp, because retention counts from it. Records with equal keys go to one partition, as
/// with any producer.
///
/// # Examples
///
/// ```no_run
/// # fn process(_: streamhouse_client::ConsumerRecord<'_>) -> Result<(), std::num::ParseIntError> { Ok(()) }
/// # async fn example(
/// #     mut consumer: streamhouse_client::Consumer, producer: streamhouse_client::Producer,
/// # ) -> streamhouse_client::Result<()> {
/// use std::time::Duration;
/// use streamhouse_client::DeadLetters;
///
/// let dead_letters = DeadLetters::new(producer, "orders.dead-letters");
/// let records = consumer.poll(Duration::from_secs(1)).await?;
/// for record in &records {
///     if let Err(error) = process(record) {
///         dead_letters.send(record, &error).await?;
///     }
/// }
/// consumer.commit().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DeadLetters {
    producer: Producer,
    topic: String,
}

impl DeadLetters {
    /// Creates a sender to this topic, which must exist, on top of this producer.
    pub fn new(producer: Producer, topic: impl Into<String>) -> Self {
        Self {
            producer,
            topic: topic.into(),
        }
    }

    /// Returns the name of the dead-letter topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Sends a record that could not be processed, and waits until it is stored. After that, the
    /// record's offset may be committed.
    ///
    /// # Errors
    /// Those of [`Producer::send`] and of its delivery. The dead letter is then not stored, so the
    /// record's offset must not be committed.
    pub async fn send(
        &self,
        record: ConsumerRecord<'_>,
        error: &impl fmt::Display,
    ) -> Result<RecordMetadata> {
        self.send_owned(record.to_owned(), error).await
    }

    /// Like [`DeadLetters::send`], for a record that owns its bytes.
    ///
    /// # Errors
    /// As [`DeadLetters::send`].
    pub async fn send_owned(&self, record: OwnedRecord, error: &impl fmt::Display) -> Result<RecordMetadata> {
        self.producer
            .send(build_dead_letter(&self.topic, record, &error.to_string()))
            .await?
            .await
    }
}

fn build_dead_letter(topic: &str, record: OwnedRecord, error: &str) -> Record {
    let mut headers: Vec<RecordHeader> = record
        .headers
        .into_iter()
        .map(|(key, value)| RecordHeader { key, value })
        .collect();
    let mut end = error.len().min(MAX_ERROR_BYTES);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    let own = [
        (TOPIC_HEADER, record.topic),
        (PARTITION_HEADER, record.partition.to_string()),
        (OFFSET_HEADER, record.offset.to_string()),
        (TIMESTAMP_HEADER, record.timestamp.to_string()),
        (ERROR_HEADER, error[..end].to_owned()),
    ];
    headers.extend(own.into_iter().map(|(key, value)| RecordHeader {
        key: key.to_owned(),
        value: Some(value.into()),
    }));
    Record {
        topic: topic.to_owned(),
        key: record.key,
        value: record.value,
        headers,
        ..Record::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_the_record_with_where_it_comes_from_and_why() {
        let record = OwnedRecord {
            topic: "orders".into(),
            partition: 3,
            offset: 41,
            timestamp: 1_700_000_000_000,
            key: Some("k".into()),
            value: None,
            headers: vec![("a".into(), None)],
        };
        let letter = build_dead_letter("orders.dead-letters", record, &"ä".repeat(3000));
        assert_eq!(
            (&*letter.topic, letter.partition, letter.timestamp),
            ("orders.dead-letters", None, None)
        );
        assert_eq!((letter.key.as_deref(), letter.value), (Some(&b"k"[..]), None));
        let headers: Vec<(&str, Option<&[u8]>)> = letter
            .headers
            .iter()
            .map(|header| (header.key.as_str(), header.value.as_deref()))
            .collect();
        assert_eq!(
            headers[..5],
            [
                ("a", None),
                (TOPIC_HEADER, Some(&b"orders"[..])),
                (PARTITION_HEADER, Some(b"3")),
                (OFFSET_HEADER, Some(b"41")),
                (TIMESTAMP_HEADER, Some(b"1700000000000")),
            ]
        );
        let error = std::str::from_utf8(headers[5].1.unwrap()).unwrap();
        assert_eq!((headers[5].0, error.len()), (ERROR_HEADER, MAX_ERROR_BYTES));
    }
}
