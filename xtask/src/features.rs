//! One set of features for every build: whatever packages a command names, cargo compiles each
//! dependency the same way.
//!
//! Cargo unifies features over the packages that a command builds, so `-p streamhouse-client` would
//! compile half the tree anew after a build of the workspace. The crate `workspace-hack` names the
//! dependencies that differ with all their features; who depends on it cannot differ. This module
//! compares cargo's unit graphs, and writes that crate's manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde_json::Value;

/// What every other choice of packages is compared with.
const WHOLE: &[&str] = &["--workspace", "--all-targets"];

/// The commands that people and scripts give.
const CHOICES: &[&[&str]] = &[
    &["--workspace", "--bins", "--examples"],
    &["--features", "metrics", "--bin", "streamhouse-agent"],
    &[
        "--features",
        "metrics",
        "-p",
        "streamhouse-client",
        "--example",
        "phase_7_complete_demo",
    ],
    &["-p", "streamhouse-client", "--example", "e2e_producer_consumer"],
    &["-p", "streamhouse-agent", "--bin", "streamhouse-agent"],
    &["-p", "streamhouse-agent", "-p", "streamhouse-cli"],
    &["-p", "streamhouse-operator", "--bin", "streamhouse-operator"],
    &[
        "-p",
        "streamhouse-agent",
        "-p",
        "streamhouse-client",
        "--bins",
        "--examples",
    ],
    &["-p", "streamhouse-tests", "--example", "benchmark"],
    &["-p", "streamhouse-core", "--all-targets"],
    &["-p", "streamhouse-metadata", "--all-targets"],
    &["-p", "streamhouse-client", "--all-targets"],
    &["-p", "streamhouse-agent", "--all-targets"],
    &["-p", "streamhouse-operator", "--all-targets"],
    &["-p", "streamhouse-tests", "--all-targets"],
];

const MANIFEST: &str = "workspace-hack/Cargo.toml";
const BEGIN: &str = "# Written by cargo xtask features --update.\n";

/// A way to compile a package of the registry: name, version, the crate's kind and mode, and
/// whether it is for the build itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RegistryUnit {
    name: String,
    version: String,
    kind: String,
    for_build: bool,
}

type FeatureSet = BTreeSet<String>;
type UnitFeatures = BTreeMap<RegistryUnit, BTreeSet<FeatureSet>>;

/// Fails if one of the commands would compile a package with other features than the workspace, or
/// a choice of tests something that the build of the workspace has not compiled.
pub(crate) fn check(root: &Path, tests: &[&[&str]]) -> anyhow::Result<()> {
    let graph = unit_graph(root, "build", WHOLE)?;
    let whole = read(&graph)?;
    let mut differences = 0;
    for choice in CHOICES {
        for (unit, feature) in differing(&whole, &units(root, choice)?) {
            differences += 1;
            eprintln!(
                "cargo build {}: {} {} ({}{}) has other features: {}",
                choice.join(" "),
                unit.name,
                unit.version,
                unit.kind,
                if unit.for_build { ", for the build" } else { "" },
                Vec::from_iter(feature).join(", ")
            );
        }
    }
    anyhow::ensure!(
        differences == 0,
        "{differences} packages would be compiled twice: run cargo xtask features --update"
    );
    println!(
        "    {} commands compile each dependency as the workspace does",
        CHOICES.len()
    );
    check_tests(root, &compiled(&graph)?, tests)
}

/// Fails if a stage of the test command would compile something that the stage `build` has compiled
/// with other features. `built` is what that stage compiles.
fn check_tests(root: &Path, built: &BTreeSet<String>, choices: &[&[&str]]) -> anyhow::Result<()> {
    for tests in choices {
        let tested = compiled(&unit_graph(root, "test", tests)?)?;
        let again: Vec<&String> = tested.difference(built).collect();
        anyhow::ensure!(
            again.is_empty(),
            "cargo test {} would compile again: {again:#?}",
            tests.join(" ")
        );
    }
    println!("    the tests compile nothing that the build has not");
    Ok(())
}

