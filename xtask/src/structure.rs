//! The rules of `docs/ARCHITECTURE.md` that no compiler checks.
//!
//! Each rule is a function of the files in memory, so that its tests can show it biting. Called by
//! `hack/check-structure.sh`. Prints each breach as `file:line: what`; ends with 1 if there is any.

mod circles;
mod comments;
pub(crate) mod crates;
mod doctests;
mod environment;
mod imports;
mod levels;
mod limits;
mod links;
mod manifests;
mod names;
mod sizes;
mod source;
mod threats;
mod words;

use std::fmt;
use std::process::ExitCode;

use self::crates::WorkspaceCrates;
use crate::repository::FileTree;

/// A place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StructureBreach {
    path: String,
    line: usize,
    what: String,
}

impl StructureBreach {
    pub(crate) fn new(path: impl Into<String>, line: usize, what: impl Into<String>) -> StructureBreach {
        StructureBreach {
            path: path.into(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for StructureBreach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Checks every rule, prints the breaches and what the ratchets measured.
pub(crate) fn run(tree: &FileTree) -> ExitCode {
    let (workspace, mut breaches) = WorkspaceCrates::parse(tree);
    breaches.extend(sizes::check(&workspace));
    breaches.extend(manifests::check(tree));
    breaches.extend(levels::check(
        &workspace,
        limits::LEVELS,
        limits::KNOWN_LEVEL_BREACHES,
    ));
    breaches.extend(circles::check(&workspace, limits::KNOWN_CIRCLES));
    breaches.extend(environment::check(&workspace));
    breaches.extend(words::check(tree, &workspace));
    if let Some(columns) = limits::COMMENT_COLUMNS {
        breaches.extend(comments::check(&workspace, columns));
    }
    let measured = names::measure(&workspace);
    breaches.extend(names::check(&measured, limits::NAMES));
    breaches.extend(links::check(tree));
    breaches.extend(doctests::check(tree));
    breaches.extend(threats::check(tree));
    breaches.sort();
    breaches.dedup();
    for breach in &breaches {
        eprintln!("{breach}");
    }
    for line in names::report(&measured) {
        println!("    {line}");
    }
    println!(
        "    {} known circles of files, {} known imports against the levels",
        limits::KNOWN_CIRCLES.len(),
        limits::KNOWN_LEVEL_BREACHES.len()
    );
    let (files, long) = sizes::count(&workspace);
    if breaches.is_empty() {
        println!(
            "    {files} Rust files, {long} of them over {} lines; no breach",
            limits::AIM
        );
        ExitCode::SUCCESS
    } else {
        eprintln!("\nerror: {} breaches of the structure", breaches.len());
        ExitCode::FAILURE
    }
}

/// Prints which modules of each crate import which.
pub(crate) fn graph(tree: &FileTree) -> ExitCode {
    for line in levels::graph(&WorkspaceCrates::parse(tree).0) {
        println!("{line}");
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests;
