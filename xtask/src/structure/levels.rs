//! Inside a crate imports go down the levels; modules of one level do not know each other.

use std::collections::{BTreeMap, BTreeSet};

use super::StructureBreach;
use super::crates::WorkspaceCrates;
use super::imports::imports;
use super::limits::{CrateLevels, KnownImport};

/// Imports that go up or sideways and are not known; known ones that are gone; modules that have no
/// level; crates that have none.
pub(crate) fn check(
    workspace: &WorkspaceCrates,
    levels: &[CrateLevels],
    known: &[KnownImport],
) -> Vec<StructureBreach> {
    let mut breaches = Vec::new();
    let mut met: BTreeSet<KnownImport> = BTreeSet::new();
    for krate in workspace.crates() {
        if krate.starts_with("tests") {
            continue;
        }
        let Some((_, levels)) = levels.iter().find(|(name, _)| *name == krate) else {
            let what = format!("the crate {krate} has no levels: add them in xtask/src/structure/limits.rs");
            breaches.push(StructureBreach::new(format!("{krate}/Cargo.toml"), 1, what));
            continue;
        };
        let rank = |module: &str| levels.iter().position(|level| level.contains(&module));
        let modules = workspace.modules(krate);
        for file in &modules.files {
            let Some(own) = file.module.first() else { continue };
            if file.module.len() == 1 && rank(own).is_none() {
                let what = format!("the module {own} has no level: add it in xtask/src/structure/limits.rs");
                breaches.push(StructureBreach::new(&file.path, 1, what));
            }
        }
        for import in imports(&modules) {
            let file = modules.files[import.from];
            let (Some(own), Some(other)) = (file.module.first(), import.target.first()) else {
                continue;
            };
            let (Some(own_rank), Some(other_rank)) = (rank(own), rank(other)) else {
                continue;
            };
            if own == other || other_rank > own_rank {
                continue;
            }
            if let Some(known) = known
                .iter()
                .find(|known| **known == (krate, own.as_str(), other.as_str()))
            {
                met.insert(*known);
                continue;
            }
            let place = if other_rank < own_rank { "above" } else { "beside" };
            let what = format!("{own} must not import {other}, which stands {place} it");
            breaches.push(StructureBreach::new(&file.path, import.line, what));
        }
    }
    let crates = workspace.crates();
    let gone = known
        .iter()
        .filter(|known| crates.contains(known.0) && !met.contains(*known));
    for (krate, own, other) in gone {
        let what =
            format!("{krate}: {own} does not import {other} any more: take it out of KNOWN_LEVEL_BREACHES");
        breaches.push(StructureBreach::new("xtask/src/structure/limits.rs", 1, what));
    }
    breaches
}

/// Which modules each module of a crate imports, for who looks for a new one's place.
pub(crate) fn graph(workspace: &WorkspaceCrates) -> Vec<String> {
    let mut lines = Vec::new();
    for krate in workspace.crates() {
        let modules = workspace.modules(krate);
        let mut graph: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for import in imports(&modules) {
            let (own, other) = (modules.files[import.from].module.first(), import.target.first());
            if let (Some(own), Some(other)) = (own, other)
                && own != other
            {
                graph.entry(own).or_default().insert(other.clone());
            }
        }
        for (own, others) in graph {
            let others: Vec<String> = others.into_iter().collect();
            lines.push(format!("{krate}: {own} imports {}", others.join(", ")));
        }
    }
    lines
}
