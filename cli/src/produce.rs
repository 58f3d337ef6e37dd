//! `streamhouse produce`: produces one record per line of a file or standard input. The input is
//! streamed: memory holds a few chunks, the producer's buffer, and a small entry for each record in
//! flight.

mod input;
mod line_ranges;
mod summary;

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, IsTerminal, Read},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use streamhouse_client::{Delivery, ErrorCode, Producer, RecordMetadata, RecordRef, TopicHandle};
use tokio::{sync::mpsc, time::Instant};

use self::{
    input::{LineEndCleaner, LineParser, LineSplitter},
    summary::ProduceSummary,
};
use crate::{
    codec::CodecArg,
    command_error::{CommandError, CommandResult},
    context::CommandContext,
    output::OutputFormat,
    signals::stop_signal,
    values::{self, KeySeparator},
    warnings::warn,
};

/// Bytes read from the input at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Maximum number of records in flight, whatever the producer's buffer allows.
const MAX_PENDING: usize = 1 << 20;

const EXAMPLES: &str = "\
Every line is one record. Only its line feed is removed, so values may hold any other byte; with --crlf a carriage return
before it is removed, too. After a failure, stderr (with -o json, the summary) lists the lines that were not acknowledged.

Examples:
  streamhouse produce orders --file orders.txt
  tail -f app.log | streamhouse produce logs --header host=web-1
  printf 'k1\\tv1\\nk2\\tNULL\\n' | streamhouse produce orders --key-separator '\\t' --null-value NULL";

/// Arguments of `produce`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ProduceArgs {
    /// The topic name
    topic: String,
    /// Read from this file instead of standard input
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Remove Windows line endings (CR LF), and a byte order mark at the start of the input
    #[arg(long)]
    crlf: bool,
    /// Separator of key and value (escapes: \t \n \xHH); a line without it has no key
    #[arg(short, long, value_name = "SEP", value_parser = values::parse_separator)]
    key_separator: Option<KeySeparator>,
    /// Treat a key or value equal to STRING as null
    #[arg(long, value_name = "STRING")]
    null_value: Option<String>,
    /// Header of every record; repeatable
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = values::parse_key_value)]
    headers: Vec<(String, String)>,
    /// Produce to this partition, regardless of the key
    #[arg(short, long, value_parser = values::parse_partition)]
    partition: Option<i32>,
    /// Batch compression codec
    #[arg(long, value_enum, default_value = "lz4")]
    compression: CodecArg,
    /// Acknowledgement mode; "all" is the only one: an acknowledged record is always stored and
    /// committed
    #[arg(long, value_parser = ["all"], default_value = "all")]
    acks: String,
    /// Batch size in bytes, uncompressed
    #[arg(long, value_name = "BYTES", value_parser = values::parse_bytes)]
    batch_size: Option<usize>,
    /// Largest request, and so the largest compressed record; agents and topics have limits of
    /// their own
    #[arg(long, value_name = "BYTES", value_parser = values::parse_bytes)]
    max_request_size: Option<usize>,
    /// How long a batch waits for more records
    #[arg(long, value_name = "DURATION", value_parser = values::parse_duration)]
    linger: Option<Duration>,
    /// Maximum number of records per second
    #[arg(long, value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Time-out of delivering a record, including all retries
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = values::parse_positive_duration)]
    delivery_timeout: Duration,
    /// Print the partition and offset of each record, in input order
    #[arg(long)]
    print_offsets: bool,
}

/// Runs `produce`.
pub(crate) async fn run(context: &CommandContext, args: ProduceArgs) -> CommandResult {
    let source = InputSource::open(&args)?;
    let producer = build_producer(context, &args).await?;
    let topic = producer.topic(&args.topic).await?;
    let bar = progress_bar(context.format, args.print_offsets, source.size);
    let mut sender = LineSender {
        rules: LineParser {
            key_separator: args.key_separator.clone().map(|separator| separator.0),
            null_value: args.null_value.clone().map(String::into_bytes),
        },
        tally: ProduceSummary::new(context.format, args.print_offsets),
        pending: VecDeque::new(),
        pace: args.rate.map(|rate| SendPace {
            start: Instant::now(),
            rate: rate as f64,
        }),
        lines: LineSplitter::default(),
        ends: LineEndCleaner::new(args.crlf),
        producer,
        topic,
        args,
    };
    let started = Instant::now();
    let read = sender.send_all(source, &bar).await;
    let settled = sender.settle_all().await;
    bar.finish_and_clear();
    if read.is_err() {
        sender.tally.mark_input_unfinished();
    }
    sender.tally.print_summary(started.elapsed())?;
    read?;
    settled?;
    sender.tally.result()
}

