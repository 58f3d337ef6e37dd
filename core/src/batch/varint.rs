//! Zig-zag varints, as records use them for lengths and deltas.

use super::BatchError;

/// How many bytes `value` takes.
pub(super) fn len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (zigzag | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends `value`.
#[inline]
pub(super) fn put(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// Reads a value and moves `position` behind it.
#[inline]
pub(super) fn get(bytes: &[u8], position: &mut usize) -> Result<i64, BatchError> {
    let (mut zigzag, mut shift) = (0_u64, 0);
    loop {
        let byte = *bytes.get(*position).ok_or(BatchError::Truncated { needed: *position + 1, have: bytes.len() })?;
        *position += 1;
        zigzag |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
        }
        shift += 7;
        if shift > 63 {
            return Err(BatchError::Invalid("a varint is longer than ten bytes".to_owned()));
        }
    }
}
