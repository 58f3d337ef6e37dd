//! Files of a crate do not import each other in circles.
//!
//! A file and the files below it are one thing and may know each other. Those circles that are
//! known may only become fewer.

use std::collections::{BTreeMap, BTreeSet};

use super::StructureBreach;
use super::crates::WorkspaceCrates;
use super::imports::imports;

/// A circle: the files of a crate that reach each other, in the order of their paths.
type ImportCircle = Vec<String>;

/// Circles that are not known, and known ones that are gone or smaller.
pub(crate) fn check(workspace: &WorkspaceCrates, known: &[&[&str]]) -> Vec<StructureBreach> {
    let mut breaches = Vec::new();
    let found = find(workspace);
    for (circle, line) in &found {
        if !known.iter().any(|known| known == circle) {
            let what = format!("imports go in a circle: {}", circle.join(" \u{2194} "));
            breaches.push(StructureBreach::new(&circle[0], *line, what));
        }
    }
    for known in known {
        if !found.iter().any(|(circle, _)| known == circle) {
            let what = format!(
                "this circle is not as it was, write it anew in KNOWN_CIRCLES: {}",
                known.join(" \u{2194} ")
            );
            breaches.push(StructureBreach::new("xtask/src/structure/limits.rs", 1, what));
        }
    }
    breaches
}

/// Every circle, with the line of one of its imports in its first file.
fn find(workspace: &WorkspaceCrates) -> Vec<(ImportCircle, usize)> {
    let mut circles = Vec::new();
    for krate in workspace.crates() {
        let modules = workspace.modules(krate);
        let mut edges: BTreeMap<usize, BTreeMap<usize, usize>> = BTreeMap::new();
        for import in imports(&modules) {
            let (from, to) = (
                &modules.files[import.from].module,
                &modules.files[import.to].module,
            );
            let related = from.starts_with(to) || to.starts_with(from);
            if import.from != import.to && !related {
                edges
                    .entry(import.from)
                    .or_default()
                    .entry(import.to)
                    .or_insert(import.line);
            }
        }
        for circle in components(modules.files.len(), &edges) {
            let line = edges[&circle[0]].iter().find(|(to, _)| circle.contains(to));
            let line = line.map_or(1, |(_, line)| *line);
            let paths = circle.iter().map(|index| modules.files[*index].path.clone());
            circles.push((paths.collect(), line));
        }
    }
    circles
}

/// The groups of two or more that reach each other, in order.
fn components(count: usize, edges: &BTreeMap<usize, BTreeMap<usize, usize>>) -> Vec<Vec<usize>> {
    let reached: Vec<BTreeSet<usize>> = (0..count).map(|from| reach(from, edges)).collect();
    let mut components = Vec::new();
    let mut placed = BTreeSet::new();
    for from in 0..count {
        if placed.contains(&from) || !reached[from].contains(&from) {
            continue;
        }
        let group: Vec<usize> = reached[from]
            .iter()
            .copied()
            .filter(|to| reached[*to].contains(&from))
            .collect();
        placed.extend(group.iter().copied());
        components.push(group);
    }
    components
}

/// What can be reached from a file; the file itself only by a circle.
fn reach(from: usize, edges: &BTreeMap<usize, BTreeMap<usize, usize>>) -> BTreeSet<usize> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(file) = open.pop() {
        for to in edges.get(&file).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(*to) {
                open.push(*to);
            }
        }
    }
    reached
}
