//! The pinned versions: hack/versions.sh, and the go.mod files that must agree with it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;

/// The versions of hack/versions.sh.
#[derive(Debug)]
pub(crate) struct PinnedVersions {
    values: BTreeMap<String, String>,
}

impl PinnedVersions {
    /// Reads hack/versions.sh.
    pub(crate) fn read(root: &Path) -> anyhow::Result<PinnedVersions> {
        let path = root.join("hack/versions.sh");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(PinnedVersions::parse(&text))
    }

    /// Reads lines of `KEY=value`.
    pub(crate) fn parse(text: &str) -> PinnedVersions {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        PinnedVersions {
            values: lines
                .filter_map(|line| line.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
                .collect(),
        }
    }

    /// Returns the version of this key.
    pub(crate) fn version(&self, key: &str) -> anyhow::Result<&str> {
        self.values
            .get(key)
            .map(String::as_str)
            .with_context(|| format!("no {key} in hack/versions.sh"))
    }
}

/// Fails if a go.mod file requires another version of a module.
pub(crate) fn ensure_required(go_mod: &str, path: &str, module: &str, version: &str) -> anyhow::Result<()> {
    let wanted = format!("{module} {version}");
    let required = go_mod.lines().any(|line| {
        let line = line.trim();
        line.strip_prefix("require ").unwrap_or(line).trim_start() == wanted
    });
    anyhow::ensure!(
        required,
        "hack/versions.sh wants {wanted}, and {path} another version: make them equal"
    );
    Ok(())
}

/// Whether a version is at least another; both are numbers with dots between them.
pub(crate) fn is_at_least(version: &str, wanted: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> {
        text.split('.')
            .map(|part| {
                let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
                digits.parse().unwrap_or(0)
            })
            .collect()
    };
    numbers(version) >= numbers(wanted)
}
