//! Verifies batches against kafka-python in both directions, with every codec, nulls, headers,
//! timestamps and producer fields.

#![allow(clippy::expect_used, clippy::panic)] // this file holds only tests

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use streamhouse_core::batch::{
    BatchBuilder, BatchHeader, BatchIter, BatchLimits, Compression, DecodedRecords, Record, stamp_all,
    validate,
};
use streamhouse_testkit::kafka_python;

/// A record as both sides print it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PrintedRecord {
    offset: i64,
    timestamp: i64,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, Option<String>)>,
}

/// A batch that kafka-python encoded.
#[derive(Debug, Deserialize)]
struct KafkaPythonEncodedBatch {
    name: String,
    codec: String,
    producer: (i64, i16, i32),
    transactional: bool,
    bytes: String,
    records: Vec<PrintedRecord>,
}

/// A batch as kafka-python decoded it.
#[derive(Debug, Deserialize)]
struct KafkaPythonDecodedBatch {
    head: DecodedHeader,
    records: Vec<PrintedRecord>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct DecodedHeader {
    crc_is_right: bool,
    base_offset: i64,
    leader_epoch: i32,
    magic: i8,
    attributes: i16,
    last_offset_delta: i32,
    max_timestamp: i64,
    producer: (i64, i16, i32),
}

fn run_script(command: &str, input: &str) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka_python.py");
    let python = kafka_python().expect("hack/test.sh installs kafka-python");
    let mut child = Command::new(&python)
        .arg(script)
        .arg(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "cannot run {}: {error}; run hack/test.sh, which installs it",
                python.display()
            )
        });
    child
        .stdin
        .take()
        .expect("stdin is piped")
        .write_all(input.as_bytes())
        .expect("the script reads its input");
    let output = child.wait_with_output().expect("the script ends");
    assert!(
        output.status.success(),
        "the script failed: {}; run hack/test.sh, which installs what it needs",
        output.status
    );
    String::from_utf8(output.stdout)
        .expect("the script prints text")
        .lines()
        .map(str::to_owned)
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn to_printed(record: Record) -> PrintedRecord {
    let text = |bytes: Option<Bytes>| bytes.map(|bytes| hex(&bytes));
    let key = |bytes: Bytes| String::from_utf8(bytes.to_vec()).expect("header keys are text");
    PrintedRecord {
        offset: record.offset,
        timestamp: record.timestamp,
        headers: record
            .headers
            .iter()
            .map(|(name, value)| (key(name), text(value)))
            .collect(),
        key: text(record.key),
        value: text(record.value),
    }
}

fn read_batch(batch: Bytes) -> Vec<PrintedRecord> {
    let records = DecodedRecords::decode(batch, 64 << 20).expect("the batch is whole");
    records
        .map(|record| to_printed(record.expect("the record is whole")))
        .collect()
}

/// Encodes the same records with [`BatchBuilder`].
fn build_batch(codec: Compression, producer: (i64, i16, i32), records: &[PrintedRecord]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for record in records {
        let bytes = |text: &Option<String>| text.as_deref().map(unhex);
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|(name, value)| (name, bytes(value)))
            .collect();
        let (key, value) = (bytes(&record.key), bytes(&record.value));
        builder
            .append(record.timestamp, key.as_deref(), value.as_deref(), &headers)
            .expect("the record fits");
    }
    builder.set_producer(producer.0, producer.1, producer.2);
    builder.finish().expect("the batch is not empty")
}

fn encode_with_kafka_python() -> Vec<KafkaPythonEncodedBatch> {
    run_script("encode", "")
        .iter()
        .map(|line| serde_json::from_str(line).expect("the script prints batches"))
        .collect()
}

#[test]
fn what_kafka_python_writes_is_read() {
    let batches = encode_with_kafka_python();
    assert_eq!(batches.len(), 13, "every codec twice, and three special ones");
    for theirs in batches {
        let batch = Bytes::from(unhex(&theirs.bytes));
        let header = validate(
            &batch,
            &BatchLimits {
                max_batch_bytes: 16 << 20,
            },
        )
        .expect(&theirs.name);
        let codec = header.compression().expect(&theirs.name);
        assert_eq!(codec.name(), theirs.codec, "{}", theirs.name);
        assert_eq!(
            (header.producer_id, header.producer_epoch, header.base_sequence),
            theirs.producer
        );
        assert_eq!(header.is_transactional(), theirs.transactional, "{}", theirs.name);
        let latest = theirs.records.iter().map(|record| record.timestamp).max();
        assert_eq!(Some(header.max_timestamp), latest, "{}", theirs.name);
        let records = read_batch(batch.clone());
        assert!(records == theirs.records, "{}: the records differ", theirs.name);
        if codec == Compression::None && !theirs.transactional {
            let same = build_batch(codec, theirs.producer, &records);
            // Base offset and leader epoch come first and are written by the broker.
            assert!(same[16..] == batch[16..], "{}: the bytes differ", theirs.name);
        }
    }
}

#[test]
fn what_is_written_here_kafka_python_reads() {
    let records = encode_with_kafka_python().remove(0).records;
    let codecs = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
    ];
    let producers = [(-1, -1, -1), (1 << 40, 32_000, i32::MAX)];
    let cases: Vec<_> = codecs
        .into_iter()
        .flat_map(|codec| producers.map(|producer| (codec, producer)))
        .collect();
    let (base_offset, leader_epoch) = (1 << 41, 77);
    let runs: Vec<Bytes> = cases
        .iter()
        .map(|&(codec, producer)| two_batches(codec, producer, &records))
        .collect();
    let input: String = runs.iter().map(|run| format!("\"{}\"\n", hex(run))).collect();
    let answers = run_script("decode", &input);
    assert_eq!(answers.len(), cases.len());
    for ((answer, run), (codec, producer)) in answers.iter().zip(&runs).zip(cases) {
        let found: Vec<KafkaPythonDecodedBatch> =
            serde_json::from_str(answer).expect("the script prints what it read");
        assert_eq!(found.len(), 2, "{codec}");
        let mut next_offset = base_offset;
        for (read, ours) in found.iter().zip(BatchIter::new(run)) {
            let (ours, _): (BatchHeader, _) = ours.expect("the batch is whole");
            let expected = DecodedHeader {
                crc_is_right: true,
                base_offset: next_offset,
                leader_epoch,
                magic: 2,
                attributes: codec.id(),
                last_offset_delta: records.len() as i32 - 1,
                max_timestamp: ours.max_timestamp,
                producer,
            };
            assert_eq!(read.head, expected, "{codec}");
            let shifted = |record: &PrintedRecord| PrintedRecord {
                offset: record.offset + next_offset,
                ..record.clone()
            };
            let expected: Vec<PrintedRecord> = records.iter().map(shifted).collect();
            assert!(read.records == expected, "{codec}: the records differ");
            next_offset = ours.next_offset();
        }
    }

    /// Builds a run of two batches, stamped as the agent does.
    fn two_batches(codec: Compression, producer: (i64, i16, i32), records: &[PrintedRecord]) -> Bytes {
        let mut run = BytesMut::new();
        for _ in 0..2 {
            run.extend_from_slice(&build_batch(codec, producer, records));
        }
        stamp_all(&mut run, 1 << 41, 77).expect("the batches are whole");
        run.freeze()
    }
}
