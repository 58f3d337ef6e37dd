//! Rows of `segments` and `ranges` as a read of the log returns them.

use super::to_unsigned;
use crate::{Incarnation, LogSpan, Result, SpanLocation};

/// The maximum number of spans that one read returns, whatever the caller requests.
pub(crate) const MAX_SPANS: usize = 10_000;

/// A segment, which has a `key`, or a WAL range. All `NULL` where a join found neither.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct SpanRow {
    base_offset: Option<i64>,
    end_offset: Option<i64>,
    max_timestamp: Option<i64>,
    stored_at_ms: Option<i64>,
    epoch: Option<i32>,
    key: Option<String>,
    incarnation: Option<i64>,
    sequence: Option<i64>,
    start: Option<i64>,
    size: Option<i64>,
}

impl SpanRow {
    /// Converts the row; returns `None` if it is empty.
    pub(crate) fn into_span(self) -> Result<Option<LogSpan>> {
        let (Some(base_offset), Some(end_offset), Some(max_timestamp), Some(epoch), Some(size)) = (
            self.base_offset,
            self.end_offset,
            self.max_timestamp,
            self.epoch,
            self.size,
        ) else {
            return Ok(None);
        };
        let size = to_unsigned("a size", size)?;
        let place = match self.key {
            Some(key) => SpanLocation::Segment {
                key,
                size_bytes: size,
            },
            None => SpanLocation::Wal {
                incarnation: Incarnation(self.incarnation.unwrap_or_default()),
                sequence: to_unsigned("a sequence", self.sequence.unwrap_or_default())?,
                position: to_unsigned("a position", self.start.unwrap_or_default())?,
                length: size,
            },
        };
        Ok(Some(LogSpan {
            base_offset,
            end_offset,
            max_timestamp,
            stored_at_ms: self.stored_at_ms.unwrap_or_default(),
            epoch,
            place,
        }))
    }
}
