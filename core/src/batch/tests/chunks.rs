//! A batch decoded in parts yields the same records as a whole one, holds no more bytes at once
//! than allowed, and reports damage as an error.

use std::io::Write as _;

use super::*;

const MAX_RECORD_BYTES: usize = 1 << 20;

/// Returns the offsets and values of all parts that fit into `room`.
fn read_in_chunks(batch: &Bytes, room: usize) -> Result<Vec<(i64, Option<Bytes>)>, BatchError> {
    let mut chunks = BatchChunkReader::new(batch, MAX_RECORD_BYTES)?;
    let mut next = BatchHeader::parse(batch)?.base_offset;
    let mut all = Vec::new();
    while let Some(chunk) = chunks.next_chunk(room)? {
        assert_eq!(chunk.start, next);
        let records = chunk.records.clone().collect::<Result<Vec<_>, _>>()?;
        assert!(records.len() == 1 || chunk.records.decompressed_len() <= room);
        all.extend(records.into_iter().map(|record| (record.offset, record.value)));
        next = chunk.end;
    }
    assert!(chunks.is_finished());
    assert_eq!(next, BatchHeader::parse(batch)?.next_offset());
    Ok(all)
}

fn read_whole(batch: &Bytes) -> Result<Vec<(i64, Option<Bytes>)>, BatchError> {
    let records = DecodedRecords::decode(batch.clone(), MAX_DECOMPRESSED)?;
    records.check()?;
    records
        .map(|record| record.map(|record| (record.offset, record.value)))
        .collect()
}

proptest! {
    #[test]
    fn parts_are_what_the_whole_is(codec in any_codec(), records in any_records(), room in 1_usize..4000) {
        let batch = encode(codec, &records);
        prop_assert_eq!(read_in_chunks(&batch, room).unwrap(), read_whole(&batch).unwrap());
    }

    #[test]
    fn a_damaged_batch_is_an_error_in_parts_where_it_is_one_as_a_whole(
        codec in any_writable_codec(), records in any_records(), at: prop::sample::Index, byte in 1_u8.., room in 1_usize..4000,
    ) {
        let mut batch = encode(codec, &records).to_vec();
        let at = HEADER_LEN + at.index(batch.len() - HEADER_LEN);
        batch[at] ^= byte;
        let batch = Bytes::from(batch);
        match (read_in_chunks(&batch, room), read_whole(&batch)) {
            (Ok(parts), Ok(whole)) => prop_assert_eq!(parts, whole),
            (Err(_), Err(_)) => {}
            (parts, whole) => prop_assert!(false, "{:?} where the whole is {:?}", parts, whole),
        }
    }
}

#[test]
fn what_unpacks_to_much_is_read_within_the_room() {
    let value = vec![0; 256 << 10];
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4] {
        let mut builder = BatchBuilder::new(codec);
        for timestamp in 0..200 {
            builder
                .append::<&[u8], &[u8]>(timestamp, None, Some(&value), &[])
                .unwrap();
        }
        let batch = builder.finish().unwrap();
        assert_eq!(
            DecodedRecords::decode(batch.clone(), MAX_RECORD_BYTES).unwrap_err(),
            BatchError::DecompressedTooLarge(MAX_RECORD_BYTES)
        );
        let all = read_in_chunks(&batch, MAX_RECORD_BYTES).unwrap();
        assert_eq!(all.len(), 200);
        assert!(all.iter().all(|(_, found)| found.as_deref() == Some(&value[..])));
    }
}

#[test]
fn one_record_larger_than_allowed_is_refused_without_being_made() {
    let zeros = TestRecord {
        timestamp: 0,
        key: None,
        value: Some(vec![0; 8 << 20]),
        headers: Vec::new(),
    };
    for codec in [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
    ] {
        let batch = encode(codec, std::slice::from_ref(&zeros));
        assert_eq!(
            read_in_chunks(&batch, 4096).unwrap_err(),
            BatchError::DecompressedTooLarge(MAX_RECORD_BYTES),
            "{codec}"
        );
    }
}

#[test]
fn linked_blocks_and_their_checksums_are_read() {
    let records = encode(
        Compression::None,
        &vec![
            TestRecord {
                timestamp: 0,
                key: None,
                value: Some(b"again and again".repeat(900)),
                headers: Vec::new(),
            };
            30
        ],
    );
    let mut info = lz4_flex::frame::FrameInfo::new();
    info.block_mode = lz4_flex::frame::BlockMode::Linked;
    info.block_size = lz4_flex::frame::BlockSize::Max64KB;
    info.block_checksums = true;
    info.content_checksum = true;
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(&records[HEADER_LEN..]).unwrap();
    let batch = with_records(
        Compression::Lz4,
        &records[..HEADER_LEN],
        &encoder.finish().unwrap(),
    );
    assert_eq!(
        read_in_chunks(&batch, 20_000).unwrap(),
        read_whole(&batch).unwrap()
    );
}
