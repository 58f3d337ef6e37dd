//! Holds generated documents to the code they are made from. Only for tests.

use std::{env, fs, path::Path};

/// Fails when the document at `path` (from the workspace's root) is not `expected`; with `UPDATE_DOCS=1` writes it.
pub(crate) fn assert_current(path: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().expect("a document has a folder")).expect("the folder can be made");
        fs::write(&path, expected).expect("the document can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{} is not current; run hack/update-docs.sh",
        path.display()
    );
}
