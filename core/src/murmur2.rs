//! Kafka's murmur2 hash, which determines the partition of a key and the coordinator slot of a
//! group. Its results must never change.

/// Hashes `data` as Kafka's Java client does: 32-bit murmur2.
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut h: u32 = 0x9747_b28c ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    for (index, byte) in rest.iter().enumerate() {
        h ^= u32::from(*byte) << (8 * index);
    }
    if !rest.is_empty() {
        h = h.wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    (h ^ (h >> 15)) as i32
}

/// Returns the partition of a key among `partitions`, as Kafka's default partitioner does; 0 if
/// there are none.
pub fn partition_for_key(key: &[u8], partitions: i32) -> i32 {
    if partitions <= 0 {
        0
    } else {
        (murmur2(key) & i32::MAX) % partitions
    }
}

/// Returns the coordinator slot of a group among `slots`.
pub fn group_slot(group_id: &str, slots: i32) -> i32 {
    partition_for_key(group_id.as_bytes(), slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_java_clients_vectors_hold() {
        let vectors = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
        }
    }

    #[test]
    fn a_partition_is_never_out_of_bounds() {
        for key in 0..10_000_u32 {
            assert!((0..7).contains(&partition_for_key(&key.to_le_bytes(), 7)));
        }
        assert_eq!(partition_for_key(b"any", 0), 0);
    }
}
