//! Segments round-trip, find every offset and timestamp, and detect every damaged byte.

use std::sync::Arc;

use bytes::Bytes;
use prometheus::{IntCounter, IntGauge};
use proptest::prelude::*;
use streamhouse_core::{
    PartitionUid,
    batch::{BatchBuilder, BatchHeader, BatchIter, Compression, stamp},
    time::system_entropy,
};
use uuid::Uuid;

use super::{format::parse_header, index::SUFFIX_LEN, *};
use crate::store::{
    GetRange, ObjectStore, StoreErrorKind, StoreOperation,
    blocks::{BlockCache, BlockMetrics},
    fault::{FaultStore, Toxic, ToxicKind},
    local::LocalStore,
};

fn identity(base_offset: i64) -> SegmentIdentity {
    SegmentIdentity {
        cluster_id: "cluster-ä".to_owned(),
        topic_id: Uuid::from_u128(7),
        partition: 3,
        partition_uid: PartitionUid(42),
        epoch: 5,
        base_offset,
    }
}

/// Builds a stamped batch with one record per timestamp.
fn batch(base_offset: i64, timestamps: &[i64], value: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None);
    let value = vec![7; value];
    for &timestamp in timestamps {
        builder
            .append::<&[u8], &[u8]>(timestamp, None, Some(&value), &[])
            .unwrap();
    }
    let mut bytes = builder.finish().unwrap().to_vec();
    stamp(&mut bytes, base_offset, 5);
    bytes
}

/// The batches of a segment: record timestamps and the size of the values.
type SegmentShape = Vec<(Vec<i64>, usize)>;

fn build(base_offset: i64, shape: &SegmentShape) -> (Bytes, SegmentSummary, Vec<(BatchHeader, Vec<u8>)>) {
    let mut writer = SegmentWriter::new(&identity(base_offset));
    let mut batches = Vec::new();
    for (timestamps, value) in shape {
        let bytes = batch(writer.next_offset(), timestamps, *value);
        let header = BatchHeader::parse(&bytes).unwrap();
        writer.append(&header, &bytes).unwrap();
        batches.push((header, bytes));
    }
    let (bytes, summary) = writer.finish().unwrap();
    (bytes, summary, batches)
}

fn many_blocks() -> SegmentShape {
    (0..300)
        .map(|n| {
            (
                vec![1000 + n * 10, 1000 + n * 10 + 5],
                500 + (n as usize % 7) * 400,
            )
        })
        .collect()
}

fn any_shape() -> impl Strategy<Value = SegmentShape> {
    let timestamps = prop::collection::vec(-1000_i64..100_000, 1..5);
    let batch = (timestamps, prop_oneof![0_usize..200, 10_000_usize..90_000]);
    prop::collection::vec(batch, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_written_is_found_by_offset_and_timestamp(shape in any_shape(), base in 0_i64..1 << 40) {
        let (bytes, summary, batches) = build(base, &shape);
        prop_assert_eq!(summary.size_bytes, bytes.len() as u64);
        prop_assert_eq!(summary.base_offset, base);
        prop_assert_eq!(verify_segment(&bytes, &identity(base)).unwrap(), summary);
        let index = SegmentIndex::parse(&bytes, bytes.len() as u64).unwrap();
        for (header, raw) in &batches {
            for offset in [header.base_offset, header.next_offset() - 1] {
                let block = index.block(index.locate(offset).unwrap()).unwrap();
                let range = block.range();
                let stored = &bytes[range.start as usize..range.end as usize];
                prop_assert!(block.check(stored).is_ok());
                let found = BatchIter::new(stored).map(Result::unwrap).find(|(found, _)| found.next_offset() > offset);
                prop_assert_eq!(found, Some((*header, raw.as_slice())));
            }
        }
        prop_assert_eq!(index.locate(base - 1), None);
        prop_assert_eq!(index.locate(summary.end_offset), None);
        for timestamp in shape.iter().flat_map(|(timestamps, _)| timestamps.iter().flat_map(|&t| [t, t + 1])) {
            let first = batches.iter().find(|(header, _)| header.max_timestamp >= timestamp);
            let block = index.locate_timestamp(timestamp);
            let holder = first.map(|(header, _)| index.locate(header.base_offset).unwrap());
            prop_assert_eq!(block, holder);
        }
    }

    #[test]
    fn any_flipped_bit_is_found(shape in any_shape(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let (bytes, ..) = build(100, &shape);
        let mut damaged = bytes.to_vec();
        damaged[at.index(bytes.len())] ^= 1_u8 << bit;
        prop_assert!(verify_segment(&damaged.into(), &identity(100)).is_err());
    }

    #[test]
    fn any_truncation_is_found(shape in any_shape(), at in any::<prop::sample::Index>()) {
        let (bytes, ..) = build(100, &shape);
        let cut = bytes.slice(..at.index(bytes.len()));
        prop_assert!(verify_segment(&cut, &identity(100)).is_err());
        prop_assert!(SegmentIndex::parse(&bytes.slice(at.index(bytes.len()) + 1..), cut.len() as u64).is_err());
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), size in any::<u64>()) {
        let bytes = Bytes::from(bytes);
        prop_assert!(verify_segment(&bytes, &identity(0)).is_err());
        prop_assert!(SegmentIndex::parse(&bytes, size).is_err());
        prop_assert!(parse_header(&bytes).is_err());
    }
}

#[test]
fn every_flipped_byte_of_a_small_segment_is_found() {
    let (bytes, ..) = build(9, &vec![(vec![1, 2], 10), (vec![3], 0)]);
    for position in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[position] ^= 0x10;
        assert!(
            verify_segment(&damaged.into(), &identity(9)).is_err(),
            "byte {position}"
        );
    }
}

