//! Tests of whole batches: round trips, rejected headers, and damaged bytes.

mod bombs;
mod chunks;
mod damage;
mod structure;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

/// A record that a test writes and expects to read back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TestRecord {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

const MAX_DECOMPRESSED: usize = 64 << 20;
const LIMITS: BatchLimits = BatchLimits {
    max_batch_bytes: 16 << 20,
};

fn any_record() -> impl Strategy<Value = TestRecord> {
    let some_bytes = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (any::<u8>(), 0_usize..5000).prop_map(|(byte, count)| vec![byte; count]),
    ];
    let field = prop::option::of(some_bytes);
    let headers = prop::collection::vec((".{0,9}", field.clone()), 0..4);
    (any::<i64>(), field.clone(), field, headers).prop_map(|(timestamp, key, value, headers)| TestRecord {
        timestamp,
        key,
        value,
        headers,
    })
}

fn any_records() -> impl Strategy<Value = Vec<TestRecord>> {
    prop::collection::vec(any_record(), 1..30)
}

fn any_codec() -> impl Strategy<Value = Compression> {
    prop::sample::select(Compression::ALL.to_vec())
}

/// Generates a codec that can also be written.
fn any_writable_codec() -> impl Strategy<Value = Compression> {
    prop::sample::select(Compression::ALL[..4].to_vec())
}

fn append_all(builder: &mut BatchBuilder, records: &[TestRecord]) {
    for (delta, record) in (0..).zip(records) {
        let TestRecord {
            timestamp,
            key,
            value,
            headers,
        } = record;
        assert_eq!(
            builder.append(*timestamp, key.as_deref(), value.as_deref(), headers),
            Ok(delta)
        );
    }
}

fn encode(codec: Compression, records: &[TestRecord]) -> Bytes {
    let written = if codec == Compression::Zstd {
        Compression::None
    } else {
        codec
    };
    let mut builder = BatchBuilder::new(written);
    append_all(&mut builder, records);
    let batch = builder.finish().unwrap();
    if codec == written {
        return batch;
    }
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    with_records(
        codec,
        &batch[..HEADER_LEN],
        &ruzstd::encoding::compress_to_vec(&batch[HEADER_LEN..], level),
    )
}

/// Builds the batch with this header and other records.
fn with_records(codec: Compression, head: &[u8], records: &[u8]) -> Bytes {
    let mut batch = [head, records].concat();
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[21..23].copy_from_slice(&codec.id().to_be_bytes());
    with_correct_crc(batch).into()
}

fn read_records(batch: &Bytes) -> Result<Vec<TestRecord>, BatchError> {
    DecodedRecords::decode(batch.clone(), MAX_DECOMPRESSED)?
        .map(|record| record.map(to_test_record))
        .collect()
}

fn to_test_record(record: Record) -> TestRecord {
    let vec = |bytes: Bytes| bytes.to_vec();
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap_or_default();
    let headers = record
        .headers
        .iter()
        .map(|(key, value)| (text(key), value.map(vec)))
        .collect();
    TestRecord {
        timestamp: record.timestamp,
        key: record.key.map(vec),
        value: record.value.map(vec),
        headers,
    }
}

/// Builds a batch of one small record.
fn small_batch() -> Vec<u8> {
    let record = TestRecord {
        timestamp: 5,
        key: None,
        value: Some(b"v".to_vec()),
        headers: Vec::new(),
    };
    encode(Compression::None, &[record]).to_vec()
}