async fn build_producer(context: &CommandContext, args: &ProduceArgs) -> CommandResult<Producer> {
    let mut builder = context
        .client
        .producer()
        .compression(args.compression.into())
        .delivery_timeout(args.delivery_timeout)
        .max_block(context.client.config().api_timeout.max(args.delivery_timeout));
    if let Some(bytes) = args.batch_size {
        builder = builder.batch_size(bytes);
    }
    if let Some(bytes) = args.max_request_size {
        builder = builder.max_request_size(bytes);
    }
    if let Some(linger) = args.linger {
        builder = builder.linger(linger);
    }
    Ok(builder.build().await?)
}

/// Creates a bar for files and a spinner for streams; hidden unless stderr is a terminal.
fn progress_bar(format: OutputFormat, prints: bool, size: Option<u64>) -> ProgressBar {
    if format == OutputFormat::Json || prints || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match size {
        Some(size) => (
            ProgressBar::new(size),
            "{bar:30} {percent:>3}%  {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {decimal_bytes}  {decimal_bytes_per_sec}",
        ),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The input.
struct InputSource {
    reader: Box<dyn Read + Send>,
    size: Option<u64>,
}

impl InputSource {
    fn open(args: &ProduceArgs) -> CommandResult<Self> {
        let Some(path) = &args.file else {
            return Ok(Self {
                reader: Box::new(io::stdin()),
                size: None,
            });
        };
        let open = || -> io::Result<Self> {
            let file = File::open(path)?;
            let meta = file.metadata()?;
            if meta.is_dir() {
                return Err(io::Error::other("it is a directory"));
            }
            Ok(Self {
                reader: Box::new(file),
                size: meta.is_file().then_some(meta.len()),
            })
        };
        open().map_err(|error| CommandError::failed(format!("cannot read {}: {error}", path.display())))
    }

    /// Reads chunks on a thread of its own, at most a few ahead of the consumer.
    fn spawn_reader(self) -> mpsc::Receiver<io::Result<Bytes>> {
        let (chunks, receiver) = mpsc::channel(8);
        let mut reader = self.reader;
        tokio::task::spawn_blocking(move || {
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let read = match reader.read(&mut chunk) {
                    Ok(0) => return,
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        // The receiver may be gone, in which case the error is irrelevant.
                        let _ = chunks.blocking_send(Err(error));
                        return;
                    }
                };
                chunk.truncate(read);
                if read < CHUNK_BYTES / 4 {
                    chunk.shrink_to_fit();
                }
                if chunks.blocking_send(Ok(chunk.into())).is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

/// A constant rate: record n is due n / rate after the start.
#[derive(Debug, Clone, Copy)]
struct SendPace {
    start: Instant,
    rate: f64,
}

impl SendPace {
    fn due_at(&self, record: u64) -> Instant {
        self.start + Duration::from_secs_f64(record as f64 / self.rate)
    }
}

struct LineSender {
    args: ProduceArgs,
    producer: Producer,
    topic: TopicHandle,
    rules: LineParser,
    lines: LineSplitter,
    ends: LineEndCleaner,
    tally: ProduceSummary,
    pace: Option<SendPace>,
    /// Deliveries in input order, each with its line number.
    pending: VecDeque<(u64, Delivery)>,
}

impl LineSender {
    /// Reads, splits and sends until the input ends, a signal arrives, or an error makes further
    /// sending pointless.
    async fn send_all(&mut self, source: InputSource, bar: &ProgressBar) -> CommandResult {
        let stop = stop_signal();
        let mut chunks = source.spawn_reader();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    let read = self.tally.sent;
                    return Err(CommandError::failed(format!("interrupted; only the first {read} records were sent")));
                }
                (line, settled) = next_settled(&mut self.pending), if !self.pending.is_empty() => {
                    self.pending.pop_front();
                    self.record_outcome(line, settled)?;
                    // Flush only when no further result is ready: interactive users see each offset
                    // at once, and bulk results are written together.
                    if self.first_settled().is_none() {
                        self.tally.flush()?;
                    }
                }
                chunk = chunks.recv() => {
                    let Some(chunk) = chunk else { break };
                    let chunk = chunk.map_err(|error| CommandError::failed(format!("cannot read the input: {error}")))?;
                    bar.inc(chunk.len() as u64);
                    self.lines.feed(chunk);
                    while let Some(line) = self.lines.next_line().map_err(|e| CommandError::failed(e.to_string()))? {
                        self.send_line(&line).await?;
                        if stop.is_cancelled() {
                            break;
                        }
                    }
                }
            }
        }
        match self.lines.finish() {
            Some(last) => self.send_line(&last).await,
            None => Ok(()),
        }
    }

    /// Returns the result of the oldest record in flight, if it is known.
    fn first_settled(&self) -> Option<(u64, streamhouse_client::Result<RecordMetadata>)> {
        let (line, delivery) = self.pending.front()?;
        Some((*line, delivery.try_result()?))
    }

    async fn send_line(&mut self, line: &Bytes) -> CommandResult {
        self.make_room().await?;
        if let Some(pace) = self.pace {
            let due = pace.due_at(self.tally.sent);
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
        }
        let (line, warning) = self.ends.clean(line);
        if let Some(warning) = warning {
            warn(self.tally.format(), &warning);
        }
        let (key, value) = self.rules.split(&line);
        let headers: Vec<(&str, Option<&[u8]>)> = self
            .args
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), Some(value.as_bytes())))
            .collect();
        let mut record = RecordRef::default()
            .with_key(key.as_deref())
            .with_value(value.as_deref())
            .with_headers(&headers);
        record.partition = self.args.partition;
        self.tally
            .count_sent(key.as_ref().map_or(0, Bytes::len) + value.as_ref().map_or(0, Bytes::len));
        let number = self.tally.sent;
        match self.producer.send_ref(&self.topic, record).await {
            Ok(delivery) => {
                self.pending.push_back((number, delivery));
                Ok(())
            }
            Err(error) => self.record_outcome(number, Err(error)),
        }
    }

    /// Takes known results, and waits while too many records are in flight.
    async fn make_room(&mut self) -> CommandResult {
        let before = self.pending.len();
        while let Some((line, settled)) = self.first_settled() {
            self.pending.pop_front();
            self.record_outcome(line, settled)?;
        }
        if self.pending.len() < before {
            self.tally.flush()?;
        }
        while self.pending.len() >= MAX_PENDING {
            let (line, settled) = next_settled(&mut self.pending).await;
            self.pending.pop_front();
            self.record_outcome(line, settled)?;
        }
        Ok(())
    }

    /// Waits for all records in flight.
    async fn settle_all(&mut self) -> CommandResult {
        let flushed = self.producer.flush().await;
        while let Some((line, delivery)) = self.pending.pop_front() {
            let settled = delivery.await;
            // The summary keeps the first failure; the others are counted all the same.
            if let Err(CommandError::BrokenPipe) = self.record_outcome(line, settled) {
                return Err(CommandError::BrokenPipe);
            }
        }
        self.producer.close(self.args.delivery_timeout).await?;
        Ok(flushed?)
    }

    /// Counts the result of one record. Returns an error if the following records would fail in the
    /// same way.
    fn record_outcome(
        &mut self,
        line: u64,
        settled: streamhouse_client::Result<RecordMetadata>,
    ) -> CommandResult {
        match settled {
            Ok(stored) => self.tally.count_stored(&stored),
            Err(error) => {
                let alone = is_about_one_record(error.code());
                let failure = CommandError::from(error).with_context("a record was not sent");
                self.tally.count_failed(line, failure.clone());
                if alone { Ok(()) } else { Err(failure) }
            }
        }
    }
}

