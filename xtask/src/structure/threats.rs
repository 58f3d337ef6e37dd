//! What the threat model says that nobody can do is shown by tests that it names.
//!
//! A line with "cannot" has links to the files of its tests, whose texts are the tests' names.

use super::StructureBreach;
use crate::repository::FileTree;

/// The documents that make such promises.
const DOCUMENTS: [&str; 3] = [
    "SECURITY.md",
    "docs/concepts/security.md",
    "docs/operate/security.md",
];

/// Returns the lines that name no test, and the links to tests that do not exist.
pub(crate) fn check(tree: &FileTree) -> Vec<StructureBreach> {
    let documents = tree.files().filter(|(path, _)| DOCUMENTS.contains(path));
    let mut breaches = Vec::new();
    for (path, text) in documents {
        for (line, text) in text.lines().enumerate() {
            let mut add = |what: String| breaches.push(StructureBreach::new(path, line + 1, what));
            let tests = named_tests(text);
            if tests.is_empty() && says_cannot(text) {
                add(
                    "says what nobody can do, and links to no test that shows it: [`test`](path/to/file.rs)"
                        .into(),
                );
            }
            for (test, link) in tests {
                // Links that lead nowhere are found by `links`.
                let file = link.trim_start_matches("../");
                let found = tree.files().find(|(path, _)| *path == file);
                if !found.is_some_and(|(_, text)| has_test(text, test)) {
                    add(format!("names a test that is not in {file}: {test}"));
                }
            }
        }
    }
    breaches
}

fn says_cannot(line: &str) -> bool {
    line.split(|letter: char| !letter.is_alphanumeric())
        .any(|word| word.eq_ignore_ascii_case("cannot"))
}

/// Returns the names and files of the links of this form.
fn named_tests(line: &str) -> Vec<(&str, &str)> {
    let links = line.split("[`").skip(1);
    links
        .filter_map(|rest| {
            let (name, rest) = rest.split_once("`](")?;
            let (file, _) = rest.split_once(')')?;
            file.ends_with(".rs").then_some((name, file))
        })
        .collect()
}

/// Whether a file has a test of this name: a function with an attribute such as `#[tokio::test]`
/// right before it.
fn has_test(text: &str, name: &str) -> bool {
    let mut attributes = String::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('#') || line.starts_with("//") {
            attributes.push_str(line);
            continue;
        }
        let function = line.strip_prefix("async ").unwrap_or(line);
        let is_named = function
            .strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('));
        if is_named && (attributes.contains("#[test") || attributes.contains("::test")) {
            return true;
        }
        attributes.clear();
    }
    false
}
