//! Damaged bytes yield an error or the records written, but never a panic, and never more than the
//! input allows.

use super::*;

/// A way to damage bytes.
#[derive(Debug, Clone)]
enum ByteDamage {
    Flip { at: u32, mask: u8 },
    Cut { at: u32 },
    Drop { at: u32, length: u8 },
    Insert { at: u32, bytes: Vec<u8> },
    Repeat { at: u32, length: u8 },
}

impl ByteDamage {
    fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            4 => (any::<u32>(), 1_u8..).prop_map(|(at, mask)| Self::Flip { at, mask }),
            1 => any::<u32>().prop_map(|at| Self::Cut { at }),
            1 => (any::<u32>(), 1_u8..).prop_map(|(at, length)| Self::Drop { at, length }),
            1 => (any::<u32>(), prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Self::Insert { at, bytes }),
            1 => (any::<u32>(), 1_u8..).prop_map(|(at, length)| Self::Repeat { at, length }),
        ]
    }

    /// Damages the bytes after `from`.
    fn apply(&self, bytes: &mut Vec<u8>, from: usize) {
        let place = |at: u32| from + at as usize % (bytes.len() - from).max(1);
        let end = |at: usize, length: u8| bytes.len().min(at + usize::from(length));
        match self {
            _ if bytes.len() <= from => {}
            Self::Flip { at, mask } => {
                let at = place(*at);
                bytes[at] ^= mask;
            }
            Self::Cut { at } => bytes.truncate(place(*at)),
            Self::Drop { at, length } => {
                let at = place(*at);
                drop(bytes.drain(at..end(at, *length)));
            }
            Self::Insert { at, bytes: inserted } => {
                let at = place(*at);
                drop(bytes.splice(at..at, inserted.iter().copied()));
            }
            Self::Repeat { at, length } => {
                let at = place(*at);
                let again = bytes[at..end(at, *length)].to_vec();
                drop(bytes.splice(at..at, again));
            }
        }
    }
}

fn any_damages() -> impl Strategy<Value = Vec<ByteDamage>> {
    prop::collection::vec(ByteDamage::any(), 1..4)
}

/// Reads the batch in every possible way and checks that the results are bounded by the input.
fn read_everything(batch: &Bytes, limit: usize) {
    for (header, _) in BatchIter::new(batch).flatten() {
        let _ = (header.compression(), header.next_offset(), header.size());
    }
    let Ok(records) = DecodedRecords::decode(batch.clone(), limit) else {
        return;
    };
    let _ = records.check();
    assert!(records.decompressed_len() <= limit);
    let unpacked = records.decompressed_len();
    let least = records.clone().collect::<Vec<_>>();
    // A record takes at least seven bytes, whatever the counts claim; plus one for the error.
    assert!(
        least.len() <= unpacked / 7 + 1,
        "{} records from {unpacked} bytes",
        least.len()
    );
    let fields = |record: &Record| {
        let headers: usize = record
            .headers
            .iter()
            .map(|(key, value)| key.len() + value.map_or(0, |v| v.len()))
            .sum();
        assert_eq!(record.headers.iter().count(), record.headers.len());
        headers + record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len)
    };
    let total: usize = least.iter().flatten().map(fields).sum();
    assert!(total <= unpacked, "fields of {total} bytes from {unpacked} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn damage_under_the_crc_is_found(codec in any_codec(), records in any_records(), damages in any_damages()) {
        let whole = encode(codec, &records);
        let mut damaged = whole.to_vec();
        damages.iter().for_each(|damage| damage.apply(&mut damaged, 0));
        let damaged = Bytes::from(damaged);
        read_everything(&damaged, MAX_DECOMPRESSED);
        if validate(&damaged, &LIMITS).is_ok() {
            // Only base offset and leader epoch lie outside the CRC.
            prop_assert_eq!(&damaged[16..], &whole[16..]);
            prop_assert_eq!(read_records(&damaged).unwrap(), records);
        }
    }

    #[test]
    fn damage_before_the_crc_was_made_breaks_nothing(
        codec in any_codec(), records in any_records(), damages in any_damages(), limit in 0_usize..100_000,
    ) {
        let mut damaged = encode(codec, &records).to_vec();
        damages.iter().for_each(|damage| damage.apply(&mut damaged, HEADER_LEN));
        let length = damaged.len() as i32 - 12;
        damaged[8..12].copy_from_slice(&length.to_be_bytes());
        let damaged = Bytes::from(with_correct_crc(damaged));
        verify_crc(&damaged).unwrap();
        read_everything(&damaged, limit);
    }

    #[test]
    fn any_bytes_behind_a_good_head_break_nothing(
        codec in any_codec(), bytes in prop::collection::vec(any::<u8>(), 0..300), count: i32, last_delta in 0..i32::MAX,
    ) {
        let mut batch = small_batch()[..HEADER_LEN].to_vec();
        batch.extend_from_slice(&bytes);
        let length = batch.len() as i32 - 12;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[21..23].copy_from_slice(&codec.id().to_be_bytes());
        batch[23..27].copy_from_slice(&last_delta.to_be_bytes());
        batch[57..61].copy_from_slice(&count.to_be_bytes());
        read_everything(&Bytes::from(with_correct_crc(batch)), 1 << 20);
    }

    #[test]
    fn any_bytes_break_nothing(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = validate(&bytes, &LIMITS);
        let _ = stamp_all(&mut bytes.clone(), 0, 0);
        let _ = renumber(&mut bytes.clone(), 0, 0, 0);
        stamp(&mut bytes.clone(), 0, 0);
        read_everything(&Bytes::from(bytes), MAX_DECOMPRESSED);
    }
}
