//! One page of a partition's records: read like consumers read them, within the same budgets,
//! decompressed within a bound, and rendered. Unreadable batches are reported with their offsets
//! and error code.

use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use streamhouse_core::{
    Error, ErrorCode,
    batch::{BatchError, BatchHeader, Batches, HeadersView, RecordView, Records},
    protocol::v1,
};
use streamhouse_metadata::PartitionRecord;

use super::{
    Console,
    answer::{Answer, asked},
    field::Field,
};
use crate::{fetch, node::Node, topics::reached};

/// Records of one page: the default and the maximum.
const RECORDS: (usize, usize) = (20, 100);
/// Maximum number of stored bytes read for a page. Batches are read whole, so a single larger one
/// is read as well.
const READ: usize = 1 << 20;
/// Maximum number of bytes that the batches of a page may decompress to.
const UNPACKED: usize = 8 << 20;
/// Maximum number of bytes of contents in one response.
const SHOWN: usize = 1 << 20;
/// Maximum number of headers shown of one record.
const HEADERS: usize = 32;
/// Maximum number of reads for a page: more than one is needed only if a read returns less than
/// asked for.
const TURNS: usize = 8;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
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
pub(super) struct Page {
    topic: String,
    partition: i32,
    log_start_offset: i64,
    high_watermark: i64,
    /// First offset that was asked for.
    from: i64,
    /// First offset of the next page; the high watermark at the end.
    next: i64,
    records: Vec<Shown>,
    /// Batches that could not be shown.
    unreadable: Vec<Unreadable>,
    /// Why there are fewer records than asked for; `None` if there are not.
    stopped: Option<Stopped>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Stopped {
    /// The end of the partition is reached.
    End,
    /// A byte limit of the page is reached.
    Bytes,
    /// The following bytes cannot be read.
    Damage,
}

#[derive(Debug, Serialize)]
struct Shown {
    offset: i64,
    timestamp_ms: i64,
    key: Option<Field>,
    value: Option<Field>,
    headers: Vec<(Field, Option<Field>)>,
    /// May be more than are shown.
    headers_total: usize,
}

#[derive(Debug, Serialize)]
struct Unreadable {
    from: i64,
    /// The offset after the last one of the batch.
    to: i64,
    code: &'static str,
    message: String,
}

pub(super) async fn records(State(console): State<Arc<Console>>, uri: Uri) -> Answer<Page> {
    let wanted: Asked = asked(&uri)?;
    let limit = wanted.limit.unwrap_or(RECORDS.0).clamp(1, RECORDS.1);
    let _turn = console.reads.acquire().await.map_err(|_| closing())?;
    let node = &console.node;
    let record = find(node, &wanted).await?;
    let (mut log_start, mut high_watermark) = bounds(node, &record).await?;
    let from = match (wanted.offset, wanted.timestamp) {
        (Some(_), Some(_)) => return Err(invalid("give either an offset or a timestamp, not both").into()),
        (Some(offset), None) => offset,
        (None, Some(time)) => fetch::cold::find_timestamp(node, record.uid, time).await?.0,
        (None, None) => high_watermark
            .saturating_sub_unsigned(limit as u64)
            .max(log_start),
    };
    if from > high_watermark {
        // A leader's cached high watermark may lag behind the last commit.
        let stored = fetch::stored_bounds(node, record.uid).await?;
        (log_start, high_watermark) = (stored.log_start, stored.high_watermark);
    }
    if !(log_start..=high_watermark).contains(&from) {
        let message = format!(
            "offset {from} is out of range; the partition holds offsets {log_start} to {high_watermark}"
        );
        return Err(Error::new(ErrorCode::OffsetOutOfRange, message).into());
    }
    let page = Page {
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
    let mut page = fill(node, page, limit).await?;
    if page.stopped.is_none() && page.records.len() < limit {
        let end = page.next >= page.high_watermark;
        page.stopped = Some(if end { Stopped::End } else { Stopped::Bytes });
    }
    Ok(Json(page))
}

async fn find(node: &Node, wanted: &Asked) -> Result<PartitionRecord, Error> {
    let view = reached(node).await?;
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
async fn bounds(node: &Node, record: &PartitionRecord) -> Result<(i64, i64), Error> {
    if let Some(held) = node.life().and_then(|life| life.held.get(record.uid)) {
        return Ok((held.log_start(), held.high_watermark()));
    }
    let bounds = fetch::stored_bounds(node, record.uid).await?;
    Ok((bounds.log_start, bounds.high_watermark))
}

/// Reads and renders batches until the page is full.
async fn fill(node: &Node, mut page: Page, limit: usize) -> Result<Page, Error> {
    let mut budget = Budget {
        limit,
        read: READ,
        unpacked: UNPACKED,
        shown: SHOWN,
    };
    for _ in 0..TURNS {
        if page.next >= page.high_watermark {
            break;
        }
        let request = request(&page, u32::try_from(budget.read).unwrap_or(u32::MAX));
        let (answer, memory) = fetch::fetch(node, request).await?;
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
            let full = page.add(&mut budget, &read.records);
            drop(memory);
            (page, budget, full)
        });
        let full;
        (page, budget, full) = work.await.map_err(|_| closing())?;
        if full {
            break;
        }
    }
    Ok(page)
}

fn request(page: &Page, max_bytes: u32) -> v1::FetchRequest {
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
struct Budget {
    limit: usize,
    read: usize,
    unpacked: usize,
    shown: usize,
}

impl Page {
    /// Adds the records that fit; returns whether the page is full.
    fn add(&mut self, budget: &mut Budget, batches: &Bytes) -> bool {
        for batch in Batches::of(batches) {
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

    fn add_batch(&mut self, budget: &mut Budget, header: &BatchHeader, bytes: Bytes) -> bool {
        budget.read = budget.read.saturating_sub(bytes.len());
        let records = match Records::decode(bytes, budget.unpacked) {
            // If nothing is decompressed yet, the batch would not fit into any page; else it begins
            // the next one.
            Err(BatchError::Bomb(left)) if left < UNPACKED => return true,
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
            let shown = Shown::new(&view);
            budget.limit -= 1;
            budget.shown = budget.shown.saturating_sub(shown.cost());
            self.next = view.offset + 1;
            self.records.push(shown);
        }
        self.next = self.next.max(header.next_offset());
        budget.limit == 0
    }

    /// Reports the records below `to` as unreadable and continues there.
    fn skip_to(&mut self, to: i64, code: ErrorCode, message: &str) {
        self.unreadable.push(Unreadable {
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
        self.stopped = Some(Stopped::Damage);
    }
}

impl Shown {
    fn new(view: &RecordView<'_>) -> Self {
        Self {
            offset: view.offset,
            timestamp_ms: view.timestamp,
            key: view.key.map(Field::new),
            value: view.value.map(Field::new),
            headers: headers(&view.headers),
            headers_total: view.headers.len(),
        }
    }

    fn cost(&self) -> usize {
        let field = |field: &Option<Field>| field.as_ref().map_or(0, Field::cost);
        let headers = self.headers.iter().map(|(key, value)| key.cost() + field(value));
        field(&self.key) + field(&self.value) + headers.sum::<usize>()
    }
}

fn headers(view: &HeadersView<'_>) -> Vec<(Field, Option<Field>)> {
    let shown = view.iter().take(HEADERS);
    shown
        .map(|(key, value)| (Field::new(key), value.map(Field::new)))
        .collect()
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorCode::InvalidRequest, message)
}

fn closing() -> Error {
    Error::new(
        ErrorCode::ShuttingDown,
        "this agent is shutting down; use another one",
    )
}

#[cfg(test)]
mod tests;
