//! One page of a partition's records: read like consumers read them, within the same budgets,
//! decompressed within a bound, and rendered. Unreadable batches are reported with their offsets
//! and error code.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::Uri};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use streamhouse_core::{
    Error, ErrorCode,
    batch::{BatchError, BatchHeader, BatchIter, DecodedRecords, HeadersView, RecordView},
    protocol::v1,
    security::AclOperation,
};
use streamhouse_metadata::PartitionEntry;

use super::{
    ConsoleDeps, ConsoleState,
    api::{ApiResult, parse_query},
    field::RenderedField,
};
use crate::{fetch, security::ClientAccess, topics::require_view};

/// Records of one page: the default and the maximum.
const RECORD_ROWS: (usize, usize) = (20, 100);
/// Maximum number of stored bytes read for a page. Batches are read whole, so a single larger one
/// is read as well.
const MAX_READ_BYTES: usize = 1 << 20;
/// Maximum number of bytes that the batches of a page may decompress to.
const MAX_UNPACKED_BYTES: usize = 8 << 20;
/// Maximum number of bytes of contents in one response.
const MAX_CONTENT_BYTES: usize = 1 << 20;
/// Maximum number of headers shown of one record.
const MAX_HEADERS_SHOWN: usize = 32;
/// Maximum number of reads for a page: more than one is needed only if a read returns less than
/// asked for.
const MAX_READS: usize = 8;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordsQuery {
    topic: String,
    partition: i32,
    /// First offset of the page.
    offset: Option<i64>,
    /// Or the time of the first record of the page, in milliseconds since 1970.
    timestamp: Option<i64>,
    /// Maximum number of records. Without an offset or a timestamp, the newest are shown.
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct RecordPage {
    topic: String,
    partition: i32,
    log_start_offset: i64,
    high_watermark: i64,
    /// First offset that was asked for.
    from: i64,
    /// First offset of the next page; the high watermark at the end.
    next: i64,
    records: Vec<RecordRow>,
    /// Batches that could not be shown.
    unreadable: Vec<UnreadableRange>,
    /// Why there are fewer records than asked for; `None` if there are not.
    stopped: Option<StopReason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum StopReason {
    /// The end of the partition is reached.
    End,
    /// A byte limit of the page is reached.
    Bytes,
    /// The following bytes cannot be read.
    Damage,
}

#[derive(Debug, Serialize)]
struct RecordRow {
    offset: i64,
    timestamp_ms: i64,
    key: Option<RenderedField>,
    value: Option<RenderedField>,
    headers: Vec<(RenderedField, Option<RenderedField>)>,
    /// May be more than are shown.
    headers_total: usize,
}

#[derive(Debug, Serialize)]
struct UnreadableRange {
    from: i64,
    /// The offset after the last one of the batch.
    to: i64,
    code: &'static str,
    message: String,
}

pub(super) async fn get_records(
    State(console): State<Arc<ConsoleState>>,
    Extension(access): Extension<ClientAccess>,
    uri: Uri,
) -> ApiResult<RecordPage> {
    let wanted: RecordsQuery = parse_query(&uri)?;
    access.check_topic(AclOperation::Read, &wanted.topic)?;
    let limit = wanted.limit.unwrap_or(RECORD_ROWS.0).clamp(1, RECORD_ROWS.1);
    let _turn = console.reads.acquire().await.map_err(|_| shutting_down())?;
    let deps = &console.deps;
    let record = find_partition(deps, &wanted).await?;
    let (mut log_start, mut high_watermark) = partition_bounds(deps, &record).await?;
    let from = match (wanted.offset, wanted.timestamp) {
        (Some(_), Some(_)) => {
            return Err(invalid_request("give either an offset or a timestamp, not both").into());
        }
        (Some(offset), None) => offset,
        (None, Some(time)) => fetch::find_timestamp(&deps.fetch, record.uid, time).await?.0,
        (None, None) => high_watermark
            .saturating_sub_unsigned(limit as u64)
            .max(log_start),
    };
    if from > high_watermark {
        // A leader's cached high watermark may lag behind the last commit.
        let stored = deps.fetch.log.read_bounds(record.uid).await?;
        (log_start, high_watermark) = (stored.log_start, stored.high_watermark);
    }
    if !(log_start..=high_watermark).contains(&from) {
        let message = format!(
            "offset {from} is out of range; the partition holds offsets {log_start} to {high_watermark}"
        );
        return Err(Error::new(ErrorCode::OffsetOutOfRange, message).into());
    }
    let page = RecordPage {
        topic: wanted.topic,
        partition: wanted.partition,
        log_start_offset: log_start,
        high_watermark,
        from,
        next: from,
        records: Vec::new(),
        unreadable: Vec::new(),
        stopped: None,
    };
    let mut page = fill_page(deps, page, limit).await?;
    if page.stopped.is_none() && page.records.len() < limit {
        let end = page.next >= page.high_watermark;
        page.stopped = Some(if end { StopReason::End } else { StopReason::Bytes });
    }
    Ok(Json(page))
}

async fn find_partition(deps: &ConsoleDeps, wanted: &RecordsQuery) -> Result<PartitionEntry, Error> {
    let view = require_view(&deps.directory).await?;
    let topic = view.topic(&wanted.topic).filter(|topic| !topic.record.internal);
    let found = topic.and_then(|topic| {
        topic
            .record
            .partitions
            .get(usize::try_from(wanted.partition).ok()?)
    });
    found.copied().ok_or_else(|| {
        let message = format!("partition {}-{} does not exist", wanted.topic, wanted.partition);
        Error::new(ErrorCode::UnknownTopicOrPartition, message)
    })
}

/// Returns the log start offset and the high watermark.
async fn partition_bounds(deps: &ConsoleDeps, record: &PartitionEntry) -> Result<(i64, i64), Error> {
    if let Some(held) = deps
        .session
        .get()
        .and_then(|life| life.partitions.get(record.uid))
    {
        return Ok((held.log_start(), held.high_watermark()));
    }
    let bounds = deps.fetch.log.read_bounds(record.uid).await?;
    Ok((bounds.log_start, bounds.high_watermark))
}

/// Reads and renders batches until the page is full.
async fn fill_page(deps: &ConsoleDeps, mut page: RecordPage, limit: usize) -> Result<RecordPage, Error> {
    let mut budget = PageBudget {
        limit,
        read: MAX_READ_BYTES,
        unpacked: MAX_UNPACKED_BYTES,
        shown: MAX_CONTENT_BYTES,
    };
    for _ in 0..MAX_READS {
        if page.next >= page.high_watermark {
            break;
        }
        let request = fetch_request(&page, u32::try_from(budget.read).unwrap_or(u32::MAX));
        let (answer, memory) = fetch::fetch(&deps.fetch, request).await?;
        let read = answer.partitions.into_iter().next().unwrap_or_default();
        if let Some(error) = read.error {
            let error = Error::from(error);
            // The records before the damage are worth showing.
            if page.records.is_empty() && page.unreadable.is_empty() {
                return Err(error);
            }
            page.stop_at(error.code(), error.message());
            break;
        }
        if read.records.is_empty() {
            break;
        }
        // Decompression must not block the runtime's threads.
        let work = tokio::task::spawn_blocking(move || {
            let full = page.add_batches(&mut budget, &read.records);
            drop(memory);
            (page, budget, full)
        });
        let full;
        (page, budget, full) = work.await.map_err(|_| shutting_down())?;
        if full {
            break;
        }
    }
    Ok(page)
}

fn fetch_request(page: &RecordPage, max_bytes: u32) -> v1::FetchRequest {
    v1::FetchRequest {
        partitions: vec![v1::PartitionFetch {
            topic: page.topic.clone(),
            partition: page.partition,
            offset: page.next,
            max_bytes,
            topic_id: String::new(),
        }],
        max_bytes,
        ..v1::FetchRequest::default()
    }
}

/// The remaining limits of a page.
#[derive(Debug, Clone, Copy)]
struct PageBudget {
    limit: usize,
    read: usize,
    unpacked: usize,
    shown: usize,
}

impl RecordPage {
    /// Adds the records that fit; returns whether the page is full.
    fn add_batches(&mut self, budget: &mut PageBudget, batches: &Bytes) -> bool {
        for batch in BatchIter::owned(batches) {
            let full = match batch {
                Ok((header, bytes)) => self.add_batch(budget, &header, bytes),
                Err(error) => {
                    self.stop_at(error.code(), &error.to_string());
                    true
                }
            };
            if full {
                return true;
            }
        }
        budget.read == 0
    }

    fn add_batch(&mut self, budget: &mut PageBudget, header: &BatchHeader, bytes: Bytes) -> bool {
        budget.read = budget.read.saturating_sub(bytes.len());
        let records = match DecodedRecords::decode(bytes, budget.unpacked) {
            // If nothing is decompressed yet, the batch would not fit into any page; else it begins
            // the next one.
            Err(BatchError::DecompressedTooLarge(left)) if left < MAX_UNPACKED_BYTES => return true,
            Err(error) => {
                self.skip_to(header.next_offset(), error.code(), &error.to_string());
                return false;
            }
            Ok(records) => records,
        };
        budget.unpacked = budget.unpacked.saturating_sub(records.decompressed_len());
        let mut views = records.views();
        views.skip_to(self.next);
        for view in views {
            if budget.limit == 0 || budget.shown == 0 {
                return true;
            }
            let view = match view {
                Ok(view) => view,
                Err(error) => {
                    self.skip_to(header.next_offset(), error.code(), &error.to_string());
                    break;
                }
            };
            let shown = RecordRow::new(&view);
            budget.limit -= 1;
            budget.shown = budget.shown.saturating_sub(shown.content_len());
            self.next = view.offset + 1;
            self.records.push(shown);
        }
        self.next = self.next.max(header.next_offset());
        budget.limit == 0
    }

    /// Reports the records below `to` as unreadable and continues there.
    fn skip_to(&mut self, to: i64, code: ErrorCode, message: &str) {
        self.unreadable.push(UnreadableRange {
            from: self.next,
            to,
            code: code.name(),
            message: message.to_owned(),
        });
        self.next = to.max(self.next);
    }

    /// Reports that nothing can be read from the current offset on.
    fn stop_at(&mut self, code: ErrorCode, message: &str) {
        self.skip_to(self.next, code, message);
        self.stopped = Some(StopReason::Damage);
    }
}

impl RecordRow {
    fn new(view: &RecordView<'_>) -> Self {
        Self {
            offset: view.offset,
            timestamp_ms: view.timestamp,
            key: view.key.map(RenderedField::new),
            value: view.value.map(RenderedField::new),
            headers: render_headers(&view.headers),
            headers_total: view.headers.len(),
        }
    }

    fn content_len(&self) -> usize {
        let field = |field: &Option<RenderedField>| field.as_ref().map_or(0, RenderedField::shown_len);
        let headers = self
            .headers
            .iter()
            .map(|(key, value)| key.shown_len() + field(value));
        field(&self.key) + field(&self.value) + headers.sum::<usize>()
    }
}

fn render_headers(view: &HeadersView<'_>) -> Vec<(RenderedField, Option<RenderedField>)> {
    let shown = view.iter().take(MAX_HEADERS_SHOWN);
    shown
        .map(|(key, value)| (RenderedField::new(key), value.map(RenderedField::new)))
        .collect()
}

fn invalid_request(message: &'static str) -> Error {
    Error::new(ErrorCode::InvalidRequest, message)
}

fn shutting_down() -> Error {
    Error::new(
        ErrorCode::ShuttingDown,
        "this agent is shutting down; use another one",
    )
}

#[cfg(test)]
mod tests;
