//! Parsers of argument values: times, durations, sizes, `key=value` pairs, escapes. An error says
//! what is accepted.

use std::time::Duration;

use time::{
    Date, OffsetDateTime, PrimitiveDateTime,
    format_description::well_known::{Iso8601, Rfc3339},
};

use crate::command_error::CommandError;

/// Parses milliseconds since the Unix epoch, or an ISO 8601 time or date; UTC without an offset.
pub(crate) fn parse_timestamp(text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse::<i64>() {
        return if ms >= 0 {
            Ok(ms)
        } else {
            Err("a time before 1970 has no records".to_owned())
        };
    }
    let text = text.trim().replacen(' ', "T", 1);
    let moment = OffsetDateTime::parse(&text, &Iso8601::DEFAULT)
        .or_else(|_| PrimitiveDateTime::parse(&text, &Iso8601::DEFAULT).map(PrimitiveDateTime::assume_utc))
        .or_else(|_| Date::parse(&text, &Iso8601::DEFAULT).map(|date| date.midnight().assume_utc()))
        .map_err(|_| "write milliseconds since 1970, or a time like 2026-01-31T08:00:00Z".to_owned())?;
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000)
        .map_err(|_| "the time is out of range".to_owned())
}

/// Formats a time such as `2026-01-31T08:00:00.5Z`; returns the number if it is out of the
/// calendar's range.
pub(crate) fn format_timestamp(ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| ms.to_string())
}

/// Parses a duration such as `250ms`, `5s` or `1h 30m`; a number without a unit is in seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| "a duration cannot be negative".to_owned());
    }
    humantime::parse_duration(text).map_err(|_| "write a duration like 250ms, 5s or 10m".to_owned())
}

/// Parses a [`parse_duration`] longer than zero.
pub(crate) fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).and_then(|d| {
        if d.is_zero() {
            Err("it must be longer than zero".to_owned())
        } else {
            Ok(d)
        }
    })
}

/// Parses a size such as `1048576`, `64k` or `1MiB`, with powers of 1024.
pub(crate) fn parse_bytes(text: &str) -> Result<usize, String> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err("write a size like 1048576, 64k or 1MiB".to_owned()),
    };
    let number: usize = number
        .parse()
        .map_err(|_| "write a size like 1048576, 64k or 1MiB".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "the size is too large".to_owned())
}

/// Parses a partition number.
pub(crate) fn parse_partition(text: &str) -> Result<i32, String> {
    let number: Option<i32> = text.parse().ok();
    number
        .filter(|number| *number >= 0)
        .ok_or_else(|| "partitions are numbered from 0; `streamhouse topic describe` lists them".to_owned())
}

/// Parses an offset.
pub(crate) fn parse_offset(text: &str) -> Result<i64, String> {
    let offset: Option<i64> = text.parse().ok();
    offset
        .filter(|offset| *offset >= 0)
        .ok_or_else(|| "offsets count from 0; `streamhouse topic offsets` shows the existing ones".to_owned())
}

/// Trims the value of an option, since a value read from a file often ends in a line feed. Rejects
/// a control character inside, with the option's name.
pub(crate) fn trim_option<'a>(option: &str, value: &'a str) -> Result<&'a str, CommandError> {
    let value = value.trim();
    if value.chars().any(char::is_control) {
        return Err(CommandError::usage(format!(
            "{option} holds a line feed or another control character; remove it"
        )));
    }
    Ok(value)
}

/// Parses `key=value`; the value may be empty and may hold `=`.
pub(crate) fn parse_key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write key=value".to_owned()),
    }
}

/// Parses text with the escapes `\n \t \r \0 \\ \xHH` to bytes.
pub(crate) fn parse_escapes(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'\\' {
            out.push(parse_escape(&mut rest)?)
        } else {
            out.push(byte)
        }
    }
    Ok(out)
}

