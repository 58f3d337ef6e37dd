//! Small batches that decompress to far more than allowed are rejected without allocating more than
//! the limit.

use std::io::Write as _;

use super::*;

const BOMB_BYTES: usize = 32 << 20;
const MAX_BYTES: usize = 1 << 20;

fn batch_of(codec: Compression, records: &[u8]) -> Bytes {
    with_records(codec, &small_batch()[..HEADER_LEN], records)
}

fn assert_refused(codec: Compression, records: &[u8]) {
    let error = DecodedRecords::decode(batch_of(codec, records), MAX_BYTES).unwrap_err();
    assert_eq!(error, BatchError::DecompressedTooLarge(MAX_BYTES), "{codec}");
    assert_eq!(error.code(), ErrorCode::MessageTooLarge);
}

#[test]
fn what_our_own_writers_make_of_zeros_is_refused() {
    for codec in [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
    ] {
        let zeros = TestRecord {
            timestamp: 0,
            key: None,
            value: Some(vec![0; BOMB_BYTES]),
            headers: Vec::new(),
        };
        let error = DecodedRecords::decode(encode(codec, &[zeros]), MAX_BYTES).unwrap_err();
        assert_eq!(error, BatchError::DecompressedTooLarge(MAX_BYTES), "{codec}");
    }
}

#[test]
fn a_gzip_bomb_is_refused() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; BOMB_BYTES]).unwrap();
    assert_refused(Compression::Gzip, &encoder.finish().unwrap());
}

#[test]
fn a_zstd_bomb_is_refused() {
    // A frame with a window of 1 KiB, then blocks of one repeated byte, each of 128 KiB; the last
    // one marked.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    for block in 0..256_u32 {
        let header = (128 << 10) << 3 | 1 << 1 | u32::from(block == 255);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    assert_refused(Compression::Zstd, &frame);
    let room_for_all = DecodedRecords::decode(batch_of(Compression::Zstd, &frame), BOMB_BYTES).unwrap();
    assert_eq!(room_for_all.decompressed_len(), BOMB_BYTES);
    // Many small frames are one large batch, too.
    assert_refused(
        Compression::Zstd,
        &[&frame[..6], &frame[frame.len() - 4..]].concat().repeat(9),
    );
}

#[test]
fn a_snappy_claim_that_cannot_be_true_is_refused() {
    // 16 MiB claimed by a block of five bytes.
    let block = [0x80, 0x80, 0x80, 0x08, 0x00];
    let error = DecodedRecords::decode(batch_of(Compression::Snappy, &block), MAX_DECOMPRESSED).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidRecord);
    assert_refused(Compression::Snappy, &block);
}

#[test]
fn counts_and_lengths_that_cannot_be_true_are_refused() {
    let mut records = Vec::new();
    varint::put(&mut records, i64::MAX);
    let mut counted = vec![0, 0, 0, 1, 1];
    varint::put(&mut counted, i64::MAX); // headers
    let mut record = Vec::new();
    varint::put(&mut record, counted.len() as i64);
    record.extend_from_slice(&counted);
    let mut keyed = vec![0, 0, 0];
    varint::put(&mut keyed, i64::from(i32::MAX)); // the key's length
    let mut long_key = Vec::new();
    varint::put(&mut long_key, keyed.len() as i64);
    long_key.extend_from_slice(&keyed);
    for bytes in [records, record, long_key] {
        let mut batch = batch_of(Compression::None, &bytes).to_vec();
        batch[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
        let records = DecodedRecords::decode(with_correct_crc(batch).into(), MAX_DECOMPRESSED).unwrap();
        assert!(records.check().is_err());
        let (_, most) = records.size_hint();
        assert!(most.is_some_and(|most| most <= bytes.len()));
        assert_eq!(
            records.collect::<Vec<_>>().len(),
            1,
            "one error, and then the end"
        );
    }
}