/// Waits for the result of the oldest record in flight.
async fn next_settled(
    pending: &mut VecDeque<(u64, Delivery)>,
) -> (u64, streamhouse_client::Result<RecordMetadata>) {
    match pending.front_mut() {
        Some((line, delivery)) => (*line, delivery.await),
        None => std::future::pending().await,
    }
}

/// Returns whether the error concerns only the record, so that others may succeed.
fn is_about_one_record(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::MessageTooLarge | ErrorCode::InvalidRecord | ErrorCode::InvalidTimestamp
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_steady() {
        let start = Instant::now();
        let pace = SendPace { start, rate: 200.0 };
        assert_eq!(pace.due_at(0), start);
        assert_eq!(pace.due_at(300) - start, Duration::from_millis(1500));
    }

    #[test]
    fn one_large_record_does_not_end_the_run() {
        assert!(is_about_one_record(ErrorCode::MessageTooLarge));
        assert!(!is_about_one_record(ErrorCode::UnknownTopicOrPartition));
        assert!(!is_about_one_record(ErrorCode::RequestTimedOut));
    }

    #[tokio::test]
    async fn a_source_is_read_to_its_end_in_order() {
        let input: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let source = InputSource {
            reader: Box::new(io::Cursor::new(input.clone())),
            size: None,
        };
        let mut chunks = source.spawn_reader();
        let mut read = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            read.extend_from_slice(&chunk.unwrap());
        }
        assert_eq!(read, input);
    }
}
