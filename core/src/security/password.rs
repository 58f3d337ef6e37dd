//! Reads passwords from files, standard input and variables, for the command line and the agent's
//! commands. A password is never cut: a longer one is an error.

use std::io::{self, Read};

/// The longest password in bytes; tokens of identity providers are long.
pub const MAX_PASSWORD_BYTES: usize = 16 << 10;
/// The longest line break at the end of a password, `\r\n`, and one byte more, which shows that a
/// password is too long.
const BYTES_AFTER: usize = 3;

/// Reads a password to its end, without the one line break that editors and `echo` put there.
///
/// # Errors
///
/// Fails if `source` fails, is not UTF-8, or has more than [`MAX_PASSWORD_BYTES`]. No error
/// contains a part of the password.
pub fn read_password(source: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_PASSWORD_BYTES + BYTES_AFTER).unwrap_or(u64::MAX);
    source.take(limit).read_to_end(&mut bytes)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.len() > MAX_PASSWORD_BYTES {
        return Err(invalid_data(format!(
            "the password is longer than {MAX_PASSWORD_BYTES} bytes"
        )));
    }
    String::from_utf8(bytes).map_err(|_| invalid_data("the password is not UTF-8".to_owned()))
}

fn invalid_data(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_is_no_part_of_a_password() {
        for (text, password) in [
            ("secret", "secret"),
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("secret\n\n", "secret\n"),
            ("secret\r", "secret\r"),
            (" two words \n", " two words "),
            ("zürich 🦀\n", "zürich 🦀"),
            ("\r\n", ""),
            ("", ""),
        ] {
            assert_eq!(read_password(text.as_bytes()).unwrap(), password, "{text:?}");
        }
    }

    #[test]
    fn the_longest_password_is_read_whole_and_a_longer_one_is_refused() {
        let longest = "x".repeat(MAX_PASSWORD_BYTES);
        for line_break in ["", "\n", "\r\n"] {
            let read = read_password(format!("{longest}{line_break}").as_bytes());
            assert_eq!(read.unwrap(), longest, "{line_break:?}");
        }
        for after in ["x", "x\r\n", "\n\n", "\r\n\r\n", "xxx\n", "xxé", "xxxxxx"] {
            let error = read_password(format!("{longest}{after}").as_bytes()).unwrap_err();
            assert_eq!(
                error.to_string(),
                "the password is longer than 16384 bytes",
                "{after:?}"
            );
        }
    }

    #[test]
    fn other_bytes_than_text_are_refused_and_not_shown() {
        let error = read_password(&b"hunter2\xff"[..]).unwrap_err();
        assert_eq!(error.to_string(), "the password is not UTF-8");
    }
}
