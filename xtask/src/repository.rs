//! The files of the repository, in memory: what the rules look at.
//!
//! Owns which files belong to the repository: what git tracks or would track; without git, all but
//! what builds leave behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

/// The repository's root folder: the one above this crate.
pub(crate) fn root() -> anyhow::Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = own.parent().context("this crate lies in no folder")?;
    Ok(root.to_owned())
}

/// Where a command works, and where it was called from.
#[derive(Debug)]
pub(crate) struct CallFolders {
    /// The repository's root, which is the current folder.
    pub(crate) root: PathBuf,
    /// What relative paths of the caller are relative to.
    pub(crate) called_from: PathBuf,
}

impl CallFolders {
    /// Enters the repository's root, where cargo and the scripts run.
    pub(crate) fn enter() -> anyhow::Result<CallFolders> {
        let root = root()?;
        // The scripts in hack/ have entered the root already, and name the folder in a variable.
        let called_from = match std::env::var_os("CALLED_FROM") {
            Some(folder) => PathBuf::from(folder),
            None => std::env::current_dir().context("the current folder does not exist")?,
        };
        std::env::set_current_dir(&root).context("cannot enter the repository")?;
        Ok(CallFolders { root, called_from })
    }
}

/// Paths, relative to the root and with `/`, and the text of each file. A file that is not UTF-8
/// has the text "".
#[derive(Debug, Default)]
pub(crate) struct FileTree {
    files: BTreeMap<String, String>,
}

impl FileTree {
    /// Reads the files below `root`.
    pub(crate) fn read(root: &Path) -> anyhow::Result<FileTree> {
        let paths = match tracked(root) {
            Some(paths) => paths,
            None => walk(root)?,
        };
        let mut files = BTreeMap::new();
        for path in paths {
            // A file that is tracked and was removed is no file.
            if let Ok(bytes) = std::fs::read(root.join(&path)) {
                files.insert(path, String::from_utf8(bytes).unwrap_or_default());
            }
        }
        anyhow::ensure!(!files.is_empty(), "there is no file in {}", root.display());
        Ok(FileTree { files })
    }

    /// Paths and texts in the order of the paths.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Whether there is a file or a folder of this path; the root is "".
    pub(crate) fn exists(&self, path: &str) -> bool {
        if path.is_empty() || self.files.contains_key(path) {
            return true;
        }
        let folder = format!("{}/", path.trim_end_matches('/'));
        self.files
            .range(folder.clone()..)
            .next()
            .is_some_and(|(first, _)| first.starts_with(&folder))
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for FileTree {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(files: I) -> FileTree {
        let files = files.into_iter();
        FileTree {
            files: files
                .map(|(path, text)| (path.to_owned(), text.to_owned()))
                .collect(),
        }
    }
}

/// What git tracks, and what it would track if it were added.
fn tracked(root: &Path) -> Option<Vec<String>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let listed = String::from_utf8(listed.stdout).ok()?;
    let paths: Vec<String> = listed
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect();
    (!paths.is_empty()).then_some(paths)
}

fn walk(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut paths = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if matches!(name, ".git" | "target" | "__pycache__" | ".streamhouse") {
                continue;
            }
            let path = format!("{folder}{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(format!("{path}/"));
            } else if kind.is_file() {
                paths.push(path);
            }
        }
    }
    Ok(paths)
}
