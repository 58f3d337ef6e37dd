//! Comments wrap, so that they can be read beside something else.

use super::StructureBreach;
use super::crates::WorkspaceCrates;

/// Lines that are all comment and wider than `columns`. Tables, links and what stands in code
/// fences cannot wrap.
pub(crate) fn check(workspace: &WorkspaceCrates, columns: usize) -> Vec<StructureBreach> {
    let mut breaches = Vec::new();
    for file in &workspace.files {
        let mut in_fence = false;
        for (index, line) in file.text.lines().enumerate() {
            let number = index + 1;
            let text = line.trim_start();
            if !text.starts_with("//") || file.source.string_lines.contains(&number) {
                in_fence = false;
                continue;
            }
            let words = text.trim_start_matches('/').trim_start_matches('!').trim_start();
            if words.starts_with("```") {
                in_fence = !in_fence;
            }
            let width = line.chars().count();
            let cannot_wrap = in_fence || words.starts_with('|') || words.contains("://");
            if width > columns && !cannot_wrap {
                let what = format!("a comment of {width} columns, the limit is {columns}: wrap it");
                breaches.push(StructureBreach::new(&file.path, number, what));
            }
        }
    }
    breaches
}
