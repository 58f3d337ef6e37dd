//! Reads records of a log from their objects: looks the objects up in the metadata store, and reads
//! them through the block cache.
//!
//! WAL ranges are stamped while they are copied out; segments are stamped already. Every batch's
//! CRC is verified before it is returned: damage in the store ends with STORAGE_CORRUPT, never with
//! wrong records.

use bytes::{Bytes, BytesMut};
use streamhouse_core::{
    Error, ErrorCode, PartitionUid,
    batch::{BatchError, BatchIter, verify_crc},
};
use streamhouse_metadata::{LogBounds, LogPosition, LogSpan, LogView, SpanLocation, keys};

use super::{
    ColdRead, LogReader, MAX_SPANS, SpanError, WalRun,
    errors::{describe_span, moving_error, shutting_down_error, span_error, unreadable_error},
};
use crate::{invariant::Invariant, segment::reader};

/// Bytes of a segment read at once: enough to fetch several blocks concurrently.
const SEGMENT_READ_BYTES: usize = 4 << 20;
/// Bytes of WAL objects read beyond what a reader asked for, if it asks for at least
/// [`CATCH_UP_MIN_BYTES`](reader::CATCH_UP_MIN_BYTES).
const WAL_READ_AHEAD_BYTES: u64 = 2 << 20;

impl LogReader {
    /// Reads about `max_bytes` from `offset` on, at least one batch if there is one.
    ///
    /// # Errors
    /// `UnknownTopicOrPartition` if the partition does not exist, `StorageCorrupt` if its records
    /// are damaged or missing, and errors of either store.
    pub async fn read_range(
        &self,
        uid: PartitionUid,
        offset: i64,
        max_bytes: usize,
    ) -> Result<ColdRead, Error> {
        let view = self.look_up_spans(uid, offset).await?;
        self.read_view(uid, &view, offset, max_bytes).await
    }

    /// Reads as [`read_range`](Self::read_range) does, from a view that starts at or before
    /// `offset`.
    ///
    /// # Errors
    /// As [`read_range`](Self::read_range).
    pub async fn read_view(
        &self,
        uid: PartitionUid,
        view: &LogView,
        offset: i64,
        max_bytes: usize,
    ) -> Result<ColdRead, Error> {
        let (span, error) = match self.read_spans(uid, view, offset, max_bytes).await? {
            Ok(read) => return Ok(read),
            Err(missing) => missing,
        };
        let error = self.confirm_missing(uid, &span, error).await?;
        // The records moved to another object while they were being read.
        tracing::debug!(partition = %uid, %error, "reading from where the records are now");
        let view = self.look_up_spans(uid, offset).await?;
        self.read_spans(uid, &view, offset, max_bytes)
            .await?
            .map_err(|_| moving_error())
    }

    async fn look_up_spans(&self, uid: PartitionUid, offset: i64) -> Result<LogView, Error> {
        let from = LogPosition::Offset(offset);
        Ok(self.metadata.read_log(uid, from, MAX_SPANS).await?)
    }

    /// Reads the spans of a view; the inner error is a span whose object is missing, if nothing was
    /// read before it.
    async fn read_spans(
        &self,
        uid: PartitionUid,
        view: &LogView,
        offset: i64,
        max_bytes: usize,
    ) -> Result<Result<ColdRead, (LogSpan, Error)>, Error> {
        let bounds = view.bounds;
        let mut out = BytesMut::new();
        let mut next_offset = offset;
        if offset >= bounds.log_start && offset < bounds.high_watermark {
            let _turn = self.turns.acquire().await.map_err(|_| shutting_down_error())?;
            // Reserved up front, since growth by doubling would hold up to twice the response.
            let expected: u64 = view.spans.iter().map(|span| stored_bytes(&span.place)).sum();
            out.reserve(usize::try_from(expected).unwrap_or(usize::MAX).min(max_bytes));
            self.read_ahead(view, max_bytes);
            for span in &view.spans {
                if out.len() >= max_bytes {
                    break;
                }
                self.check_committed(uid, span, &bounds)?;
                match self.read_span(uid, span, offset, max_bytes, &mut out).await {
                    Ok((next, whole)) => {
                        next_offset = next_offset.max(next);
                        if !whole {
                            break;
                        }
                    }
                    // What was read so far is valid. The next read begins with the failing span,
                    // and returns its error.
                    Err(_) if !out.is_empty() => {
                        let read = BatchIter::new(&out).map_while(Result::ok).last();
                        next_offset = read.map_or(next_offset, |(header, _)| header.next_offset());
                        break;
                    }
                    Err(SpanError::Missing(error)) => return Ok(Err((span.clone(), error))),
                    Err(SpanError::Failed(error)) => return Err(error),
                }
            }
        }
        Ok(Ok(ColdRead {
            records: out.freeze(),
            next_offset,
            bounds,
        }))
    }

