//! Parsing of `streamhouse produce`'s input: [`LineSplitter`] splits chunks of bytes into lines
//! without copying, [`LineEndCleaner`] handles Windows line endings, [`LineParser`] split a line
//! into key and value. All are binary-safe: only the line feed, the carriage return if requested,
//! and the separator have a meaning.

use std::mem;

use bytes::Bytes;

/// The longest line accepted. A longer one cannot fit into a request.
pub(crate) const MAX_LINE_BYTES: usize = 63 << 20;

/// A line is longer than [`MAX_LINE_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {0} is longer than 63 MiB; a record cannot be that large")]
pub(crate) struct LineTooLongError(pub(crate) u64);

/// Splits a stream of chunks into lines. Holds one chunk and at most one incomplete line.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    /// The beginning of a line that continues in the next chunk.
    carry: Vec<u8>,
    chunk: Bytes,
    lines: u64,
}

impl LineSplitter {
    /// Adds the next chunk of input. All lines of the previous chunk must have been taken.
    pub(crate) fn feed(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "take all lines before feeding more");
        self.chunk = chunk;
    }

    /// Returns the next complete line without its line feed, `None` if more input is needed.
    ///
    /// # Errors
    ///
    /// Fails if the line is longer than [`MAX_LINE_BYTES`].
    pub(crate) fn next_line(&mut self) -> Result<Option<Bytes>, LineTooLongError> {
        let Some(end) = memchr::memchr(b'\n', &self.chunk) else {
            let rest = mem::take(&mut self.chunk);
            if self.carry.len() + rest.len() > MAX_LINE_BYTES {
                return Err(LineTooLongError(self.lines + 1));
            }
            self.carry.extend_from_slice(&rest);
            return Ok(None);
        };
        let mut line = self.chunk.split_to(end + 1);
        line.truncate(end);
        self.lines += 1;
        if self.carry.is_empty() {
            return Ok(Some(line));
        }
        let mut whole = mem::take(&mut self.carry);
        whole.extend_from_slice(&line);
        Ok(Some(whole.into()))
    }

    /// Returns the last line if the input does not end with a line feed.
    pub(crate) fn finish(&mut self) -> Option<Bytes> {
        let last = mem::take(&mut self.carry);
        (!last.is_empty()).then(|| last.into())
    }
}

/// Handles what Windows programs add to text: carriage returns before line feeds, and a byte order
/// mark at the start. Both are removed if requested; otherwise they are sent, with one warning
/// each.
#[derive(Debug, Clone, Default)]
pub(crate) struct LineEndCleaner {
    strips: bool,
    lines: u64,
    warned: bool,
}

/// The byte order mark of UTF-8.
const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";
/// The byte order marks of UTF-16.
const UTF16_BOMS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

impl LineEndCleaner {
    pub(crate) fn new(strips: bool) -> Self {
        Self {
            strips,
            ..Self::default()
        }
    }

    /// Returns the line to send, and a warning for the user.
    pub(crate) fn clean(&mut self, line: &Bytes) -> (Bytes, Option<String>) {
        self.lines += 1;
        let mut line = line.clone();
        let mut warning = None;
        if self.lines == 1 && UTF16_BOMS.iter().any(|mark| line.starts_with(mark)) {
            self.warned = true;
            warning = Some(
                "the input begins with a byte order mark of UTF-16; lines are split and sent byte by byte, so convert it \
                 to UTF-8 to send text",
            );
        }
        if self.lines == 1 && line.starts_with(UTF8_BOM) {
            if self.strips {
                line = line.slice(UTF8_BOM.len()..);
            } else {
                warning = Some(
                    "the input begins with a byte order mark, which is sent as part of line 1; --crlf removes it",
                );
            }
        }
        let mut warning = warning.map(str::to_owned);
        if line.ends_with(b"\r") {
            if self.strips {
                line.truncate(line.len() - 1);
            } else if !self.warned {
                self.warned = true;
                let found = format!(
                    "line {} ends with a carriage return, which is sent as part of the line; --crlf removes carriage returns",
                    self.lines
                );
                warning = Some(warning.map_or_else(|| found.clone(), |first| format!("{first}; {found}")));
            }
        }
        (line, warning)
    }
}

/// How a line is split into key and value.
#[derive(Debug, Clone, Default)]
pub(crate) struct LineParser {
    /// Separates key and value; a line without it has no key.
    pub(crate) key_separator: Option<Vec<u8>>,
    /// A key or value equal to this is null.
    pub(crate) null_value: Option<Vec<u8>>,
}