/// Recomputes the CRC.
fn with_correct_crc(mut batch: Vec<u8>) -> Vec<u8> {
    let crc = header::compute_crc(&batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

proptest! {
    #[test]
    fn records_read_back(codec in any_codec(), records in any_records()) {
        let batch = encode(codec, &records);
        let header = validate(&batch, &LIMITS).unwrap();
        prop_assert_eq!(header.record_count as usize, records.len());
        prop_assert_eq!(header.compression(), Ok(codec));
        prop_assert_eq!(header.base_timestamp, records[0].timestamp);
        prop_assert_eq!(Some(header.max_timestamp), records.iter().map(|record| record.timestamp).max());
        prop_assert_eq!(&read_records(&batch).unwrap(), &records);
        prop_assert_eq!(DecodedRecords::decode(batch, MAX_DECOMPRESSED).unwrap().check(), Ok(()));
    }

    #[test]
    fn a_builder_used_again_makes_the_same_batch(codec in any_writable_codec(), first in any_records(), second in any_records()) {
        let mut builder = BatchBuilder::new(codec);
        append_all(&mut builder, &first);
        builder.set_producer(1, 2, 3);
        builder.finish().unwrap();
        prop_assert!(builder.is_empty());
        prop_assert_eq!(builder.size_bytes(), HEADER_LEN);
        append_all(&mut builder, &second);
        prop_assert_eq!(builder.finish().unwrap(), encode(codec, &second));
    }

    #[test]
    fn no_codec_makes_the_smallest_batch_larger_than_its_records(codec in any_writable_codec(), records in any_records()) {
        let mut builder = BatchBuilder::new(codec);
        append_all(&mut builder, &records);
        let size = builder.size_bytes();
        let batch = builder.finish_smallest().unwrap();
        prop_assert!(batch.len() <= size);
        let header = validate(&batch, &LIMITS).unwrap();
        let used = header.compression().unwrap();
        prop_assert!(used == codec || (used == Compression::None && batch.len() == size));
        prop_assert_eq!(&read_records(&batch).unwrap(), &records);
    }

    #[test]
    fn the_size_so_far_is_that_of_the_batch(records in any_records()) {
        let mut builder = BatchBuilder::new(Compression::None);
        append_all(&mut builder, &records);
        let size = builder.size_bytes();
        prop_assert_eq!(builder.finish().unwrap().len(), size);
    }

    #[test]
    fn stamped_batches_stay_whole_and_count_on(counts in prop::collection::vec(1_usize..5, 1..6), base in 0_i64..1 << 60) {
        let record = TestRecord { timestamp: 1, key: None, value: None, headers: Vec::new() };
        let mut bytes = BytesMut::new();
        for &count in &counts {
            bytes.extend_from_slice(&encode(Compression::Lz4, &vec![record.clone(); count]));
        }
        let total: usize = counts.iter().sum();
        prop_assert_eq!(stamp_all(&mut bytes, base, 9), Ok(base + total as i64));
        let bytes = bytes.freeze();
        let mut offsets = Vec::new();
        for batch in BatchIter::owned(&bytes) {
            let (header, batch) = batch.unwrap();
            prop_assert_eq!(header.leader_epoch, 9);
            prop_assert_eq!(validate(&batch, &LIMITS), Ok(header));
            offsets.extend(DecodedRecords::decode(batch, MAX_DECOMPRESSED).unwrap().map(|record| record.unwrap().offset));
            prop_assert_eq!(header.next_offset(), offsets.last().unwrap() + 1);
        }
        prop_assert_eq!(offsets, (base..base + total as i64).collect::<Vec<_>>());
        prop_assert_eq!(BatchIter::new(&bytes).count(), counts.len());
    }
}

#[test]
fn null_and_empty_are_told_apart() {
    let records: Vec<TestRecord> = [
        (None, None),
        (Some(vec![]), None),
        (None, Some(vec![])),
        (Some(vec![]), Some(vec![])),
    ]
    .map(|(key, value): (Option<Vec<u8>>, _)| {
        let headers = vec![("null".to_owned(), None), (String::new(), Some(Vec::new()))];
        TestRecord {
            timestamp: 0,
            key,
            value,
            headers,
        }
    })
    .into();
    for codec in [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
    ] {
        assert_eq!(read_records(&encode(codec, &records)).unwrap(), records);
    }
}

#[test]
fn fields_are_slices_of_the_batch() {
    let batch = Bytes::from(small_batch());
    let record = DecodedRecords::decode(batch.clone(), MAX_DECOMPRESSED)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert!(
        batch.as_ptr_range().contains(&record.value.unwrap().as_ptr()),
        "the value was copied"
    );
}

#[test]
fn an_empty_batch_is_not_built() {
    assert!(matches!(
        BatchBuilder::new(Compression::None).finish(),
        Err(BatchError::Invalid(_))
    ));
}

#[test]
fn zstd_is_not_written() {
    let mut builder = BatchBuilder::new(Compression::Zstd);
    append_all(
        &mut builder,
        &[TestRecord {
            timestamp: 0,
            key: None,
            value: None,
            headers: Vec::new(),
        }],
    );
    assert_eq!(
        builder.finish().unwrap_err().code(),
        ErrorCode::UnsupportedCompressionType
    );
}

#[test]
fn producer_fields_are_in_the_head() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.set_producer(7, 8, 9);
    append_all(
        &mut builder,
        &[TestRecord {
            timestamp: 0,
            key: None,
            value: None,
            headers: Vec::new(),
        }],
    );
    let header = validate(&builder.finish().unwrap(), &LIMITS).unwrap();
    assert_eq!(
        (header.producer_id, header.producer_epoch, header.base_sequence),
        (7, 8, 9)
    );
}

#[test]
fn without_a_producer_the_epoch_and_the_sequence_mean_nothing() {
    // aiokafka sends the sequence 0.
    for (at, bytes) in [(53, &[0_u8; 4][..]), (51, &[0, 1])] {
        let mut batch = small_batch();
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        validate(&with_correct_crc(batch), &LIMITS).unwrap();
    }
}

#[test]
fn what_is_wrong_with_a_head_has_its_code() {
    let cases: [(&str, usize, &[u8], ErrorCode); 13] = [
        ("magic 1", 16, &[1], ErrorCode::UnsupportedForMessageFormat),
        ("a negative length", 8, &[0xff; 4], ErrorCode::InvalidRecord),
        (
            "a short length",
            8,
            &48_i32.to_be_bytes(),
            ErrorCode::InvalidRecord,
        ),
        (
            "a long length",
            8,
            &i32::MAX.to_be_bytes(),
            ErrorCode::CorruptMessage,
        ),
        ("codec 5", 22, &[5], ErrorCode::UnsupportedCompressionType),
        ("a negative delta", 23, &[0xff; 4], ErrorCode::InvalidRecord),
        ("a larger delta", 26, &[9], ErrorCode::InvalidRecord),
        ("no records", 57, &[0; 4], ErrorCode::InvalidRecord),
        ("a negative count", 57, &[0xff; 4], ErrorCode::InvalidRecord),
        (
            "a producer without epoch",
            43,
            &7_i64.to_be_bytes(),
            ErrorCode::InvalidRecord,
        ),
        (
            "a producer id below none",
            43,
            &(-2_i64).to_be_bytes(),
            ErrorCode::InvalidRecord,
        ),
        ("an unknown attribute bit", 21, &[0x40], ErrorCode::InvalidRecord),
        (
            "a greatest timestamp before the first",
            35,
            &[0; 8],
            ErrorCode::InvalidRecord,
        ),
    ];
    for (what, at, bytes, code) in cases {
        let mut batch = small_batch();
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        let error = validate(&with_correct_crc(batch), &LIMITS).unwrap_err();
        assert_eq!(error.code(), code, "{what}: {error}");
    }
}

#[test]
fn size_and_crc_are_checked() {
    let batch = small_batch();
    let limits = |max_batch_bytes| BatchLimits { max_batch_bytes };
    assert!(validate(&batch, &limits(batch.len())).is_ok());
    let error = validate(&batch, &limits(batch.len() - 1)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::MessageTooLarge);
    let mut longer = batch.clone();
    longer.push(0);
    assert_eq!(
        validate(&longer, &LIMITS).unwrap_err().code(),
        ErrorCode::InvalidRecord
    );
    let mut flipped = batch;
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(
        validate(&flipped, &LIMITS),
        Err(BatchError::WrongCrc { .. })
    ));
    assert!(matches!(verify_crc(&flipped), Err(BatchError::WrongCrc { .. })));
}

#[test]
fn control_batches_and_timestamp_types_are_recognised() {
    let mut batch = small_batch();
    batch[22] |= 32 | 16 | 8;
    batch[35..43].copy_from_slice(&77_i64.to_be_bytes());
    let batch = Bytes::from(with_correct_crc(batch));
    verify_crc(&batch).unwrap();
    let mut records = DecodedRecords::decode(batch, MAX_DECOMPRESSED).unwrap();
    assert!(records.header().is_control() && records.header().is_transactional());
    assert_eq!(records.header().timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(records.next().unwrap().unwrap().timestamp, 77);
    let header = BatchHeader::parse(&small_batch()).unwrap();
    assert!(!header.is_control() && !header.is_transactional());
}

#[test]
fn codecs_have_kafkas_names() {
    for codec in Compression::ALL {
        assert_eq!(codec.to_string().parse(), Ok(codec));
        assert_eq!(Compression::from_id(codec.id()), Ok(codec));
    }
    assert!("LZ4".parse::<Compression>().unwrap_err().contains("lz4"));
}
