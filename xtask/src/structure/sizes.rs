//! Every file says what it owns, and none is longer than the limit.

use super::StructureBreach;
use super::crates::{SourceFile, WorkspaceCrates};
use super::limits::{AIM, FILE_LINES, TEST_FILE_LINES};

/// Files that are too long, and files without a header.
pub(crate) fn check(workspace: &WorkspaceCrates) -> Vec<StructureBreach> {
    let mut breaches = Vec::new();
    for file in &workspace.files {
        let (lines, limit) = (lines(file), limit(file));
        if lines > limit {
            let what = format!("{lines} lines, the limit is {limit}: split it by responsibility");
            breaches.push(StructureBreach::new(&file.path, limit, what));
        }
        if !file.text.starts_with("//! ") {
            let what =
                "the first line is not `//!`: say what the file owns, who calls it, what it guarantees";
            breaches.push(StructureBreach::new(&file.path, 1, what));
        }
    }
    breaches
}

/// How many files there are, and how many of them are longer than the aim.
pub(crate) fn count(workspace: &WorkspaceCrates) -> (usize, usize) {
    let long = workspace.files.iter().filter(|file| lines(file) > AIM);
    (workspace.files.len(), long.count())
}

fn limit(file: &SourceFile) -> usize {
    if file.test { TEST_FILE_LINES } else { FILE_LINES }
}

/// Lines outside `#[cfg(test)]` items; of a file of tests, all lines.
fn lines(file: &SourceFile) -> usize {
    if file.test {
        file.text.lines().count()
    } else {
        file.source.own_lines
    }
}
