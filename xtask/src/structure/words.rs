//! What has no place in the tree: unfinished work, skipped tests, unsafe code, paths of one
//! machine.

use regex_lite::Regex;

use super::StructureBreach;
use super::crates::WorkspaceCrates;
use crate::repository::FileTree;

const TEXT: &[&str] = &[
    ".rs", ".toml", ".sql", ".proto", ".sh", ".md", ".yaml", ".yml", ".json", ".py",
];

/// This rule's own files, which have to name what they look for.
const OWN: &[&str] = &[
    "xtask/src/structure/words.rs",
    "xtask/src/structure/tests/words.rs",
];

struct WordRule {
    words: &'static [&'static str],
    pattern: Result<Regex, regex_lite::Error>,
    what: &'static str,
}

fn rules() -> [WordRule; 2] {
    [
        WordRule {
            words: &["TODO", "FIXME", "XXX", "HACK"],
            pattern: Regex::new(r"\b(TODO|FIXME|XXX|HACK)\b"),
            what: "unfinished work: do it, or write an issue",
        },
        WordRule {
            words: &["/root/", "/work/", "/home/", "/Users/"],
            pattern: Regex::new(r"(^|[^A-Za-z0-9_.~$}])/(root|work|home/[a-z]+|Users/[a-z]+)/"),
            what: "a path of one machine",
        },
    ]
}

/// Breaches in code and in every file of text.
pub(crate) fn check(tree: &FileTree, workspace: &WorkspaceCrates) -> Vec<StructureBreach> {
    let mut breaches = Vec::new();
    for file in &workspace.files {
        let unsafe_code = file.source.unsafe_lines.iter().map(|line| (*line, "unsafe code"));
        let skipped = file.source.ignored_lines.iter();
        let skipped = skipped.map(|line| (*line, "a skipped test: make it run or take it out"));
        breaches.extend(
            unsafe_code
                .chain(skipped)
                .map(|(line, what)| StructureBreach::new(&file.path, line, what)),
        );
    }
    let rules = rules();
    for (path, text) in tree
        .files()
        .filter(|(path, _)| is_text(path) && !OWN.contains(path))
    {
        for (index, line) in text.lines().enumerate() {
            for rule in &rules {
                // The pattern is slow, and few lines have one of the words.
                let may = rule.words.iter().any(|word| line.contains(word));
                if may && rule.pattern.as_ref().is_ok_and(|pattern| pattern.is_match(line)) {
                    breaches.push(StructureBreach::new(path, index + 1, rule.what));
                }
            }
        }
    }
    breaches
}

fn is_text(path: &str) -> bool {
    TEXT.iter().any(|end| path.ends_with(end)) || path.starts_with(".env") || path.starts_with(".ci/")
}
