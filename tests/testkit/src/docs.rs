//! Verifies that generated documents are up to date. Called by the tests of the crates that
//! generate documents.

use std::{env, fs, path::Path};

use anyhow::{Context, Result, ensure};

/// Compares the document at `path`, relative to the workspace root, with `expected`. Writes it if
/// `UPDATE_DOCS` is set.
///
/// # Errors
///
/// Fails if the document differs.
pub fn assert_current(path: &str, expected: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if env::var_os("UPDATE_DOCS").is_some() {
        let folder = path.parent().context("a document has a folder")?;
        fs::create_dir_all(folder)?;
        fs::write(&path, expected).with_context(|| path.display().to_string())?;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    ensure!(
        found == expected,
        "{} is not current; run hack/update-docs.sh",
        path.display()
    );
    Ok(())
}
