//! What is known about this machine: its programs, files and variables.
//!
//! Guarantees: everything that decides whether something is missing is asked here, so that tests
//! can put another machine in its place.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::spec::PackageEvidence;

/// A machine that tools are installed on.
pub(crate) trait MachineFacts {
    /// Whether a program of this name is in PATH.
    fn has_program(&self, name: &str) -> bool;
    /// Whether there is a file of this absolute path, in which `*` stands for any part of a name.
    fn has_file(&self, pattern: &str) -> bool;
    /// Whether Python can create virtual environments.
    fn has_python_venv(&self) -> bool;
    /// Returns the value of a variable, unless it is empty.
    fn variable(&self, name: &str) -> Option<String>;
    /// Whether this process is root's.
    fn is_root(&self) -> bool;

    /// Whether it shows that a package is installed.
    fn has_evidence(&self, evidence: &PackageEvidence) -> bool {
        match evidence {
            PackageEvidence::Programs(programs) => programs.iter().all(|name| self.has_program(name)),
            PackageEvidence::File(pattern) => self.has_file(pattern),
            PackageEvidence::PythonVenv => self.has_python_venv(),
        }
    }
}

/// The machine that this process runs on.
#[derive(Debug)]
pub(crate) struct ThisMachine;

impl MachineFacts for ThisMachine {
    fn has_program(&self, name: &str) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| is_program(&folder.join(name)))
    }

    fn has_file(&self, pattern: &str) -> bool {
        !find_files(Path::new("/"), pattern).is_empty()
    }

    fn has_python_venv(&self) -> bool {
        let python = Command::new("python3")
            .args(["-c", "import ensurepip, venv"])
            .stdin(Stdio::null())
            .output();
        python.is_ok_and(|output| output.status.success())
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }

    fn is_root(&self) -> bool {
        let id = Command::new("id").arg("-u").output();
        id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
    }
}

/// Whether it is a file that may be executed.
pub(crate) fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Returns the paths below `root` that fit a pattern, in order. `*` stands for any part of a name,
/// once in a name, and not for a dot at its beginning.
pub(crate) fn find_files(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        found = found
            .iter()
            .flat_map(|folder| children(folder, part))
            .filter(|path| path.exists())
            .collect();
    }
    found
}

fn children(folder: &Path, part: &str) -> Vec<PathBuf> {
    let Some((before, after)) = part.split_once('*') else {
        return vec![folder.join(part)];
    };
    let fits = |name: &str| {
        name.len() >= before.len() + after.len()
            && name.starts_with(before)
            && name.ends_with(after)
            && (!name.starts_with('.') || before.starts_with('.'))
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(fits))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}
