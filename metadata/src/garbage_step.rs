//! One step of garbage collection, as far as it does not depend on the store: its limits, and the
//! conversion of its rows.

use std::collections::{BTreeMap, HashSet};

use crate::{GarbageBatch, Incarnation, Result, keys::wal_key, rows::to_unsigned};

/// The maximum number of rows of one table that a step deletes, which keeps its transactions short.
/// PostgreSQL's statements contain the number literally.
pub(crate) const MAX_DELETED_ROWS: i64 = 1000;
/// The maximum number of waiting objects that are counted, in each of the two tables.
pub(crate) const MAX_COUNTED_OBJECTS: i64 = 100_000;

/// Returns whether a step that deleted this many rows of a table may have left some.
pub(crate) fn is_full_step(deleted: u64) -> bool {
    i64::try_from(deleted).unwrap_or(i64::MAX) >= MAX_DELETED_ROWS
}

/// Converts unreferenced objects, each with its key or as (incarnation, sequence) of a WAL object.
/// `waiting` is the number of objects whose grace has not passed.
pub(crate) fn garbage_batch(
    objects: Vec<(Option<String>, i64, i64)>,
    waiting: i64,
    limit: usize,
) -> Result<GarbageBatch> {
    let keys = objects
        .into_iter()
        .map(|(key, incarnation, sequence)| match key {
            Some(key) => Ok(key),
            None => Ok(wal_key(
                Incarnation(incarnation),
                to_unsigned("a sequence", sequence)?,
            )),
        })
        .collect::<Result<Vec<_>>>()?;
    let more = limit > 0 && keys.len() >= limit;
    Ok(GarbageBatch {
        keys,
        waiting: to_unsigned("a count", waiting)?,
        more,
    })
}

/// Returns the greatest sequence of each incarnation among deleted WAL objects.
pub(crate) fn greatest_sequences(deleted: &[(i64, i64)]) -> BTreeMap<i64, i64> {
    let mut greatest = BTreeMap::new();
    for &(incarnation, sequence) in deleted {
        let entry = greatest.entry(incarnation).or_insert(sequence);
        *entry = sequence.max(*entry);
    }
    greatest
}

/// Returns those of the sequences that a row can have.
pub(crate) fn storable_sequences(sequences: &[u64]) -> Vec<i64> {
    let storable = sequences.iter().copied().map(i64::try_from);
    storable.filter_map(std::result::Result::ok).collect()
}

/// Returns those of the sequences that have no row. `known` are those that have one.
pub(crate) fn orphan_sequences(sequences: &[u64], known: Vec<i64>) -> Vec<u64> {
    let known = known.into_iter().map(u64::try_from);
    let known: HashSet<u64> = known.filter_map(std::result::Result::ok).collect();
    let unknown = |sequence: &u64| !known.contains(sequence);
    sequences.iter().copied().filter(unknown).collect()
}
