//! A record that cannot be processed is sent to the dead-letter topic, with its origin and the
//! error.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests fail as tests do

mod fake_agent;

use fake_agent::{
    FakeCluster,
    helpers::{builder, of, produce, read_records},
};
use streamhouse_client::{
    DeadLetters, OwnedRecord, Producer,
    dead_letters::{ERROR_HEADER, OFFSET_HEADER, PARTITION_HEADER, TOPIC_HEADER},
    metrics::MetricsRegistry,
};

fn header<'a>(record: &'a OwnedRecord, name: &str) -> Option<&'a str> {
    let (_, value) = record.headers.iter().rev().find(|(key, _)| key == name)?;
    std::str::from_utf8(value.as_deref()?).ok()
}

#[tokio::test]
async fn a_dead_letter_says_where_its_record_was_and_why_it_is_one() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("orders", 2);
    cluster.create("orders.dead-letters", 1);
    produce(&cluster, "orders", 2, 0..10).await;
    let mut consumer = builder(&cluster).assign([of("orders", 1)]).build().await.unwrap();
    let read = read_records(&mut consumer, 5).await;
    let producer = Producer::builder()
        .bootstrap(cluster.bootstrap())
        .metrics_registry(MetricsRegistry::new());
    let dead_letters = DeadLetters::new(producer.build().await.unwrap(), "orders.dead-letters");
    let stored = dead_letters
        .send_owned(read[3].clone(), &"no order")
        .await
        .unwrap();
    assert_eq!((&*stored.topic, stored.offset), ("orders.dead-letters", 0));
    // The dead letter becomes a dead letter again.
    let letters = builder(&cluster).assign([of("orders.dead-letters", 0)]);
    let mut letters = letters.build().await.unwrap();
    let letter = read_records(&mut letters, 1).await.remove(0);
    dead_letters
        .send_owned(letter, &"no letter either")
        .await
        .unwrap();
    let letters = {
        let first = builder(&cluster).assign([of("orders.dead-letters", 0)]);
        read_records(&mut first.build().await.unwrap(), 2).await
    };
    for (letter, topic, partition, offset, error) in [
        (&letters[0], "orders", "1", "3", "no order"),
        (&letters[1], "orders.dead-letters", "0", "0", "no letter either"),
    ] {
        assert_eq!((&letter.key, &letter.value), (&read[3].key, &read[3].value));
        assert_eq!(header(letter, "number"), header(&read[3], "number"));
        assert_eq!(header(letter, TOPIC_HEADER), Some(topic));
        assert_eq!(header(letter, PARTITION_HEADER), Some(partition));
        assert_eq!(header(letter, OFFSET_HEADER), Some(offset));
        assert_eq!(header(letter, ERROR_HEADER), Some(error));
    }
}
