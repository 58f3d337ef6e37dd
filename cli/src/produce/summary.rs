//! [`ProduceSummary`]: counts the results of records, prints their offsets if requested, and the
//! summary at the end.

use std::{
    io::{self, BufWriter, Stdout, Write},
    time::Duration,
};

use serde_json::json;
use streamhouse_client::RecordMetadata;

use super::line_ranges::LineRanges;
use crate::{
    command_error::{CommandError, CommandResult},
    output::{OutputFormat, group_digits},
    terminal::escape_for_stdout,
};

/// The counts of a run.
#[derive(Debug)]
pub(super) struct ProduceSummary {
    format: OutputFormat,
    /// Where offsets are printed; `None` if not requested.
    offsets: Option<BufWriter<Stdout>>,
    /// Records read from the input.
    pub(super) sent: u64,
    bytes: u64,
    stored: u64,
    failed: u64,
    first_failure: Option<CommandError>,
    unsent: LineRanges,
    /// Whether the input was not read to its end.
    input_unfinished: bool,
}

impl ProduceSummary {
    pub(super) fn new(format: OutputFormat, print_offsets: bool) -> Self {
        let offsets = print_offsets.then(|| BufWriter::new(io::stdout()));
        Self {
            format,
            offsets,
            sent: 0,
            bytes: 0,
            stored: 0,
            failed: 0,
            first_failure: None,
            unsent: LineRanges::default(),
            input_unfinished: false,
        }
    }

    pub(super) fn format(&self) -> OutputFormat {
        self.format
    }

    /// Records that the input was not read to its end.
    pub(super) fn mark_input_unfinished(&mut self) {
        self.input_unfinished = true;
    }

    pub(super) fn count_sent(&mut self, bytes: usize) {
        self.sent += 1;
        self.bytes += bytes as u64;
    }

    pub(super) fn count_stored(&mut self, stored: &RecordMetadata) -> CommandResult {
        self.stored += 1;
        let Some(out) = &mut self.offsets else {
            return Ok(());
        };
        match self.format {
            OutputFormat::Table => {
                let topic = escape_for_stdout(&stored.topic);
                writeln!(out, "{topic}-{}@{}", stored.partition, stored.offset)?;
            }
            OutputFormat::Json => {
                let line = json!({
                    "topic": &*stored.topic,
                    "partition": stored.partition,
                    "offset": stored.offset,
                    "timestamp": stored.timestamp,
                });
                writeln!(out, "{line}")?;
            }
        }
        Ok(())
    }

    /// Prints the offsets counted so far.
    pub(super) fn flush(&mut self) -> CommandResult {
        match &mut self.offsets {
            Some(out) => Ok(out.flush()?),
            None => Ok(()),
        }
    }

    /// Counts a record that was not acknowledged, with its line number.
    pub(super) fn count_failed(&mut self, line: u64, failure: CommandError) {
        self.unsent.add(line);
        self.failed += 1;
        self.first_failure.get_or_insert(failure);
    }

    /// Prints the summary: to stderr for people, to stdout for programs, after the offsets.
    pub(super) fn print_summary(&mut self, elapsed: Duration) -> CommandResult {
        self.flush()?;
        let summary = self.render(elapsed);
        match self.format {
            OutputFormat::Json => writeln!(io::stdout().lock(), "{summary}")?,
            OutputFormat::Table => eprintln!("{summary}"),
        }
        Ok(())
    }

    fn render(&self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64().max(1e-3);
        let (rate, megabytes) = (self.stored as f64 / seconds, self.bytes as f64 / 1e6);
        match self.format {
            OutputFormat::Json => json!({
                "records": self.stored,
                "failed": self.failed,
                "bytes": self.bytes,
                "seconds": (seconds * 1000.0).round() / 1000.0,
                "first_error": self.first_failure.as_ref().map(ToString::to_string),
                "failed_lines": self.unsent.pairs(),
                "read_to_line": self.input_unfinished.then_some(self.sent),
            })
            .to_string(),
            OutputFormat::Table => format!(
                "{} records sent{}, {megabytes:.1} MB in {seconds:.2} s ({} records/s, {:.1} MB/s){}",
                group_digits(self.stored),
                if self.failed > 0 {
                    format!(", {} failed", group_digits(self.failed))
                } else {
                    String::new()
                },
                group_digits(rate.round() as u64),
                megabytes / seconds,
                self.unsent_lines(),
            ),
        }
    }

    /// Returns a line with what must be sent again, empty if everything was sent.
    fn unsent_lines(&self) -> String {
        let mut parts = Vec::new();
        if !self.unsent.is_empty() {
            parts.push(format!("lines not acknowledged: {}", self.unsent));
        }
        if self.input_unfinished {
            parts.push(format!("no line after {} was read", self.sent));
        }
        match parts.is_empty() {
            true => String::new(),
            false => format!("\n{}", parts.join("; ")),
        }
    }

    /// Returns the first failure, if any record failed.
    pub(super) fn result(&self) -> CommandResult {
        match &self.first_failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_what_was_stored_and_what_failed() {
        let mut tally = ProduceSummary::new(OutputFormat::Table, false);
        for _ in 0..3 {
            tally.count_sent(500_000);
        }
        let mut stored = RecordMetadata::default();
        stored.topic = "t".into();
        tally.count_stored(&stored).unwrap();
        tally.count_stored(&stored).unwrap();
        assert_eq!(tally.result(), Ok(()));
        let whole = "2 records sent, 1.5 MB in 2.00 s (1 records/s, 0.8 MB/s)";
        assert_eq!(tally.render(Duration::from_secs(2)), whole);
        tally.count_failed(3, CommandError::failed("first"));
        tally.count_failed(2, CommandError::failed("second"));
        assert_eq!(
            tally.render(Duration::from_secs(2)),
            "2 records sent, 2 failed, 1.5 MB in 2.00 s (1 records/s, 0.8 MB/s)\nlines not acknowledged: 2-3"
        );
        tally.mark_input_unfinished();
        let summary = tally.render(Duration::from_secs(2));
        assert!(
            summary.ends_with("\nlines not acknowledged: 2-3; no line after 3 was read"),
            "{summary}"
        );
        assert_eq!(tally.result(), Err(CommandError::failed("first")));
        tally.format = OutputFormat::Json;
        let json: serde_json::Value = serde_json::from_str(&tally.render(Duration::from_secs(2))).unwrap();
        assert_eq!(json["records"], 2);
        assert_eq!(json["failed"], 2);
        assert_eq!(json["first_error"], "first");
        assert_eq!(json["failed_lines"], json!([[2, 3]]));
        assert_eq!(json["read_to_line"], 3);
    }
}