#[test]
fn damage_is_named() {
    let (bytes, ..) = build(0, &many_blocks());
    let index = SegmentIndex::parse(&bytes, bytes.len() as u64).unwrap();
    let second = index.block(1).unwrap();
    for (position, name) in [
        (20, "header".to_owned()),
        (
            second.position as usize + 70,
            format!("block at byte {}", second.position),
        ),
        (index.footer().index_position as usize, "index".to_owned()),
        (bytes.len() - 30, "footer".to_owned()),
    ] {
        let mut damaged = bytes.to_vec();
        damaged[position] ^= 1;
        let error = verify_segment(&damaged.into(), &identity(0)).unwrap_err();
        assert!(
            matches!(&error, SegmentError::Crc { part, .. } if *part == name),
            "{name}: {error}"
        );
    }
}

#[test]
fn another_segments_object_is_refused() {
    let (bytes, summary, _) = build(50, &vec![(vec![1], 10)]);
    let right = identity(50);
    for (wrong, what) in [
        (
            SegmentIdentity {
                cluster_id: "other".to_owned(),
                ..right.clone()
            },
            "cluster",
        ),
        (
            SegmentIdentity {
                topic_id: Uuid::from_u128(8),
                ..right.clone()
            },
            "topic",
        ),
        (
            SegmentIdentity {
                partition: 4,
                ..right.clone()
            },
            "partition",
        ),
        (
            SegmentIdentity {
                partition_uid: PartitionUid(43),
                ..right.clone()
            },
            "partition",
        ),
        (
            SegmentIdentity {
                epoch: 4,
                ..right.clone()
            },
            "epoch",
        ),
        (
            SegmentIdentity {
                base_offset: 51,
                ..right.clone()
            },
            "base offset",
        ),
    ] {
        let error = verify_segment(&bytes, &wrong).unwrap_err();
        assert!(
            matches!(&error, SegmentError::Identity(part) if part.starts_with(what)),
            "{what}: {error}"
        );
    }
    let later = SegmentIdentity { epoch: 6, ..right };
    assert_eq!(
        verify_segment(&bytes, &later),
        Ok(summary),
        "an older epoch wrote the same records"
    );
}

#[test]
fn a_gap_is_not_written() {
    let mut writer = SegmentWriter::new(&identity(10));
    let bytes = batch(11, &[1], 1);
    let error = writer
        .append(&BatchHeader::parse(&bytes).unwrap(), &bytes)
        .unwrap_err();
    assert_eq!(
        error,
        SegmentError::Gap {
            expected: 10,
            found: 11
        }
    );
    assert_eq!(writer.finish().unwrap_err(), SegmentError::Empty);
}

#[test]
fn a_suffix_that_is_too_short_says_what_it_takes() {
    let (bytes, ..) = build(0, &many_blocks());
    let size = bytes.len() as u64;
    let Err(SegmentError::SuffixTooShort { needed }) =
        SegmentIndex::parse(&bytes.slice(bytes.len() - 150..), size)
    else {
        panic!("150 bytes hold no index of several blocks");
    };
    assert!(SegmentIndex::parse(&bytes.slice(bytes.len() - needed as usize..), size).is_ok());
    assert!(needed < SUFFIX_LEN);
}

struct StoredSegmentFixture {
    _directory: tempfile::TempDir,
    faults: Arc<FaultStore>,
    blocks: BlockCache,
    bytes: Bytes,
    batches: Vec<(BatchHeader, Vec<u8>)>,
}

const KEY: &str = "orders/0/segment_0000000000.dat";

async fn store_segment(damage: Option<usize>) -> StoredSegmentFixture {
    let directory = tempfile::tempdir().unwrap();
    let local = LocalStore::open(directory.path()).await.unwrap();
    let faults = Arc::new(FaultStore::new(Arc::new(local), system_entropy()));
    let (bytes, _, batches) = build(0, &many_blocks());
    let mut stored = bytes.to_vec();
    if let Some(position) = damage {
        stored[position] ^= 1;
    }
    faults.put_new(KEY, stored.into()).await.unwrap();
    let metrics = BlockMetrics {
        hits: IntCounter::new("hits", "hits").unwrap(),
        misses: IntCounter::new("misses", "misses").unwrap(),
        held_bytes: IntGauge::new("held", "held").unwrap(),
    };
    let blocks = BlockCache::new(faults.clone(), 64 << 20, 100_000, metrics);
    StoredSegmentFixture {
        _directory: directory,
        faults,
        blocks,
        bytes,
        batches,
    }
}

