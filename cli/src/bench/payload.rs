//! Payloads of a benchmark: a pool of records generated once, so that the send loop only takes
//! slices.
//!
//! Each record begins with random bytes and ends with a text common to all records;
//! `compressibility` is the share of the text. The random bytes come from a fixed seed, so that two
//! runs send the same records.

/// Approximate size of the pool: far more than LZ4's window, so that repeated records do not
/// compress each other.
const POOL_BYTES: usize = 4 << 20;
const REPEATED_TEXT: &[u8] = b"the same words in every record, as field names and units are in real ones; ";

/// A pool of records of one size.
#[derive(Debug, Clone)]
pub(super) struct PayloadPool {
    pool: Vec<u8>,
    size: usize,
    count: usize,
}

impl PayloadPool {
    /// Generates records of `size` bytes, of which the share `compressibility` (0 to 1) is common
    /// text.
    pub(super) fn new(size: usize, compressibility: f64) -> Self {
        let size = size.max(1);
        let count = (POOL_BYTES / size).clamp(16, 65_536);
        let random = ((1.0 - compressibility.clamp(0.0, 1.0)) * size as f64).round() as usize;
        let mut pool = Vec::with_capacity(count * size);
        let mut noise = SplitMix(0x5eed);
        for _ in 0..count {
            let end = pool.len() + random;
            while pool.len() < end {
                let bytes = noise.next().to_le_bytes();
                pool.extend_from_slice(&bytes[..bytes.len().min(end - pool.len())]);
            }
            pool.extend(REPEATED_TEXT.iter().cycle().take(size - random));
        }
        Self { pool, size, count }
    }

    /// Returns record number `at`, wrapping around the pool.
    pub(super) fn record(&self, at: u64) -> &[u8] {
        let at = usize::try_from(at % self.count as u64).unwrap_or(0) * self.size;
        &self.pool[at..at + self.size]
    }
}

/// SplitMix64: a small, fast and reproducible generator.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Bytes at the start of an end-to-end record: the run's id and the intended send time.
pub(super) const STAMP_SIZE: usize = 16;

/// Writes a stamp over the record's first bytes.
pub(super) fn write_stamp(record: &mut [u8], run: u64, micros: u64) {
    record[..8].copy_from_slice(&run.to_le_bytes());
    record[8..STAMP_SIZE].copy_from_slice(&micros.to_le_bytes());
}

/// Reads the microseconds of a stamp of this run; `None` for any other record.
pub(super) fn read_stamp(record: &[u8], run: u64) -> Option<u64> {
    let (id, rest) = record.split_first_chunk::<8>()?;
    let (micros, _) = rest.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*id) == run).then(|| u64::from_le_bytes(*micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_their_size_and_their_share_of_noise() {
        let payload = PayloadPool::new(100, 0.3);
        let (a, b) = (payload.record(0), payload.record(1));
        assert_eq!((a.len(), b.len()), (100, 100));
        assert_eq!(a[70..], b[70..]);
        assert_ne!(a[..70], b[..70]);
        assert_eq!(payload.record(payload.count as u64), a);
        assert_eq!(PayloadPool::new(1, 1.0).record(7), &REPEATED_TEXT[..1]);
        assert_eq!(PayloadPool::new(100, 0.3).pool, payload.pool);
        assert_eq!(PayloadPool::new(8 << 20, 0.0).record(15).len(), 8 << 20);
    }

    #[test]
    fn a_stamp_is_read_back_only_by_its_own_run() {
        let mut record = vec![0; 20];
        write_stamp(&mut record, 7, 123_456);
        assert_eq!(read_stamp(&record, 7), Some(123_456));
        assert_eq!(read_stamp(&record, 8), None);
        assert_eq!(read_stamp(&record[..15], 7), None);
    }
}
