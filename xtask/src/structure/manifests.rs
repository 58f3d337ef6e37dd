//! Crates depend on each other in one direction, and on the outside world in one place.

use super::StructureBreach;
use super::limits::{ONE_PLACE, WORKSPACE_DEPENDENCIES};
use crate::repository::FileTree;

/// Dependencies that a crate must not have, and crates without the workspace's lints. Dependencies
/// of tests are free.
pub(crate) fn check(tree: &FileTree) -> Vec<StructureBreach> {
    let mut breaches = Vec::new();
    for (path, text) in tree.files() {
        let Some(krate) = path.strip_suffix("/Cargo.toml") else {
            continue;
        };
        let manifest: toml::Table = match text.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                breaches.push(StructureBreach::new(path, 1, format!("is no TOML: {error}")));
                continue;
            }
        };
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        if lints.and_then(toml::Value::as_bool) != Some(true) {
            breaches.push(StructureBreach::new(
                path,
                1,
                "the crate does not take the workspace's lints",
            ));
        }
        for name in dependencies(&manifest) {
            if !may(krate, &name) {
                let what = format!("{krate} must not depend on {name}");
                breaches.push(StructureBreach::new(path, line_of(text, &name), what));
            }
        }
    }
    breaches
}

/// What is in `[dependencies]` and `[build-dependencies]`, for all targets, by the names of the
/// packages.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let targets = targets.into_iter().flat_map(|targets| targets.values());
    let tables = targets.filter_map(toml::Value::as_table).chain([manifest]);
    tables
        .flat_map(|table| [table.get("dependencies"), table.get("build-dependencies")])
        .flatten()
        .filter_map(toml::Value::as_table)
        .flatten()
        .map(|(name, value)| {
            let package = value.get("package").and_then(toml::Value::as_str);
            package.unwrap_or(name).to_owned()
        })
        .collect()
}

fn may(krate: &str, name: &str) -> bool {
    if let Some(short) = name.strip_prefix("streamhouse-") {
        let row = WORKSPACE_DEPENDENCIES.iter().find(|(own, _)| *own == krate);
        return row.is_some_and(|(_, allowed)| allowed.contains(&short) || allowed.contains(&"*"));
    }
    let place = ONE_PLACE.iter().find(|(prefix, _)| {
        name == *prefix
            || prefix
                .strip_suffix('*')
                .is_some_and(|prefix| name.starts_with(prefix))
    });
    place.is_none_or(|(_, place)| *place == krate)
}

/// The first line that begins with the name, or names it at all.
fn line_of(text: &str, name: &str) -> usize {
    let begins = text.lines().position(|line| line.trim_start().starts_with(name));
    let names = || text.lines().position(|line| line.contains(name));
    begins.or_else(names).map_or(1, |index| index + 1)
}
