//! Records pass between gRPC and the Kafka protocol byte for byte: keys, values, headers, times.

use std::{fmt::Write as _, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use streamhouse_client::{AutoOffsetReset, Consumer, Producer, Record};
use streamhouse_core::time::system_clock;
use streamhouse_tests::TestCluster;
use tokio::runtime::Runtime;

use crate::{
    programs::{kcat, output_of, python},
    subject::TestSubjects,
};

const PARTITIONS: i32 = 3;
const RECORDS: usize = 600;
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn both_ways(subjects: &TestSubjects) -> anyhow::Result<()> {
    let runtime = Runtime::new().context("no runtime")?;
    let cluster = &subjects.cluster;
    for topic in ["by-grpc", "by-kafka"] {
        runtime.block_on(cluster.create_topic(topic, PARTITIONS))?;
    }
    runtime.block_on(write_by_grpc(cluster))?;
    let size = [PARTITIONS.to_string(), RECORDS.to_string()];
    let bootstrap = subjects.agents.bootstrap.as_str();
    let write = python("confluent_client.py", "write", bootstrap)?;
    output_of(write.arg("by-kafka").args(&size))?;
    for topic in ["by-grpc", "by-kafka"] {
        let grpc = runtime.block_on(dump_by_grpc(cluster, topic))?;
        anyhow::ensure!(grpc.lines().count() == RECORDS, "gRPC read {grpc}");
        for script in ["confluent_client.py", "kafka_python_client.py"] {
            let dump = python(script, "dump", bootstrap)?.arg(topic).args(&size);
            ensure_equal(&format!("{topic} by {script}"), &output_of(dump)?, &grpc)?;
        }
    }
    let format = [
        "-C",
        "-t",
        "by-grpc",
        "-o",
        "beginning",
        "-e",
        "-q",
        "-f",
        "%p %o %T\\n",
    ];
    let places = output_of(kcat(bootstrap, &format))?;
    anyhow::ensure!(places.lines().count() == RECORDS, "kcat read {places}");
    Ok(())
}

fn ensure_equal(what: &str, found: &str, wanted: &str) -> anyhow::Result<()> {
    let different = found
        .lines()
        .zip(wanted.lines())
        .find(|(found, wanted)| found != wanted);
    if let Some((found, wanted)) = different {
        anyhow::bail!("{what}: {found}\nby gRPC: {wanted}");
    }
    anyhow::ensure!(found.lines().count() == wanted.lines().count(), "{what}: {found}");
    Ok(())
}

async fn write_by_grpc(cluster: &TestCluster) -> anyhow::Result<()> {
    let producer = Producer::builder().bootstrap(cluster.bootstrap()).build().await?;
    // An hour ago, so that no record is old enough to be deleted.
    let first = system_clock().now_ms() - 3_600_000;
    for number in 0..RECORDS {
        let mut record = Record::new("by-grpc", format!("value-{number}"));
        record.partition = Some(i32::try_from(number)? % PARTITIONS);
        record.timestamp = Some(first + i64::try_from(number)?);
        record.key = match number % 3 {
            0 => None,
            1 => Some(Bytes::new()),
            _ => Some(format!("key-{number}").into()),
        };
        match number % 4 {
            0 => record.value = None,
            1 => record.value = Some(Bytes::new()),
            2 => record.value = Some((0..=u8::MAX).collect::<Vec<u8>>().into()),
            _ => {}
        }
        if number % 2 == 0 {
            record = record
                .with_header("name", number.to_string())
                .with_header("name", "again");
        }
        drop(producer.send(record).await?);
    }
    producer.close(LIMIT).await?;
    Ok(())
}

/// Returns all records in the form in which the scripts print them.
async fn dump_by_grpc(cluster: &TestCluster, topic: &str) -> anyhow::Result<String> {
    let mut consumer = Consumer::builder()
        .bootstrap(cluster.bootstrap())
        .group(format!("dump-{topic}"))
        .topics([topic])
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .build()
        .await?;
    let mut lines = Vec::new();
    let reading = async {
        while lines.len() < RECORDS {
            for record in consumer.poll(Duration::from_millis(500)).await?.iter() {
                let headers = record
                    .headers()
                    .map(|(name, value)| format!("{name}={}", as_hex(value)));
                let headers = headers.collect::<Vec<_>>().join(",");
                let (key, value) = (as_hex(record.key), as_hex(record.value));
                let place = format!("{} {} {}", record.partition, record.offset, record.timestamp);
                let line = format!("{place} {key} {value} [{headers}]\n");
                lines.push((record.partition, record.offset, line));
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LIMIT, reading).await??;
    lines.sort();
    Ok(lines.into_iter().map(|(_, _, line)| line).collect())
}

fn as_hex(value: Option<&[u8]>) -> String {
    let Some(value) = value else {
        return "-".to_owned();
    };
    let mut text = "<".to_owned();
    for byte in value {
        // A string can always be written to.
        let _ = write!(text, "{byte:02x}");
    }
    text + ">"
}
