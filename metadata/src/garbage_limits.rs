//! The limits of one step of garbage collection, shared by both stores. They keep its transactions
//! short.

/// The maximum number of rows of one table that a step deletes. PostgreSQL's statements contain the
/// number literally.
pub(crate) const MAX_DELETED_ROWS: i64 = 1000;
/// The maximum number of waiting objects that are counted, in each of the two tables.
pub(crate) const MAX_COUNTED_OBJECTS: i64 = 100_000;
