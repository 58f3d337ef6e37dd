//! Rendering of a record's key, value or header for the console: text if it is UTF-8, else
//! hexadecimal digits; bounded in size, and always with the true size.

use serde::Serialize;

/// Maximum number of bytes shown of one field.
pub(super) const MAX_FIELD_BYTES: usize = 4 << 10;

/// A field as the console shows it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct RenderedField {
    /// Size in bytes of the whole field.
    size: usize,
    encoding: FieldEncoding,
    shown: String,
    /// Whether the shown text is only the beginning of the field.
    truncated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum FieldEncoding {
    #[serde(rename = "utf-8")]
    Text,
    #[serde(rename = "hex")]
    Hex,
}

impl RenderedField {
    /// Renders the field, up to [`MAX_FIELD_BYTES`] bytes of it.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let (encoding, shown, whole) = match std::str::from_utf8(bytes) {
            Ok(text) => {
                let end = text.floor_char_boundary(MAX_FIELD_BYTES);
                (FieldEncoding::Text, text[..end].to_owned(), end == text.len())
            }
            Err(_) => {
                let end = bytes.len().min(MAX_FIELD_BYTES);
                (FieldEncoding::Hex, to_hex(&bytes[..end]), end == bytes.len())
            }
        };
        Self {
            size: bytes.len(),
            encoding,
            shown,
            truncated: !whole,
        }
    }

    /// Returns the length of the shown text in bytes.
    pub(super) fn shown_len(&self) -> usize {
        self.shown.len()
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]));
    digits.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_stays_text_and_other_bytes_become_digits() {
        let field = RenderedField::new("tea <b>é</b>".as_bytes());
        assert_eq!((field.encoding, field.size), (FieldEncoding::Text, 13));
        assert_eq!(field.shown, "tea <b>é</b>");
        let field = RenderedField::new(&[0xff, 0x00, 0x7f]);
        assert_eq!(
            (field.encoding, &*field.shown, field.truncated),
            (FieldEncoding::Hex, "ff007f", false)
        );
        assert_eq!(RenderedField::new(b"").shown, "");
    }

    #[test]
    fn a_long_field_is_cut_between_characters_and_says_so() {
        let text = format!("a{}", "é".repeat(MAX_FIELD_BYTES));
        let field = RenderedField::new(text.as_bytes());
        assert!(
            field.truncated && field.shown.len() == MAX_FIELD_BYTES - 1 && text.starts_with(&field.shown)
        );
        assert_eq!(field.size, text.len());
        let field = RenderedField::new(&vec![0xff; MAX_FIELD_BYTES + 1]);
        assert!(field.truncated && field.shown.len() == MAX_FIELD_BYTES * 2);
        assert!(!RenderedField::new("x".repeat(MAX_FIELD_BYTES).as_bytes()).truncated);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_shown(bytes: Vec<u8>) {
            let field = RenderedField::new(&bytes);
            prop_assert_eq!(field.size, bytes.len());
            if field.encoding == FieldEncoding::Text {
                prop_assert_eq!(field.shown.as_bytes(), &bytes[..]);
            }
        }
    }
}
