//! The limits of one step of garbage collection, shared by both stores. They keep its transactions
//! short.

/// The maximum number of rows of one table that a step deletes. PostgreSQL's statements contain the
/// number literally.
pub(crate) const CHUNK: i64 = 1000;
/// The maximum number of waiting objects that are counted, in each of the two tables.
pub(crate) const COUNTED: i64 = 100_000;
