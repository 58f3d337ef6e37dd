//! Escaping for terminals. Names, keys, values and messages may hold control characters with which
//! a terminal would recolour, overwrite or hide text. They are escaped when the output is a
//! terminal; pipes and files receive every byte unchanged.

use std::{
    borrow::Cow,
    io::{self, IsTerminal as _},
    sync::LazyLock,
};

static STDOUT_IS_TERMINAL: LazyLock<bool> = LazyLock::new(|| io::stdout().is_terminal());
static STDERR_IS_TERMINAL: LazyLock<bool> = LazyLock::new(|| io::stderr().is_terminal());

/// Returns whether standard output is a terminal.
pub(crate) fn is_stdout_terminal() -> bool {
    *STDOUT_IS_TERMINAL
}

/// Escapes text for standard output if that is a terminal.
pub(crate) fn escape_for_stdout(text: &str) -> Cow<'_, str> {
    if is_stdout_terminal() {
        escape_controls(text)
    } else {
        text.into()
    }
}

/// Escapes text for standard error if that is a terminal.
pub(crate) fn escape_for_stderr(text: &str) -> Cow<'_, str> {
    if *STDERR_IS_TERMINAL {
        escape_controls(text)
    } else {
        text.into()
    }
}

/// Returns whether a terminal would act on the character instead of showing it: control characters,
/// and characters that change the writing direction.
fn is_terminal_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Replaces characters on which a terminal would act with `\n`, `\x1b` or `\u{202e}`.
pub(crate) fn escape_controls(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_terminal_control) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    text.chars().for_each(|c| push_char(&mut out, c, false));
    out.into()
}

fn push_char(out: &mut String, c: char, is_text: bool) {
    match c {
        '\n' | '\t' if is_text => out.push(c),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if is_terminal_control(c) && u32::from(c) < 0x100 => {
            out.push_str(&format!("\\x{:02x}", u32::from(c)))
        }
        c if is_terminal_control(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        c => out.push(c),
    }
}

/// Appends bytes like [`escape_controls`] does; bytes that are not UTF-8 become `\xHH`. With
/// `is_text`, line feeds and tabs are retained as layout.
pub(crate) fn push_escaped(out: &mut Vec<u8>, bytes: &[u8], is_text: bool) {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        chunk
            .valid()
            .chars()
            .for_each(|c| push_char(&mut text, c, is_text));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// Escapes the characters in JSON on which a terminal would act. The JSON keeps its meaning.
pub(crate) fn escape_json(text: &str) -> Cow<'_, str> {
    // JSON already escapes characters below 0x20 in strings; line feeds separate its parts.
    let left = |c: char| is_terminal_control(c) && c >= '\u{7f}';
    if !text.chars().any(left) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if left(c) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_the_rest_stays() {
        assert_eq!(escape_controls("größe 1-2_3.x"), "größe 1-2_3.x");
        assert_eq!(
            escape_controls("a\x1b[2Jb\r\n\t\x07\x7f\u{9b}\u{202e}"),
            "a\\x1b[2Jb\\r\\n\\t\\x07\\x7f\\x9b\\u{202e}"
        );
        let mut out = b"> ".to_vec();
        push_escaped(&mut out, b"a\x1b\n\tb\xff\xc3\xa4\x9b", true);
        assert_eq!(out, b"> a\\x1b\n\tb\\xff\xc3\xa4\\x9b");
        let mut out = Vec::new();
        push_escaped(&mut out, b"a\nb", false);
        assert_eq!(out, b"a\\nb");
    }

    #[test]
    fn json_means_the_same_and_is_harmless() {
        let value = serde_json::json!({ "key": "a\x1b\u{9b}\u{7f}\u{202e}ä" });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let shown = escape_json(&text);
        assert!(
            !shown.chars().any(|c| is_terminal_control(c) && c != '\n'),
            "{shown}"
        );
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
