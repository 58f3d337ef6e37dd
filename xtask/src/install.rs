//! Installs programs that are missing, with the functions of hack/lib.sh.
//!
//! The one place outside the test command that calls them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

/// The function of hack/lib.sh for each thing that can be installed.
const FUNCTIONS: &[(&str, &str)] = &[
    ("dev-tools", "need_dev_tools"),
    ("minio", "need_minio"),
    ("python3", "have python3 || apt_install python3"),
    ("words", "need_words"),
];

/// Installs these in this terminal: sudo may ask for a password. Returns the variables that the
/// functions set, such as `WORDS`.
///
/// # Errors
///
/// Fails if one of them cannot be installed, after bash has printed why.
pub(crate) fn install(root: &Path, needs: &[&str]) -> anyhow::Result<BTreeMap<String, String>> {
    let functions = needs.iter().map(|need| {
        let found = FUNCTIONS.iter().find(|(name, _)| name == need);
        found
            .map(|(_, function)| *function)
            .with_context(|| format!("nothing installs {need}"))
    });
    let functions = functions.collect::<anyhow::Result<Vec<&str>>>()?.join("; ");
    let folder = streamhouse_testkit::create_temp_folder("streamhouse-install-")?;
    let variables = folder.path().join("variables");
    let installed = Command::new("bash")
        .args([
            "-c",
            &format!(". hack/lib.sh; set -a; {functions}; env -0 >\"$1\""),
        ])
        // The name by which hack/lib.sh finds the repository.
        .arg(root.join("hack/test.sh"))
        .arg(&variables)
        .current_dir(root)
        .status()
        .context("cannot run bash")?;
    anyhow::ensure!(
        installed.success(),
        "cannot install what is needed: {}",
        needs.join(", ")
    );
    let text = std::fs::read_to_string(&variables).context("cannot read what bash set")?;
    let pairs = text.split('\0').filter_map(|variable| variable.split_once('='));
    Ok(pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}