/// Returns what a command compiles, with its features; examples in the documentation are compiled
/// by tests only.
fn compiled(graph: &Value) -> anyhow::Result<BTreeSet<String>> {
    let units = graph["units"].as_array().context("no units")?;
    let compiled = units.iter().filter(|unit| unit["mode"] != "doctest").map(|unit| {
        let target = &unit["target"];
        let parts = [
            &unit["pkg_id"],
            &target["kind"],
            &target["name"],
            &unit["mode"],
            &unit["features"],
        ];
        parts.map(Value::to_string).join(" ")
    });
    Ok(compiled.collect())
}

/// Writes the manifest anew, until no command differs.
pub(crate) fn update(root: &Path, tests: &[&[&str]]) -> anyhow::Result<()> {
    let path = root.join(MANIFEST);
    let mut named: BTreeMap<(bool, String, String), FeatureSet> = BTreeMap::new();
    loop {
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {MANIFEST}"))?;
        let head = text.split(BEGIN).next().unwrap_or_default();
        std::fs::write(&path, format!("{head}{BEGIN}{}", dependencies(&named)))?;
        let whole = units(root, WHOLE)?;
        let before = named.clone();
        for choice in CHOICES {
            for (unit, _) in differing(&whole, &units(root, choice)?) {
                let features = whole.get(&unit).into_iter().flatten().flatten().cloned();
                named
                    .entry((unit.for_build, unit.name, unit.version))
                    .or_default()
                    .extend(features);
            }
        }
        if named == before {
            return check(root, tests);
        }
    }
}

/// The tables of the manifest.
fn dependencies(named: &BTreeMap<(bool, String, String), FeatureSet>) -> String {
    let mut text = String::new();
    for for_build in [false, true] {
        text.push_str(if for_build {
            "\n[build-dependencies]\n"
        } else {
            "[dependencies]\n"
        });
        for ((_, name, version), features) in named.iter().filter(|((own, _, _), _)| *own == for_build) {
            let features: Vec<String> = features.iter().map(|feature| format!("\"{feature}\"")).collect();
            let version = requirement(version);
            let key = format!("{name}-{}", version.replace('.', "_"));
            text.push_str(&format!(
                "{key} = {{ package = \"{name}\", version = \"{version}\", default-features = false, features = [{}] }}\n",
                features.join(", ")
            ));
        }
    }
    text
}

/// The part of a version that compatible ones share: `1`, `0.4`.
fn requirement(version: &str) -> String {
    let parts: Vec<&str> = version.split(['.', '+', '-']).collect();
    match parts.as_slice() {
        ["0", minor, ..] => format!("0.{minor}"),
        [major, ..] => (*major).to_owned(),
        [] => version.to_owned(),
    }
}

/// The units of `some` that the whole compiles too, but not with these features.
fn differing(whole: &UnitFeatures, some: &UnitFeatures) -> Vec<(RegistryUnit, FeatureSet)> {
    let mut differing = Vec::new();
    for (unit, features) in some {
        let Some(all) = whole.get(unit) else { continue };
        for features in features.difference(all) {
            differing.push((unit.clone(), features.clone()));
        }
    }
    differing
}

/// Returns the packages of the registry that a build of this choice compiles.
fn units(root: &Path, choice: &[&str]) -> anyhow::Result<UnitFeatures> {
    read(&unit_graph(root, "build", choice)?)
}