/// Reads like [`reader::read`], and joins the blocks.
async fn read_joined(
    blocks: &BlockCache,
    key: &str,
    size: u64,
    offset: i64,
    room: usize,
) -> Result<Bytes, reader::SegmentReadError> {
    match reader::locate_blocks(blocks, key, size, offset, room).await? {
        Some(located) => Ok(reader::read_blocks(blocks, key, size, &located)
            .await?
            .concat()
            .into()),
        None => Ok(Bytes::new()),
    }
}

#[tokio::test]
async fn a_reader_goes_through_the_whole_segment() {
    let stored = store_segment(None).await;
    let size = stored.bytes.len() as u64;
    for room in [1, 3000, 200_000, 10 << 20] {
        let (mut offset, mut seen) = (0, Vec::new());
        loop {
            let read = read_joined(&stored.blocks, KEY, size, offset, room)
                .await
                .unwrap();
            if read.is_empty() {
                break;
            }
            let before = offset;
            for batch in BatchIter::new(&read) {
                let (header, bytes) = batch.unwrap();
                if header.next_offset() > offset {
                    seen.push((header, bytes.to_vec()));
                    offset = header.next_offset();
                }
            }
            assert!(offset > before, "every read makes progress");
        }
        assert_eq!(seen, stored.batches, "room {room}");
    }
    assert_eq!(
        reader::seek_timestamp(&stored.blocks, KEY, size, i64::MAX)
            .await
            .unwrap(),
        600
    );
    let near = reader::seek_timestamp(&stored.blocks, KEY, size, 3005)
        .await
        .unwrap();
    let (target, _) = stored
        .batches
        .iter()
        .find(|(header, _)| header.max_timestamp >= 3005)
        .unwrap();
    assert!(
        near <= target.base_offset && near > 0,
        "{near} is before {}",
        target.base_offset
    );
}

#[tokio::test]
async fn damage_in_the_store_is_never_served() {
    let stored = store_segment(Some(40_000)).await;
    let size = stored.bytes.len() as u64;
    for _ in 0..2 {
        let error = read_joined(&stored.blocks, KEY, size, 0, 1).await.unwrap_err();
        assert!(
            matches!(error, reader::SegmentReadError::Segment(SegmentError::Crc { .. })),
            "{error}"
        );
    }
    let whole = read_joined(&stored.blocks, KEY, size, 599, 1).await.unwrap();
    assert!(!whole.is_empty(), "the other blocks are still served");
}

#[tokio::test]
async fn what_stands_before_and_behind_a_damaged_block_is_served() {
    let (bytes, ..) = build(0, &many_blocks());
    let index = SegmentIndex::parse(&bytes, bytes.len() as u64).unwrap();
    let damaged = index.block(1).unwrap();
    let stored = store_segment(Some(damaged.position as usize + 100)).await;
    let size = stored.bytes.len() as u64;
    let before = read_joined(&stored.blocks, KEY, size, 0, 10 << 20).await.unwrap();
    let last = BatchIter::new(&before).last().unwrap().unwrap().0;
    assert_eq!(last.next_offset(), damaged.base_offset);
    let located = reader::locate_blocks(&stored.blocks, KEY, size, damaged.base_offset, 1).await;
    let first = located.unwrap().unwrap().first;
    assert_eq!(first, damaged.base_offset..index.block(2).unwrap().base_offset);
    assert!(
        read_joined(&stored.blocks, KEY, size, first.start, 10 << 20)
            .await
            .is_err()
    );
    assert!(
        !read_joined(&stored.blocks, KEY, size, first.end, 1)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn damage_on_the_way_is_read_again() {
    let stored = store_segment(None).await;
    let size = stored.bytes.len() as u64;
    let flip = stored
        .faults
        .add(Toxic::new(ToxicKind::FlipBit).on(&[StoreOperation::Get]).times(1));
    let read = read_joined(&stored.blocks, KEY, size, 0, 1).await.unwrap();
    assert!(read.starts_with(&stored.batches[0].1));
    assert_eq!(stored.faults.hits(flip), 1);
}

#[tokio::test]
async fn a_segment_that_is_gone_is_an_error_of_the_store() {
    let stored = store_segment(None).await;
    stored.faults.delete(&[KEY.to_owned()]).await.unwrap();
    let error = read_joined(&stored.blocks, KEY, stored.bytes.len() as u64, 0, 1)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, reader::SegmentReadError::Store(error) if error.kind() == StoreErrorKind::NotFound),
        "{error}"
    );
    assert!(stored.faults.get(KEY, GetRange::Full).await.is_err());
}
