//! Rust examples of documents are compiled, or say why not.
//!
//! rustdoc compiles the documents that `tests/src/lib.rs` includes.

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag};

use super::StructureBreach;
use crate::repository::FileTree;

/// The file that includes documents for rustdoc; paths in it are relative to its folder.
const INCLUDES: &str = "tests/src/lib.rs";

/// Returns the Rust blocks that no test compiles and that have no reason for it.
pub(crate) fn check(tree: &FileTree) -> Vec<StructureBreach> {
    let includes = tree.files().find(|(path, _)| *path == INCLUDES);
    let includes = includes.map_or("", |(_, text)| text);
    let mut breaches = Vec::new();
    for (path, text) in tree.files().filter(|(path, _)| path.ends_with(".md")) {
        let compiled = includes.contains(&format!("include_str!(\"../../{path}\")"));
        for (event, range) in Parser::new(text).into_offset_iter() {
            let Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) = event else {
                continue;
            };
            if let Some(what) = find_wrong(&info, compiled) {
                let line = text[..range.start].matches('\n').count() + 1;
                breaches.push(StructureBreach::new(path, line, what));
            }
        }
    }
    breaches
}

fn find_wrong(info: &str, compiled: bool) -> Option<&'static str> {
    let (language, attributes) = info.split_once(',').unwrap_or((info, ""));
    if language.trim() != "rust" {
        return None;
    }
    match attributes.trim().strip_prefix("ignore") {
        Some(reason) if reason.trim().len() > "()".len() => None,
        Some(_) => Some("does not say why it is not compiled: write rust,ignore (reason)"),
        None if compiled => None,
        None => {
            Some("is not compiled: include the document in tests/src/lib.rs, or write rust,ignore (reason)")
        }
    }
}
