//! Zig-zag varints, which encode the lengths and deltas of records. On the hot path of producers
//! and consumers.

use super::BatchError;

/// Bytes of the longest encoding.
const MAX_LEN: usize = 10;

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Returns how many bytes the encoding of `value` takes.
#[inline]
pub(super) fn len(value: i64) -> usize {
    (64 - (zigzag(value) | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends the encoding of `value`.
#[inline]
pub(super) fn put(out: &mut Vec<u8>, value: i64) {
    let mut left = zigzag(value);
    // Fast path: nearly every delta and length fits into one byte or two.
    if left < 0x80 {
        out.push(left as u8);
        return;
    }
    let mut bytes = [0_u8; MAX_LEN];
    let mut used = 0;
    while left >= 0x80 {
        bytes[used] = left as u8 | 0x80;
        left >>= 7;
        used += 1;
    }
    bytes[used] = left as u8;
    out.extend_from_slice(&bytes[..=used]);
}

/// Decodes a value and moves `position` past it.
#[inline]
pub(super) fn get(bytes: &[u8], position: &mut usize) -> Result<i64, BatchError> {
    let rest = bytes.get(*position..).unwrap_or_default();
    let mut zigzag = 0_u64;
    for (index, &byte) in rest.iter().take(MAX_LEN).enumerate() {
        zigzag |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            *position += index + 1;
            return Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
        }
    }
    Err(if rest.len() < MAX_LEN {
        BatchError::Truncated {
            needed: bytes.len() + 1,
            have: bytes.len(),
        }
    } else {
        BatchError::Invalid("a varint is longer than ten bytes".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_read_back(value: i64, shift in 0_u32..64) {
            let value = value >> shift;
            let mut out = vec![7];
            put(&mut out, value);
            prop_assert_eq!(out.len() - 1, len(value));
            let mut position = 1;
            prop_assert_eq!(get(&out, &mut position).unwrap(), value);
            prop_assert_eq!(position, out.len());
        }

        #[test]
        fn any_bytes_are_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..12), at in 0_usize..20) {
            let mut position = at;
            match get(&bytes, &mut position) {
                Ok(_) => prop_assert!(position > at && position <= bytes.len()),
                Err(_) => prop_assert_eq!(position, at),
            }
        }
    }

    #[test]
    fn kafkas_encodings_hold() {
        for (value, encoded) in [
            (0, &[0][..]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 1]),
            (300, &[0xd8, 4]),
        ] {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(out, encoded, "{value}");
        }
        let mut out = Vec::new();
        put(&mut out, i64::MIN);
        assert_eq!(out.len(), MAX_LEN);
    }
}
