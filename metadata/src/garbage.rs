//! The sizes of a step of tidying, the same for both stores: small enough for a short transaction.

/// How many rows of one table one step deletes at most; PostgreSQL's statements say the number themselves.
pub(crate) const CHUNK: i64 = 1000;
/// Up to how many waiting objects are counted, in each of the two places.
pub(crate) const COUNTED: i64 = 100_000;
