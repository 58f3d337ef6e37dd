//! Selects the batches of a run that a reader gets: the same for runs of a tail and for those that
//! were read from a WAL object.

use std::ops::Range;

use streamhouse_core::batch::{BatchError, BatchHeader};

/// Adjacent whole batches of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSelection {
    /// Their place in the run's bytes.
    pub bytes: Range<usize>,
    /// Offset of their first record.
    pub base_offset: i64,
    /// Offset after their last record.
    pub next_offset: i64,
    /// Whether they reach to the end of the run.
    pub whole: bool,
}

/// Selects whole batches of a run, beginning with the one that holds `from`, while they and the
/// `taken` bytes before them stay within `max_bytes`; the first batch of all whatever its size.
///
/// # Errors
/// If a batch header cannot be parsed.
pub fn select_batches(
    run: &[u8],
    base_offset: i64,
    from: i64,
    max_bytes: usize,
    taken: usize,
) -> Result<BatchSelection, BatchError> {
    let mut selected = BatchSelection {
        bytes: 0..0,
        base_offset,
        next_offset: base_offset,
        whole: true,
    };
    while selected.bytes.end < run.len() {
        let header = BatchHeader::parse(&run[selected.bytes.end..])?;
        let end = selected.bytes.end + header.size();
        let next_offset = selected.next_offset + i64::from(header.last_offset_delta) + 1;
        if next_offset <= from {
            selected.bytes.start = end;
            selected.base_offset = next_offset;
        } else {
            let before = taken + selected.bytes.len();
            if before > 0 && before + header.size() > max_bytes {
                selected.whole = false;
                break;
            }
        }
        selected.bytes.end = end;
        selected.next_offset = next_offset;
    }
    Ok(selected)
}