impl LineParser {
    /// Returns key and value of a line; both may be null.
    pub(crate) fn split(&self, line: &Bytes) -> (Option<Bytes>, Option<Bytes>) {
        let cut = self.key_separator.as_ref().and_then(|separator| {
            memchr::memmem::find(line, separator)
                .map(|at| (line.slice(..at), line.slice(at + separator.len()..)))
        });
        match cut {
            Some((key, value)) => (self.to_nullable(key), self.to_nullable(value)),
            None => (None, self.to_nullable(line.clone())),
        }
    }

    fn to_nullable(&self, bytes: Bytes) -> Option<Bytes> {
        if self.null_value.as_deref() == Some(&bytes[..]) {
            None
        } else {
            Some(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = LineSplitter::default();
        let mut out = Vec::new();
        for chunk in chunks {
            lines.feed(Bytes::copy_from_slice(chunk));
            while let Some(line) = lines.next_line().unwrap() {
                out.push(line.to_vec());
            }
        }
        out.extend(lines.finish().map(|line| line.to_vec()));
        out
    }

    #[test]
    fn only_the_line_feed_is_stripped() {
        assert_eq!(
            cut(&[b"a\r\n\n\xff\0\n last"]),
            [&b"a\r"[..], b"", b"\xff\0", b" last"]
        );
        assert!(cut(&[b""]).is_empty());
        assert_eq!(cut(&[b"x\n"]), [b"x"]);
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let mut lines = LineSplitter::default();
        let chunk = Bytes::from(vec![b'x'; 1 << 20]);
        let refused = (0..64).find_map(|_| {
            lines.feed(chunk.clone());
            lines.next_line().err()
        });
        assert_eq!(refused, Some(LineTooLongError(1)));
    }

    fn cleaned(strips: bool, lines: &[&'static [u8]]) -> (Vec<Bytes>, Vec<String>) {
        let mut ends = LineEndCleaner::new(strips);
        let cleaned = lines.iter().map(|line| ends.clean(&Bytes::from_static(line)));
        let (lines, warnings): (Vec<_>, Vec<_>) = cleaned.unzip();
        (lines, warnings.into_iter().flatten().collect())
    }

    #[test]
    fn carriage_returns_and_a_byte_order_mark_are_stripped_when_asked_for() {
        let input: [&[u8]; 5] = [b"\xef\xbb\xbfa\r", b"\r", b"b\rc", b"\xef\xbb\xbfd", b"e\r\r"];
        let (lines, warnings) = cleaned(true, &input);
        assert_eq!(lines, [&b"a"[..], b"", b"b\rc", b"\xef\xbb\xbfd", b"e\r"]);
        assert!(warnings.is_empty(), "{warnings:?}");
        let (lines, warnings) = cleaned(false, &input);
        assert_eq!(lines, input);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains("byte order mark")
                && warnings[0].contains("line 1 ends with a carriage return"),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_warning_names_the_first_line_and_comes_once() {
        let (_, warnings) = cleaned(false, &[b"a", b"b\r", b"c\r"]);
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].starts_with("line 2 ends with a carriage return"),
            "{warnings:?}"
        );
        let (_, warnings) = cleaned(true, &[b"\xff\xfea\0", b"\0b\0\r"]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("UTF-16"), "{warnings:?}");
        assert!(cleaned(false, &[b"a", b"\xef\xbb\xbf"]).1.is_empty());
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_where_chunks_end(input in proptest::collection::vec(0_u8..20, 0..400), size in 1_usize..50) {
            // Small values make line feeds (10) frequent.
            let chunks: Vec<&[u8]> = input.chunks(size).collect();
            let lines = cut(&chunks);
            prop_assert_eq!(&lines, &cut(&[&input]));
            let mut joined = lines.join(&b'\n');
            if input.last() == Some(&b'\n') {
                joined.push(b'\n');
            }
            prop_assert_eq!(joined, input);
        }
    }

    fn split(rules: &LineParser, line: &'static [u8]) -> (Option<Bytes>, Option<Bytes>) {
        rules.split(&Bytes::from_static(line))
    }

    #[test]
    fn keys_end_at_the_first_separator() {
        let rules = LineParser {
            key_separator: Some(b"::".to_vec()),
            null_value: Some(b"NULL".to_vec()),
        };
        let some = |bytes: &'static [u8]| Some(Bytes::from_static(bytes));
        assert_eq!(split(&rules, b"k::v::w"), (some(b"k"), some(b"v::w")));
        assert_eq!(split(&rules, b"::v"), (some(b""), some(b"v")));
        assert_eq!(split(&rules, b"k::"), (some(b"k"), some(b"")));
        assert_eq!(split(&rules, b"plain"), (None, some(b"plain")));
        assert_eq!(split(&rules, b"k::NULL"), (some(b"k"), None));
        assert_eq!(split(&rules, b"NULL::v"), (None, some(b"v")));
        assert_eq!(
            split(&LineParser::default(), b"k::NULL"),
            (None, some(b"k::NULL"))
        );
    }
}
