//! What cargo knows of packages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde_json::Value;

/// The architectures of the images.
const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// A name and a version. Of each there is one source: `deny.toml` allows crates.io only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PackageKey {
    pub(super) name: String,
    pub(super) version: String,
}

/// What is known of a package.
#[derive(Debug, Default)]
pub(super) struct PackageFacts {
    /// An SPDX expression.
    pub(super) license: Option<String>,
    pub(super) repository: Option<String>,
    /// SHA-256 of the archive; a package of this workspace has none.
    pub(super) checksum: Option<String>,
    pub(super) dependencies: BTreeSet<PackageKey>,
}

/// All packages of the lock file that one of the targets may need.
#[derive(Debug)]
pub(super) struct WorkspacePackages {
    facts: BTreeMap<PackageKey, PackageFacts>,
}

/// The packages that a program is compiled from.
#[derive(Debug)]
pub(super) struct CompiledPackages {
    /// Whether the package is part of the program, or runs while it is compiled.
    pub(super) in_program: BTreeMap<PackageKey, bool>,
}

impl WorkspacePackages {
    pub(super) fn read(root: &Path) -> anyhow::Result<WorkspacePackages> {
        let mut arguments = vec!["metadata", "--format-version", "1", "--locked"];
        for target in TARGETS {
            arguments.extend(["--filter-platform", target]);
        }
        let metadata: Value =
            serde_json::from_str(&run_cargo(root, &arguments)?).context("cargo metadata printed no JSON")?;
        let lock = std::fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
        WorkspacePackages::parse(&metadata, &lock)
    }

    fn parse(metadata: &Value, lock: &str) -> anyhow::Result<WorkspacePackages> {
        let mut checksums = checksums(lock)?;
        let mut facts = BTreeMap::new();
        let mut keys = BTreeMap::new();
        for package in list(&metadata["packages"])? {
            let key = PackageKey {
                name: text(&package["name"])?,
                version: text(&package["version"])?,
            };
            let license = package["license"].as_str().map(to_spdx);
            let known = PackageFacts {
                license,
                repository: package["repository"].as_str().map(ToOwned::to_owned),
                checksum: checksums.remove(&key),
                dependencies: BTreeSet::new(),
            };
            keys.insert(text(&package["id"])?, key.clone());
            anyhow::ensure!(facts.insert(key, known).is_none(), "two packages of one version");
        }
        for node in list(&metadata["resolve"]["nodes"])? {
            let key = keys.get(&text(&node["id"])?).context("a node without package")?;
            for dependency in list(&node["deps"])? {
                let kinds = list(&dependency["dep_kinds"])?;
                let other = keys.get(&text(&dependency["pkg"])?).context("no such package")?;
                if kinds.iter().any(|kind| kind["kind"] != "dev")
                    && let Some(known) = facts.get_mut(key)
                {
                    known.dependencies.insert(other.clone());
                }
            }
        }
        Ok(WorkspacePackages { facts })
    }

    pub(super) fn facts(&self, key: &PackageKey) -> anyhow::Result<&PackageFacts> {
        self.facts
            .get(key)
            .with_context(|| format!("cargo metadata has no {} {}", key.name, key.version))
    }
}

/// Returns what a package of this workspace is compiled from, without what only its tests need.
pub(super) fn compiled(root: &Path, package: &str) -> anyhow::Result<CompiledPackages> {
    let mut in_program = BTreeMap::new();
    for (edges, is_part) in [("normal,build", false), ("normal,no-proc-macro", true)] {
        for target in TARGETS {
            let tree = [
                "tree",
                "--locked",
                "--package",
                package,
                "--target",
                target,
                "--edges",
                edges,
                "--prefix",
                "none",
                "--format",
                "{p}",
            ];
            let tree = run_cargo(root, &tree)?;
            for line in tree.lines().filter(|line| !line.is_empty()) {
                in_program.insert(package_of_line(line)?, is_part);
            }
        }
    }
    Ok(CompiledPackages { in_program })
}

/// Reads a line such as `serde v1.0.228 (proc-macro)`.
fn package_of_line(line: &str) -> anyhow::Result<PackageKey> {
    let mut words = line.split(' ');
    let (name, version) = words.next().zip(words.next()).context("an empty line")?;
    let version = version.strip_prefix('v');
    let version = version.with_context(|| format!("no version in {line}"))?;
    Ok(PackageKey {
        name: name.to_owned(),
        version: version.to_owned(),
    })
}

/// Returns the checksums of a lock file.
fn checksums(lock: &str) -> anyhow::Result<BTreeMap<PackageKey, String>> {
    let lock: toml::Table = lock.parse().context("Cargo.lock is no TOML")?;
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let checksum = |package: &toml::Value| {
        let field = |name: &str| Some(package.get(name)?.as_str()?.to_owned());
        let (name, version) = (field("name")?, field("version")?);
        Some((PackageKey { name, version }, field("checksum")?))
    };
    Ok(packages.into_iter().flatten().filter_map(checksum).collect())
}

/// Returns the expression that an old form such as `MIT/Apache-2.0` means.
fn to_spdx(license: &str) -> String {
    let parts: Vec<&str> = license.split('/').map(str::trim).collect();
    parts.join(" OR ")
}

fn list(value: &Value) -> anyhow::Result<&Vec<Value>> {
    value.as_array().context("cargo metadata has no such list")
}

fn text(value: &Value) -> anyhow::Result<String> {
    let text = value.as_str().context("cargo metadata has no such text")?;
    Ok(text.to_owned())
}

fn run_cargo(root: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(root)
        .output()
        .context("cannot run cargo")?;
    anyhow::ensure!(
        output.status.success(),
        "cargo {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).context("cargo printed no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_forms_of_licences_become_expressions() {
        assert_eq!(to_spdx("MIT/Apache-2.0"), "MIT OR Apache-2.0");
        assert_eq!(to_spdx("Apache-2.0 / MIT"), "Apache-2.0 OR MIT");
        assert_eq!(to_spdx("MIT AND ISC"), "MIT AND ISC");
    }

    #[test]
    fn lines_of_a_tree_are_read() {
        let key = package_of_line("serde_derive v1.0.228 (proc-macro) (*)").unwrap();
        assert_eq!(
            (key.name.as_str(), key.version.as_str()),
            ("serde_derive", "1.0.228")
        );
        assert!(package_of_line("[build-dependencies]").is_err());
    }
}
