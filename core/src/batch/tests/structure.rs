//! Batches with a correct CRC and inconsistent contents are rejected.

use super::*;

fn record(value: &[u8]) -> Written {
    Written {
        timestamp: 5,
        key: Some(b"k".to_vec()),
        value: Some(value.to_vec()),
        headers: Vec::new(),
    }
}

/// Rewrites the header to claim `count` records.
fn claiming(batch: &[u8], count: i32) -> Vec<u8> {
    let mut batch = batch.to_vec();
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    resealed(batch)
}

fn refused(what: &str, batch: &[u8]) {
    verify_crc(batch).unwrap();
    let error = validate(batch, &LIMITS).expect_err(what);
    assert_eq!(error.code(), ErrorCode::InvalidRecord, "{what}: {error}");
}

#[test]
fn a_thousand_records_are_not_in_one_byte() {
    for codec in Compression::ALL {
        let head = encode(codec, &[record(b"v")]);
        for records in [&[][..], &[0], &[0xff; 9]] {
            let batch = with_records(codec, &head[..HEADER_LEN], records);
            refused(&format!("{codec}, {records:?}"), &claiming(&batch, 1000));
            refused(&format!("{codec}, {records:?}"), &claiming(&batch, 1));
        }
    }
}

#[test]
fn a_sound_frame_is_not_taken_for_more_than_it_can_hold() {
    for codec in Compression::ALL {
        let batch = encode(codec, &[record(&[7; 100])]);
        validate(&batch, &LIMITS).unwrap();
        refused(codec.name(), &claiming(&batch, i32::MAX));
    }
}

#[test]
fn the_lengths_of_records_as_they_are_are_followed() {
    let batch = encode(Compression::None, &[record(b"one"), record(b"two")]);
    validate(&batch, &LIMITS).unwrap();
    refused("fewer than there are", &claiming(&batch, 1));
    refused("more than there are", &claiming(&batch, 3));
    // Length, attributes and the timestamp delta precede the offset delta.
    let mut twice = batch.to_vec();
    let second = HEADER_LEN + 1 + (twice[HEADER_LEN] as usize >> 1);
    twice[second + 3] = 0;
    refused("an offset twice", &resealed(twice));
    let mut cut = batch.to_vec();
    cut[second] += 2;
    refused("a length that leads out of the batch", &resealed(cut));
    let mut empty = batch.to_vec();
    empty[HEADER_LEN] = 0;
    assert!(
        validate(&resealed(empty), &LIMITS).is_err(),
        "a record of nothing"
    );
}

#[test]
fn a_frame_of_lz4_is_followed_to_its_end() {
    let records: Vec<Written> = (0..200).map(|n: u8| record(&[n; 1000])).collect();
    let batch = encode(Compression::Lz4, &records);
    validate(&batch, &LIMITS).unwrap();
    let (head, frame) = batch.split_at(HEADER_LEN);
    for cut in [1, 3, 5, frame.len() / 2] {
        refused(
            "cut",
            &with_records(Compression::Lz4, head, &frame[..frame.len() - cut]),
        );
    }
    let longer = [frame, &[1]].concat();
    refused("longer", &with_records(Compression::Lz4, head, &longer));
    // Some writers split one batch into two frames.
    let two = [frame, frame].concat();
    validate(&with_records(Compression::Lz4, head, &two), &LIMITS).unwrap();
}

proptest! {
    #[test]
    fn what_can_be_read_is_taken(codec in codec(), records in records()) {
        let batch = encode(codec, &records);
        prop_assert!(validate(&batch, &LIMITS).is_ok());
        // A count that the records cannot hold is rejected before anything is decompressed.
        let unpacked = Records::decode(batch.clone(), LIMIT).unwrap().decompressed_len();
        let beyond = i32::try_from(unpacked / 7 + 1).unwrap();
        if codec == Compression::None {
            prop_assert!(validate(&claiming(&batch, beyond), &LIMITS).is_err());
        }
    }
}
