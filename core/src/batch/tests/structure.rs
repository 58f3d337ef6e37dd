//! Batches with a correct CRC and inconsistent contents are rejected.

use super::*;

fn test_record(value: &[u8]) -> TestRecord {
    TestRecord {
        timestamp: 5,
        key: Some(b"k".to_vec()),
        value: Some(value.to_vec()),
        headers: Vec::new(),
    }
}

/// Rewrites the header to claim `count` records.
fn with_claimed_count(batch: &[u8], count: i32) -> Vec<u8> {
    let mut batch = batch.to_vec();
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    with_correct_crc(batch)
}

fn assert_refused(what: &str, batch: &[u8]) {
    verify_crc(batch).unwrap();
    let error = validate(batch, &LIMITS).expect_err(what);
    assert_eq!(error.code(), ErrorCode::InvalidRecord, "{what}: {error}");
}

#[test]
fn a_thousand_records_are_not_in_one_byte() {
    for codec in Compression::ALL {
        let head = encode(codec, &[test_record(b"v")]);
        for records in [&[][..], &[0], &[0xff; 9]] {
            let batch = with_records(codec, &head[..HEADER_LEN], records);
            assert_refused(
                &format!("{codec}, {records:?}"),
                &with_claimed_count(&batch, 1000),
            );
            assert_refused(&format!("{codec}, {records:?}"), &with_claimed_count(&batch, 1));
        }
    }
}

#[test]
fn a_sound_frame_is_not_taken_for_more_than_it_can_hold() {
    for codec in Compression::ALL {
        let batch = encode(codec, &[test_record(&[7; 100])]);
        validate(&batch, &LIMITS).unwrap();
        assert_refused(codec.name(), &with_claimed_count(&batch, i32::MAX));
    }
}

#[test]
fn the_lengths_of_records_as_they_are_are_followed() {
    let batch = encode(Compression::None, &[test_record(b"one"), test_record(b"two")]);
    validate(&batch, &LIMITS).unwrap();
    assert_refused("fewer than there are", &with_claimed_count(&batch, 1));
    assert_refused("more than there are", &with_claimed_count(&batch, 3));
    // Length, attributes and the timestamp delta precede the offset delta.
    let mut twice = batch.to_vec();
    let second = HEADER_LEN + 1 + (twice[HEADER_LEN] as usize >> 1);
    twice[second + 3] = 0;
    assert_refused("an offset twice", &with_correct_crc(twice));
    let mut cut = batch.to_vec();
    cut[second] += 2;
    assert_refused("a length that leads out of the batch", &with_correct_crc(cut));
    let mut empty = batch.to_vec();
    empty[HEADER_LEN] = 0;
    assert!(
        validate(&with_correct_crc(empty), &LIMITS).is_err(),
        "a record of nothing"
    );
}

#[test]
fn a_frame_of_lz4_is_followed_to_its_end() {
    let records: Vec<TestRecord> = (0..200).map(|n: u8| test_record(&[n; 1000])).collect();
    let batch = encode(Compression::Lz4, &records);
    validate(&batch, &LIMITS).unwrap();
    let (head, frame) = batch.split_at(HEADER_LEN);
    for cut in [1, 3, 5, frame.len() / 2] {
        assert_refused(
            "cut",
            &with_records(Compression::Lz4, head, &frame[..frame.len() - cut]),
        );
    }
    let longer = [frame, &[1]].concat();
    assert_refused("longer", &with_records(Compression::Lz4, head, &longer));
    // Some writers split one batch into two frames.
    let two = [frame, frame].concat();
    validate(&with_records(Compression::Lz4, head, &two), &LIMITS).unwrap();
}

proptest! {
    #[test]
    fn what_can_be_read_is_taken(codec in any_codec(), records in any_records()) {
        let batch = encode(codec, &records);
        prop_assert!(validate(&batch, &LIMITS).is_ok());
        // A count that the records cannot hold is rejected before anything is decompressed.
        let unpacked = DecodedRecords::decode(batch.clone(), MAX_DECOMPRESSED).unwrap().decompressed_len();
        let beyond = i32::try_from(unpacked / 7 + 1).unwrap();
        if codec == Compression::None {
            prop_assert!(validate(&with_claimed_count(&batch, beyond), &LIMITS).is_err());
        }
    }
}