    /// Starts to read the WAL objects of a view, which has one range in each of many: as much as is
    /// about to be returned, and what a reader that catches up asks for next.
    fn read_ahead(&self, view: &LogView, max_bytes: usize) {
        let ahead = match max_bytes {
            reader::CATCH_UP_MIN_BYTES.. => WAL_READ_AHEAD_BYTES,
            _ => 0,
        };
        let mut left = max_bytes as u64 + ahead;
        for span in &view.spans {
            let SpanLocation::Wal {
                incarnation,
                sequence,
                position,
                length,
            } = span.place
            else {
                // Segments are read ahead block by block.
                return;
            };
            let key = keys::wal_key(incarnation, sequence);
            self.blocks
                .prefetch(&key, None, position..position + length.min(left));
            left = left.saturating_sub(length);
            if left == 0 {
                return;
            }
        }
    }

    /// Fails if a span ends beyond the high watermark of the same view: its records are not
    /// committed (INV-F1).
    fn check_committed(&self, uid: PartitionUid, span: &LogSpan, bounds: &LogBounds) -> Result<(), Error> {
        if span.end_offset > bounds.high_watermark {
            let error = format!("they end beyond the high watermark {}", bounds.high_watermark);
            return Err(self.corrupt_error(uid, span, &error));
        }
        Ok(())
    }

    /// Appends the batches of one span. Returns the offset after the last of them, and whether all
    /// of them fitted.
    async fn read_span(
        &self,
        uid: PartitionUid,
        span: &LogSpan,
        from: i64,
        max_bytes: usize,
        out: &mut BytesMut,
    ) -> Result<(i64, bool), SpanError> {
        let damaged = |error: &BatchError| SpanError::Failed(self.corrupt_error(uid, span, error));
        let closing = |_| SpanError::Failed(shutting_down_error());
        match &span.place {
            SpanLocation::Wal { length, .. } => {
                // Its blocks, and their concatenation.
                let twice = usize::try_from(*length).unwrap_or(usize::MAX).saturating_mul(2);
                let _memory = self.memory.acquire(twice).await.map_err(closing)?;
                let run = self.wal_run(uid, span).await?;
                run.append_stamped(from, max_bytes, out)
                    .map_err(|error| damaged(&error))
            }
            SpanLocation::Segment { key, size_bytes } => {
                let (mut next, mut full) = (from.max(span.base_offset), false);
                while next < span.end_offset && !full && (out.is_empty() || out.len() < max_bytes) {
                    let before = next;
                    let room = max_bytes.saturating_sub(out.len()).clamp(1, SEGMENT_READ_BYTES);
                    let located = reader::locate_blocks(&self.blocks, key, *size_bytes, next, room).await;
                    let Some(located) = located.map_err(|error| self.segment_error(uid, span, error))? else {
                        break;
                    };
                    let memory = self.memory.acquire(located.bytes());
                    let _memory = memory.await.map_err(closing)?;
                    let read = reader::read_blocks(&self.blocks, key, *size_bytes, &located).await;
                    // Damage is limited to a block of the segment.
                    let block_span = LogSpan {
                        base_offset: located.first.start,
                        end_offset: located.first.end,
                        ..span.clone()
                    };
                    let read = read.map_err(|error| self.segment_error(uid, &block_span, error))?;
                    for block in read {
                        (next, full) = copy_batches(&block, next, max_bytes, out).map_err(|error| {
                            SpanError::Failed(self.corrupt_error(uid, &block_span, &error))
                        })?;
                        if full {
                            break;
                        }
                    }
                    if next == before {
                        break;
                    }
                }
                Ok((next, next >= span.end_offset))
            }
        }
    }

