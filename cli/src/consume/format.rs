//! Output formats of `streamhouse consume`: raw, JSON, or a template in the style of kcat. Formats
//! are parsed once; formatting appends to a buffer and cannot fail.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use crate::{terminal, values::parse_escape};

/// A record to be formatted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PrintableRecord<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// The format of each record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RecordFormat {
    /// The value and a line feed.
    Raw,
    /// One JSON object per line.
    Json,
    /// A template with tokens.
    Custom(Vec<FormatToken>),
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FormatToken {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    KeyLength,
    Value,
    ValueLength,
    Headers,
}

/// Parses `raw`, `escape_json`, or a template with `%` tokens.
pub(crate) fn parse_format(text: &str) -> Result<RecordFormat, String> {
    match text {
        "raw" => Ok(RecordFormat::Raw),
        "json" => Ok(RecordFormat::Json),
        "" => Err("the format is empty; write raw, json, or something like '%k %v\\n'".to_owned()),
        custom => parse_tokens(custom).map(RecordFormat::Custom),
    }
}

fn parse_tokens(text: &str) -> Result<Vec<FormatToken>, String> {
    let mut tokens = Vec::new();
    let mut plain = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let token = match byte {
            b'\\' => {
                plain.push(parse_escape(&mut rest)?);
                continue;
            }
            b'%' => match parse_token(rest.next())? {
                Some(token) => token,
                None => {
                    plain.push(b'%');
                    continue;
                }
            },
            other => {
                plain.push(other);
                continue;
            }
        };
        if !plain.is_empty() {
            tokens.push(FormatToken::Text(std::mem::take(&mut plain)));
        }
        tokens.push(token);
    }
    if !plain.is_empty() {
        tokens.push(FormatToken::Text(plain));
    }
    if !tokens.iter().any(|token| !matches!(token, FormatToken::Text(_))) {
        return Err(format!(
            "{text:?} has no token for a part of a record; write raw, json, or something like '%k %v\\n'"
        ));
    }
    Ok(tokens)
}

/// Returns the token of the letter after `%`, `None` for `%%`.
fn parse_token(letter: Option<u8>) -> Result<Option<FormatToken>, String> {
    Ok(Some(match letter {
        Some(b'%') => return Ok(None),
        Some(b't') => FormatToken::Topic,
        Some(b'p') => FormatToken::Partition,
        Some(b'o') => FormatToken::Offset,
        Some(b'T') => FormatToken::Timestamp,
        Some(b'k') => FormatToken::Key,
        Some(b'K') => FormatToken::KeyLength,
        Some(b'v' | b's') => FormatToken::Value,
        Some(b'V' | b'S') => FormatToken::ValueLength,
        Some(b'h') => FormatToken::Headers,
        _ => return Err("a token is one of %t %p %o %T %k %K %v %V %h %%".to_owned()),
    }))
}

impl RecordFormat {
    /// Returns whether headers are written.
    pub(crate) fn shows_headers(&self) -> bool {
        match self {
            Self::Raw => false,
            Self::Json => true,
            Self::Custom(tokens) => tokens.contains(&FormatToken::Headers),
        }
    }

    /// Appends `record` to `out`. A null key or value is written as `null`.
    pub(crate) fn write(
        &self,
        record: &PrintableRecord<'_>,
        null: &[u8],
        target: OutputTarget,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Raw => {
                target.put_value(record.value, null, out);
                out.push(b'\n');
            }
            Self::Json => {
                let object = json_object(record).to_string();
                match target {
                    OutputTarget::Bytes => out.extend_from_slice(object.as_bytes()),
                    OutputTarget::Screen => out.extend_from_slice(terminal::escape_json(&object).as_bytes()),
                }
                out.push(b'\n');
            }
            Self::Custom(tokens) => tokens
                .iter()
                .for_each(|token| write_token(token, record, null, target, out)),
        }
    }
}

/// The destination of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputTarget {
    /// A program: every byte unchanged.
    Bytes,
    /// A terminal: control characters of the record are escaped, those of the template are not.
    Screen,
}

impl OutputTarget {
    fn put_name(self, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Bytes => out.extend_from_slice(bytes),
            Self::Screen => terminal::push_escaped(out, bytes, false),
        }
    }

    fn put_key(self, key: Option<&[u8]>, null: &[u8], out: &mut Vec<u8>) {
        match key {
            Some(key) => self.put_name(key, out),
            None => out.extend_from_slice(null),
        }
    }

    fn put_value(self, value: Option<&[u8]>, null: &[u8], out: &mut Vec<u8>) {
        match (value, self) {
            (Some(value), Self::Screen) => terminal::push_escaped(out, value, true),
            (Some(value), Self::Bytes) => out.extend_from_slice(value),
            (None, _) => out.extend_from_slice(null),
        }
    }
}