/// Returns the byte of an escape; `rest` is positioned after the backslash.
pub(crate) fn parse_escape(rest: &mut impl Iterator<Item = u8>) -> Result<u8, String> {
    let unknown = || "an escape is one of \\n \\t \\r \\0 \\\\ \\xHH".to_owned();
    Ok(match rest.next().ok_or_else(unknown)? {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'0' => 0,
        b'\\' => b'\\',
        b'x' => {
            let mut nibble = || {
                rest.next()
                    .and_then(|digit| char::from(digit).to_digit(16))
                    .ok_or_else(unknown)
            };
            let (high, low) = (nibble()?, nibble()?);
            u8::try_from(high * 16 + low).map_err(|_| unknown())?
        }
        _ => return Err(unknown()),
    })
}

/// Parses [`parse_escapes`] text of at least one byte.
pub(crate) fn parse_separator(text: &str) -> Result<KeySeparator, String> {
    let bytes = parse_escapes(text)?;
    if bytes.is_empty() {
        Err("a separator has at least one byte".to_owned())
    } else {
        Ok(KeySeparator(bytes))
    }
}

/// A non-empty separator between key and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeySeparator(pub(crate) Vec<u8>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_or_iso_8601() {
        for (text, ms) in [
            ("0", 0),
            ("1700000000123", 1_700_000_000_123),
            ("1970-01-01", 0),
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14T22:13:20.123Z", 1_700_000_000_123),
            ("2023-11-14 22:13:20", 1_700_000_000_000),
            ("2023-11-14T23:13:20+01:00", 1_700_000_000_000),
        ] {
            assert_eq!(parse_timestamp(text), Ok(ms), "{text}");
        }
        for bad in ["", "-5", "yesterday", "2023-13-01", "2023-11-14T25:00:00Z"] {
            assert!(parse_timestamp(bad).is_err(), "{bad}");
        }
        assert_eq!(format_timestamp(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(format_timestamp(i64::MAX), i64::MAX.to_string());
    }

    #[test]
    fn durations_and_sizes_take_units() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert!(
            parse_duration("-1").is_err()
                && parse_duration("soon").is_err()
                && parse_positive_duration("0s").is_err()
        );
        assert_eq!(parse_bytes("512"), Ok(512));
        assert_eq!(parse_bytes("64k"), Ok(65_536));
        assert_eq!(parse_bytes("8 MiB"), Ok(8 << 20));
        assert!(
            parse_bytes("1.5m").is_err()
                && parse_bytes("m").is_err()
                && parse_bytes("99999999999999g").is_err()
        );
    }

    #[test]
    fn partitions_and_offsets_are_not_negative() {
        assert_eq!(
            (parse_partition("2"), parse_offset("9000000000")),
            (Ok(2), Ok(9_000_000_000))
        );
        for bad in ["-1", "", "x", "1.5", "99999999999999999999"] {
            assert!(
                parse_partition(bad).is_err() && parse_offset(bad).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn what_surrounds_a_setting_is_trimmed_and_a_control_character_inside_is_refused_by_name() {
        assert_eq!(trim_option("--bootstrap", " a:1\r\n"), Ok("a:1"));
        let refused = trim_option("--tls-ca", "a\nb").unwrap_err().to_string();
        assert!(refused.starts_with("--tls-ca holds a line feed"), "{refused}");
    }

    #[test]
    fn pairs_split_at_the_first_equals_sign() {
        assert_eq!(parse_key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_key_value("a="), Ok(("a".into(), String::new())));
        assert!(parse_key_value("a").is_err() && parse_key_value("=b").is_err());
    }

    #[test]
    fn escapes_become_bytes() {
        assert_eq!(parse_escapes("a\\t\\x00\\\\ä"), Ok(b"a\t\0\\\xc3\xa4".to_vec()));
        for bad in ["\\", "\\q", "\\x1", "\\xg0"] {
            assert!(parse_escapes(bad).is_err(), "{bad}");
        }
        assert!(parse_separator("").is_err());
    }
}
