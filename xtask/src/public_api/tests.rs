//! What the listing shows, and what it leaves out.

use super::*;

fn of(files: &[(&str, &str)]) -> String {
    let tree: FileTree = files.iter().copied().collect();
    listing(&tree).unwrap().replacen(HEAD, "", 1)
}

#[test]
fn public_items_are_listed_without_bodies_documents_and_private_fields() {
    let text = "/// A word.\n#[derive(Debug)]\npub struct Sender { pub size: u32, name: String }\n\
        impl Sender {\n/// Sends.\npub async fn send(&self, bytes: &[u8]) -> Result<u64> { todo(bytes) }\nfn private(&self) {}\n}\n\
        struct Hidden;\npub(crate) fn internal() {}\n";
    let expected = "\n// streamhouse_client\n#[derive(Debug)]\npub struct Sender {\n    pub size: u32,\n}\n\
        impl Sender {\n    pub async fn send(&self, bytes: &[u8]) -> Result<u64> {}\n}\n";
    assert_eq!(of(&[("client/src/lib.rs", text)]), expected);
}

#[test]
fn an_item_of_a_private_module_is_listed_where_it_is_exported() {
    let files = [
        (
            "client/src/lib.rs",
            "mod inner;\npub mod producer;\npub use inner::{Error, Hint as Advice};\n",
        ),
        (
            "client/src/inner.rs",
            "pub enum Error { Full { size: u32 } }\npub struct Unseen;\npub struct Hint;\n",
        ),
        ("client/src/producer.rs", "pub use super::inner::Error;\n"),
    ];
    let text = of(&files);
    assert_eq!(text.matches("pub enum Error").count(), 2);
    assert!(text.contains("// streamhouse_client::producer\npub enum Error {\n    Full { size: u32 },\n}"));
    assert!(text.contains("pub struct Hint;") && !text.contains("Unseen"));
}

#[test]
fn implementations_in_other_files_belong_to_their_type() {
    let files = [
        ("client/src/lib.rs", "mod sending;\npub struct Sender;\n"),
        (
            "client/src/sending.rs",
            "use crate::Sender;\nimpl Sender { pub fn send(&self) {} }\nimpl Iterator for Sender { type Item = u8; fn next(&mut self) -> Option<u8> { None } }\n\
             mod other { struct Sender; impl Sender { pub fn unseen(&self) {} } }\n",
        ),
    ];
    let text = of(&files);
    assert!(text.contains("pub fn send(&self) {}") && text.contains("type Item = u8;"));
    assert!(!text.contains("unseen") && !text.contains("fn next"));
}

#[test]
fn items_of_other_crates_are_named() {
    let text = of(&[(
        "client/src/lib.rs",
        "pub use opentelemetry;\npub use streamhouse_core::{Error as ClusterError, ErrorCode};\n",
    )]);
    let expected = "\n// streamhouse_client\npub use opentelemetry;\npub use streamhouse_core::Error as ClusterError;\npub use streamhouse_core::ErrorCode;\n";
    assert_eq!(text, expected);
}

#[test]
fn tests_are_not_listed() {
    let text = "pub fn kept() {}\n#[cfg(test)]\npub mod tests { pub fn dropped() {} }\n";
    assert_eq!(
        of(&[("client/src/lib.rs", text)]),
        "\n// streamhouse_client\npub fn kept() {}\n"
    );
}

#[test]
fn a_difference_names_what_is_gone_and_what_is_new() {
    assert_eq!(difference("a\nb\n", "a\nc\n"), ["- b", "+ c"]);
}