fn write_token(
    token: &FormatToken,
    record: &PrintableRecord<'_>,
    null: &[u8],
    target: OutputTarget,
    out: &mut Vec<u8>,
) {
    let number = |number: i64, out: &mut Vec<u8>| out.extend_from_slice(number.to_string().as_bytes());
    // As in kcat, -1 distinguishes null from empty.
    let length =
        |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    match token {
        FormatToken::Text(text) => out.extend_from_slice(text),
        FormatToken::Topic => target.put_name(record.topic.as_bytes(), out),
        FormatToken::Partition => number(record.partition.into(), out),
        FormatToken::Offset => number(record.offset, out),
        FormatToken::Timestamp => number(record.timestamp, out),
        FormatToken::Key => target.put_key(record.key, null, out),
        FormatToken::KeyLength => number(length(record.key), out),
        FormatToken::Value => target.put_value(record.value, null, out),
        FormatToken::ValueLength => number(length(record.value), out),
        FormatToken::Headers => {
            for (at, (name, value)) in record.headers.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                target.put_name(name.as_bytes(), out);
                out.push(b'=');
                target.put_key(*value, null, out);
            }
        }
    }
}

fn json_object(record: &PrintableRecord<'_>) -> Value {
    let headers: Vec<Value> = record
        .headers
        .iter()
        .map(|(name, value)| {
            let mut header = Map::from_iter([("name".to_owned(), json!(name))]);
            insert_bytes(&mut header, "value", *value);
            header.into()
        })
        .collect();
    let mut object = Map::from_iter([
        ("topic".to_owned(), json!(record.topic)),
        ("partition".to_owned(), json!(record.partition)),
        ("offset".to_owned(), json!(record.offset)),
        ("timestamp".to_owned(), json!(record.timestamp)),
    ]);
    insert_bytes(&mut object, "key", record.key);
    insert_bytes(&mut object, "value", record.value);
    object.insert("headers".to_owned(), headers.into());
    object.into()
}

/// Inserts UTF-8 as text, other bytes as base64 with the suffix `_base64`.
fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else {
        object.insert(name.to_owned(), Value::Null);
        return;
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: PrintableRecord<'_> = PrintableRecord {
        topic: "orders",
        partition: 3,
        offset: 41,
        timestamp: 1_700_000_000_000,
        key: Some(b"k"),
        value: Some(b"v\xff"),
        headers: &[("a", Some(b"1")), ("b", None)],
    };

    fn format_record(format: &str, record: &PrintableRecord<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        let format = parse_format(format).unwrap();
        format.write(record, b"NULL", OutputTarget::Bytes, &mut out);
        out
    }

    #[test]
    fn raw_is_the_value_and_a_line_feed() {
        assert_eq!(format_record("raw", &RECORD), b"v\xff\n");
        assert_eq!(
            format_record(
                "raw",
                &PrintableRecord {
                    value: None,
                    ..RECORD
                }
            ),
            b"NULL\n"
        );
        assert_eq!(
            format_record(
                "raw",
                &PrintableRecord {
                    value: Some(b""),
                    ..RECORD
                }
            ),
            b"\n"
        );
    }

    #[test]
    fn custom_formats_take_kcats_tokens_and_escapes() {
        assert_eq!(
            format_record("%t [%p] @%o %T%% %k(%K)\\t%v(%V) %h\\x00\\n", &RECORD),
            b"orders [3] @41 1700000000000% k(1)\tv\xff(2) a=1,b=NULL\0\n"
        );
        assert_eq!(
            format_record("%k:%K", &PrintableRecord { key: None, ..RECORD }),
            b"NULL:-1"
        );
        for bad in ["", "text", "%", "%q", "%v\\", "%%"] {
            assert!(parse_format(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_terminal_gets_no_control_character_of_a_record_but_the_formats_own() {
        let record = PrintableRecord {
            topic: "t\x07",
            key: Some(b"k\x1b\n"),
            value: Some(b"v\x1b[2J\n\xff\xc2\x9b"),
            headers: &[("h\r", Some(b"\x08"))],
            ..RECORD
        };
        let shown = |format: &str, target| {
            let mut out = Vec::new();
            let format = parse_format(format).unwrap();
            format.write(&record, b"", target, &mut out);
            out
        };
        let format = "\\x1b[1m%t %k %v %h";
        assert_eq!(
            shown(format, OutputTarget::Screen),
            b"\x1b[1mt\\x07 k\\x1b\\n v\\x1b[2J\n\\xff\\x9b h\\r=\\x08"
        );
        assert_eq!(
            shown(format, OutputTarget::Bytes),
            b"\x1b[1mt\x07 k\x1b\n v\x1b[2J\n\xff\xc2\x9b h\r=\x08"
        );
        assert_eq!(shown("raw", OutputTarget::Screen), b"v\\x1b[2J\n\\xff\\x9b\n");
        let json = String::from_utf8(shown("json", OutputTarget::Screen)).unwrap();
        assert!(!json.trim_end().chars().any(char::is_control), "{json}");
    }

    #[test]
    fn json_keeps_every_byte() {
        let object: Value = serde_json::from_slice(&format_record("json", &RECORD)).unwrap();
        assert_eq!(
            object,
            json!({
                "topic": "orders", "partition": 3, "offset": 41, "timestamp": 1_700_000_000_000_i64, "key": "k",
                "value_base64": "dv8=", "headers": [{"name": "a", "value": "1"}, {"name": "b", "value": null}]
            })
        );
    }
}
