//! Settings are read in one place; others get them as values.

use super::StructureBreach;
use super::crates::{SourceFile, WorkspaceCrates};

const CRATES: &[&str] = &["core", "metadata", "agent", "client", "cli", "operator"];
const READERS: &[&str] = &["var", "vars", "var_os", "vars_os"];

/// Reads of the environment outside settings and entry points.
pub(crate) fn check(workspace: &WorkspaceCrates) -> Vec<StructureBreach> {
    let mut breaches = Vec::new();
    let files = workspace
        .files
        .iter()
        .filter(|file| CRATES.contains(&file.krate.as_str()) && !file.test && !may_read(file));
    for file in files {
        for mention in &file.source.mentions {
            let reads = matches!(mention.segments.as_slice(), [.., module, name] if module == "env" && READERS.contains(&name.as_str()));
            // The switch with which tests write documents anew is no setting.
            let line = || file.text.lines().nth(mention.line.saturating_sub(1));
            if reads && !line().is_some_and(|line| line.contains("UPDATE_DOCS")) {
                breaches.push(StructureBreach::new(
                    &file.path,
                    mention.line,
                    "reads the environment: take a setting instead",
                ));
            }
        }
    }
    breaches
}

fn may_read(file: &SourceFile) -> bool {
    let settings = file.module.iter().any(|module| module == "settings");
    settings || file.path.ends_with("/process.rs") || file.path.ends_with("/main.rs")
}