    /// Returns the verified batches of a WAL range.
    ///
    /// # Errors
    /// [`SpanError::Missing`] if the object does not exist, otherwise [`SpanError::Failed`].
    pub async fn wal_run(&self, uid: PartitionUid, span: &LogSpan) -> Result<WalRun, SpanError> {
        let SpanLocation::Wal {
            incarnation,
            sequence,
            position,
            length,
        } = span.place
        else {
            let error = Error::new(ErrorCode::Unknown, "the span is not a WAL range");
            return Err(SpanError::Failed(error));
        };
        let damaged = |error: &dyn std::fmt::Display| SpanError::Failed(self.corrupt_error(uid, span, error));
        let key = keys::wal_key(incarnation, sequence);
        let range = position..position + length;
        let bytes = self.blocks.read(&key, None, range).await;
        let bytes = bytes.map_err(|error| span_error(&error))?;
        if bytes.len() as u64 != length {
            return Err(damaged(&format!(
                "object {key} is shorter than its metadata says"
            )));
        }
        let mut records = 0;
        for batch in BatchIter::new(&bytes) {
            let (header, batch) = batch.map_err(|error| damaged(&error))?;
            verify_crc(batch).map_err(|error| damaged(&error))?;
            records += i64::from(header.last_offset_delta) + 1;
        }
        if records != span.end_offset - span.base_offset {
            return Err(damaged(&format!(
                "object {key} does not hold the records that its metadata names"
            )));
        }
        Ok(WalRun::new(span, bytes))
    }

    /// Reads the row of a missing object again. Fails if it still references the object, which was
    /// deleted although it is referenced (INV-G1). Otherwise returns `error`: the records have
    /// moved.
    ///
    /// # Errors
    /// As described, and any error of the metadata store.
    pub async fn confirm_missing(
        &self,
        uid: PartitionUid,
        span: &LogSpan,
        error: Error,
    ) -> Result<Error, Error> {
        let from = LogPosition::Offset(span.base_offset);
        let view = self.metadata.read_log(uid, from, 1).await?;
        if view.spans.iter().any(|now| now.place == span.place) {
            self.metrics.record_violation(Invariant::G1);
            tracing::error!(partition = %uid, place = ?span.place, %error, "an object that the metadata names is missing");
            let message = format!("{} are missing: {}", describe_span(span), error.message());
            return Err(Error::new(error.code(), message).with_next_offset(span.end_offset));
        }
        Ok(error)
    }

    pub(crate) fn segment_error(
        &self,
        uid: PartitionUid,
        span: &LogSpan,
        error: reader::SegmentReadError,
    ) -> SpanError {
        match error {
            reader::SegmentReadError::Store(error) => span_error(&error),
            reader::SegmentReadError::Segment(error) => {
                SpanError::Failed(self.corrupt_error(uid, span, &error))
            }
        }
    }

    /// Returns the error for bytes that differ from what was committed (INV-F1); they are not
    /// returned to clients.
    pub(crate) fn corrupt_error(
        &self,
        uid: PartitionUid,
        span: &LogSpan,
        error: &dyn std::fmt::Display,
    ) -> Error {
        self.metrics.record_violation(Invariant::F1);
        unreadable_error(uid, span, error)
    }
}

/// Copies whole batches of a segment block to `out`, beginning with the one that holds `from`,
/// while `out` stays within `max_bytes`; the first batch whatever its size. Returns the offset
/// after the last one, and whether `out` is full.
fn copy_batches(
    block: &Bytes,
    from: i64,
    max_bytes: usize,
    out: &mut BytesMut,
) -> Result<(i64, bool), BatchError> {
    let mut next = from;
    for batch in BatchIter::new(block) {
        let (header, bytes) = batch?;
        if header.next_offset() > next {
            if !out.is_empty() && out.len() + bytes.len() > max_bytes {
                return Ok((next, true));
            }
            verify_crc(bytes)?;
            out.extend_from_slice(bytes);
            next = header.next_offset();
        }
    }
    Ok((next, false))
}

/// Returns the stored size of a span in bytes.
fn stored_bytes(place: &SpanLocation) -> u64 {
    match place {
        SpanLocation::Wal { length, .. } => *length,
        SpanLocation::Segment { size_bytes, .. } => *size_bytes,
    }
}
