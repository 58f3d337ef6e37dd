//! Printing of results: tables for people, JSON for programs. [`TextTable`] lays out columns,
//! [`print_result`] selects the format, [`human_bytes`] and [`group_digits`] format numbers.

use std::{
    fmt,
    io::{self, Write},
};

use serde::Serialize;

pub(crate) use crate::output_format::OutputFormat;
use crate::{
    command_error::{CommandError, CommandResult},
    terminal,
};

/// Prints `value` as JSON, or the result of `table`.
pub(crate) fn print_result<T: Serialize, D: fmt::Display>(
    format: OutputFormat,
    value: &T,
    table: impl FnOnce() -> D,
) -> CommandResult {
    let text = match format {
        OutputFormat::Json => {
            let text = serde_json::to_string_pretty(value)
                .map_err(|error| CommandError::failed(format!("cannot write the result as json: {error}")))?;
            if terminal::is_stdout_terminal() {
                terminal::escape_json(&text).into_owned()
            } else {
                text
            }
        }
        OutputFormat::Table => table().to_string(),
    };
    print_line(text.trim_end_matches('\n'))
}

/// Prints one line to stdout. A closed pipe is a [`CommandError::BrokenPipe`], never a panic.
pub(crate) fn print_line(line: &str) -> CommandResult {
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

/// Rows below a header. Columns are as wide as their cells; columns of numbers are right-aligned.
#[derive(Debug, Clone, Default)]
pub(crate) struct TextTable {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl TextTable {
    /// Creates a table with these columns.
    pub(crate) fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self {
            header: header.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row. Empty cells print as `-`. On a terminal, control characters in cells are
    /// escaped.
    pub(crate) fn add_row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let shown = |cell: S| terminal::escape_for_stdout(&cell.into()).into_owned();
        let mut row: Vec<String> = cells.into_iter().map(shown).collect();
        row.resize(self.header.len(), String::new());
        row.iter_mut()
            .filter(|cell| cell.is_empty())
            .for_each(|cell| cell.push('-'));
        self.rows.push(row);
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        cells
            .chain(self.header.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    }

    fn is_numeric(&self, column: usize) -> bool {
        let mut cells = self
            .rows
            .iter()
            .filter_map(|row| row.get(column))
            .filter(|cell| *cell != "-")
            .peekable();
        cells.peek().is_some() && cells.all(|cell| cell.replace(',', "").parse::<f64>().is_ok())
    }
}

impl fmt::Display for TextTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<(usize, bool)> = (0..self.header.len())
            .map(|column| (self.width(column), self.is_numeric(column)))
            .collect();
        for row in std::iter::once(&self.header).chain(&self.rows) {
            let mut line = String::new();
            for (cell, &(width, numeric)) in row.iter().zip(&columns) {
                let cell = if numeric {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                };
                line.push_str(&cell);
                line.push_str("  ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Formats bytes such as `1.5 MiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} PiB")
}

/// Formats a number with separators, such as `1,234,567`.
pub(crate) fn group_digits(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_and_numbers_stand_right() {
        let mut table = TextTable::new(["TOPIC", "LAG"]);
        table.add_row(["orders", "7"]);
        table.add_row(["payments", "12,000"]);
        table.add_row(["x", ""]);
        assert_eq!(
            table.to_string(),
            "TOPIC        LAG\norders         7\npayments  12,000\nx              -\n"
        );
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(group_digits(0), "0");
        assert_eq!(group_digits(999), "999");
        assert_eq!(group_digits(1_234_567), "1,234,567");
    }
}