/// Asks cargo what it would compile.
pub(crate) fn unit_graph(root: &Path, command: &str, choice: &[&str]) -> anyhow::Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([command, "--release", "-Z", "unstable-options", "--unit-graph"])
        .args(choice)
        // Cargo says what it would do on the nightly channel only; nothing is compiled here.
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(root)
        .output()
        .context("cannot run cargo")?;
    anyhow::ensure!(
        output.status.success(),
        "cargo {command} --unit-graph {}: {}",
        choice.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn read(graph: &Value) -> anyhow::Result<UnitFeatures> {
    let mut units = UnitFeatures::new();
    for unit in graph["units"].as_array().context("no units")? {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let id = text(&unit["pkg_id"]);
        let Some((name, version)) = id
            .rsplit_once('#')
            .and_then(|(_, package)| package.rsplit_once('@'))
        else {
            continue;
        };
        if !id.starts_with("registry+") {
            continue;
        }
        // A build script is compiled for the build whoever wants it; how it is run says for whom.
        let kind = format!("{} {}", text(&unit["target"]["kind"][0]), text(&unit["mode"]));
        let key = RegistryUnit {
            name: name.to_owned(),
            version: version.to_owned(),
            for_build: unit["profile"]["opt_level"] == "0" && kind != "custom-build build",
            kind,
        };
        let features = unit["features"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
        units.entry(key).or_default().insert(features);
    }
    Ok(units)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn unit(features: &[&str], opt_level: &str) -> Value {
        json!({
            "pkg_id": "registry+https://example.org/index#bytes@1.2.3",
            "target": { "kind": ["lib"] },
            "mode": "build",
            "profile": { "opt_level": opt_level },
            "features": features,
        })
    }

    fn units_of(units: &[Value]) -> UnitFeatures {
        read(&json!({ "units": units })).unwrap()
    }

    #[test]
    fn a_package_with_fewer_features_differs() {
        let whole = units_of(&[unit(&["default", "std"], "3")]);
        assert_eq!(differing(&whole, &whole), []);
        let found = differing(&whole, &units_of(&[unit(&["std"], "3")]));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0.name.as_str(), found[0].0.for_build), ("bytes", false));
    }

    #[test]
    fn a_package_for_the_build_is_another_than_one_for_the_program() {
        let whole = units_of(&[unit(&["std"], "3"), unit(&[], "0")]);
        assert_eq!(differing(&whole, &units_of(&[unit(&[], "0")])), []);
        assert_eq!(differing(&whole, &units_of(&[unit(&[], "3")])).len(), 1);
    }

    #[test]
    fn tests_with_other_features_are_compiled_again_and_examples_in_documentation_are_not_counted() {
        let graph = |units: &[Value]| json!({ "units": units });
        let whole = compiled(&graph(&[unit(&["std"], "3")])).unwrap();
        let mut doctest = unit(&[], "3");
        doctest["mode"] = json!("doctest");
        let same = compiled(&graph(&[unit(&["std"], "3"), doctest])).unwrap();
        assert_eq!(same.difference(&whole).count(), 0);
        let other = compiled(&graph(&[unit(&[], "3")])).unwrap();
        assert_eq!(other.difference(&whole).count(), 1);
    }

    #[test]
    fn a_package_that_the_workspace_does_not_compile_is_no_difference() {
        assert_eq!(differing(&UnitFeatures::new(), &units_of(&[unit(&[], "3")])), []);
    }

    #[test]
    fn the_manifest_names_each_version_by_itself() {
        let features = FeatureSet::from(["std".to_owned()]);
        let named = BTreeMap::from([
            ((false, "sha2".to_owned(), "0.10.9".to_owned()), features.clone()),
            ((false, "sha2".to_owned(), "0.11.1".to_owned()), FeatureSet::new()),
            ((true, "syn".to_owned(), "2.0.119".to_owned()), features),
        ]);
        let text = "[dependencies]\n\
            sha2-0_10 = { package = \"sha2\", version = \"0.10\", default-features = false, features = [\"std\"] }\n\
            sha2-0_11 = { package = \"sha2\", version = \"0.11\", default-features = false, features = [] }\n\
            \n[build-dependencies]\n\
            syn-2 = { package = \"syn\", version = \"2\", default-features = false, features = [\"std\"] }\n";
        assert_eq!(dependencies(&named), text);
    }
}
