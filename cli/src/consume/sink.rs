//! [`RecordSink`]: formats records into a buffer and writes it to the output.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use streamhouse_client::{ConsumerRecord, TopicPartition};

use super::format::{OutputTarget, PrintableRecord, RecordFormat};

/// Bytes to format before writing.
const BUFFER_BYTES: usize = 64 << 10;

/// Formats and writes records.
pub(super) struct RecordSink<W> {
    out: W,
    format: RecordFormat,
    null: Vec<u8>,
    on_screen: bool,
    buffer: Vec<u8>,
    bar: ProgressBar,
}

impl<W: Write> RecordSink<W> {
    /// Creates a sink; `on_screen` says that a terminal reads it.
    pub(super) fn new(out: W, format: RecordFormat, null: Vec<u8>, on_screen: bool) -> Self {
        Self {
            out,
            format,
            null,
            on_screen,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            bar: spinner(),
        }
    }

    /// Writes all records and flushes.
    pub(super) fn write_all<'a>(
        &mut self,
        records: impl Iterator<Item = ConsumerRecord<'a>>,
    ) -> io::Result<()> {
        self.buffer.clear();
        let mut count = 0;
        for record in records {
            let headers: Vec<_> = if self.format.shows_headers() {
                record.headers().collect()
            } else {
                Vec::new()
            };
            let view = PrintableRecord {
                topic: record.topic,
                partition: record.partition,
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: &headers,
            };
            let target = if self.on_screen {
                OutputTarget::Screen
            } else {
                OutputTarget::Bytes
            };
            self.format.write(&view, &self.null, target, &mut self.buffer);
            count += 1;
            if self.buffer.len() >= BUFFER_BYTES {
                self.out.write_all(&self.buffer)?;
                self.buffer.clear();
            }
        }
        self.out.write_all(&self.buffer)?;
        self.out.flush()?;
        self.bar.inc(count);
        Ok(())
    }
}

impl<W> Drop for RecordSink<W> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Creates a record counter on stderr, if stderr is a terminal and stdout is not.
fn spinner() -> ProgressBar {
    if io::stdout().is_terminal() || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(200));
    match ProgressStyle::with_template("{spinner} {human_pos} records  {per_sec}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Returns the first offset of each partition among the records.
pub(super) fn first_offsets<'a>(
    records: impl Iterator<Item = ConsumerRecord<'a>>,
) -> BTreeMap<TopicPartition, i64> {
    let mut first: BTreeMap<(&str, i32), i64> = BTreeMap::new();
    for record in records {
        first
            .entry((record.topic, record.partition))
            .or_insert(record.offset);
    }
    first
        .into_iter()
        .map(|((topic, partition), offset)| (TopicPartition::new(topic, partition), offset))
        .collect()
}
