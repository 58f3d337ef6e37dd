//! A partition's log with Kafka's rules for idempotent producers.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use streamhouse_core::{
    Error, ErrorCode,
    batch::{BatchHeader, BatchIter, BatchLimits, DecodedRecords, stamp, validate},
};

#[derive(Debug, Default)]
pub struct FakeLog {
    pub batches: Vec<Bytes>,
    pub end: i64,
    pub start: i64,
    producers: HashMap<i64, LogProducerState>,
}

#[derive(Debug, Default)]
struct LogProducerState {
    epoch: i16,
    next_sequence: i32,
    /// First sequence, number of records and offset of the last batches.
    last: VecDeque<(i32, i32, i64)>,
}

impl FakeLog {
    /// Appends one or more batches of at most `max_batch_bytes` each. Returns the offset of the
    /// first.
    pub fn append(&mut self, records: &Bytes, max_batch_bytes: usize) -> Result<i64, Error> {
        let mut first = None;
        for batch in BatchIter::owned(records) {
            let (_, batch) = batch.map_err(|error| Error::new(error.code(), error.to_string()))?;
            let offset = self.append_batch(&batch, max_batch_bytes)?;
            first.get_or_insert(offset);
        }
        first.ok_or_else(|| Error::new(ErrorCode::InvalidRequest, "no batch"))
    }

    fn append_batch(&mut self, batch: &Bytes, max_batch_bytes: usize) -> Result<i64, Error> {
        let header = validate(batch, &BatchLimits { max_batch_bytes })
            .map_err(|error| Error::new(error.code(), error.to_string()))?;
        if header.producer_id >= 0
            && let Some(offset) = self.check_sequence(&header)?
        {
            return Ok(offset);
        }
        let mut bytes = batch.to_vec();
        stamp(&mut bytes, self.end, 1);
        self.batches.push(bytes.into());
        let offset = self.end;
        self.end += i64::from(header.record_count);
        Ok(offset)
    }

    /// Returns the offset of a duplicate, or an error if the sequence is not the next.
    fn check_sequence(&mut self, header: &BatchHeader) -> Result<Option<i64>, Error> {
        let known = self.producers.contains_key(&header.producer_id);
        let state = self.producers.entry(header.producer_id).or_default();
        if known && header.producer_epoch < state.epoch {
            return Err(Error::new(ErrorCode::InvalidProducerEpoch, "fenced"));
        }
        if header.producer_epoch > state.epoch {
            *state = LogProducerState {
                epoch: header.producer_epoch,
                ..LogProducerState::default()
            };
        }
        let same = |(first, count, _): &&(i32, i32, i64)| {
            *first == header.base_sequence && *count == header.record_count
        };
        if let Some((_, _, offset)) = state.last.iter().find(same) {
            return Ok(Some(*offset));
        }
        if header.base_sequence < state.next_sequence {
            return Err(Error::new(ErrorCode::DuplicateSequenceNumber, "too old"));
        }
        if header.base_sequence != state.next_sequence {
            let message = format!("{} where {} is next", header.base_sequence, state.next_sequence);
            return Err(Error::new(ErrorCode::OutOfOrderSequenceNumber, message));
        }
        state.next_sequence += header.record_count;
        state
            .last
            .push_back((header.base_sequence, header.record_count, self.end));
        if state.last.len() > 5 {
            state.last.pop_front();
        }
        Ok(None)
    }

    /// Appends a batch without validation.
    pub fn append_unchecked(&mut self, batch: &[u8], records: i64) {
        let mut bytes = batch.to_vec();
        stamp(&mut bytes, self.end, 1);
        self.batches.push(bytes.into());
        self.end += records;
    }

    /// Returns batches from an offset on that begin before `end`: up to `max_bytes`, but at least
    /// one.
    pub fn read(&self, offset: i64, end: i64, max_bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for batch in &self.batches {
            let header = BatchHeader::parse(batch).unwrap();
            if header.next_offset() <= offset {
                continue;
            }
            if header.base_offset >= end {
                break;
            }
            if !out.is_empty() && out.len() + batch.len() > max_bytes {
                break;
            }
            out.extend_from_slice(batch);
        }
        out
    }

    pub fn values(&self) -> Vec<String> {
        self.records().into_iter().map(|(_, _, value)| value).collect()
    }

    /// Returns offset, timestamp and value of each record.
    pub fn records(&self) -> Vec<(i64, i64, String)> {
        let mut all = Vec::new();
        for batch in &self.batches {
            for record in DecodedRecords::decode(batch.clone(), 64 << 20).unwrap() {
                let record = record.unwrap();
                let value = record.value.unwrap_or_default();
                all.push((
                    record.offset,
                    record.timestamp,
                    String::from_utf8_lossy(&value).into_owned(),
                ));
            }
        }
        all
    }
}
