//! The user as whom servers run that refuse to run as root.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::ProcessBuilder;

/// A user without privileges, by its numbers.
#[derive(Debug, Clone)]
pub struct UnixUser {
    uid: u32,
    gid: u32,
}

impl UnixUser {
    /// Returns `None` unless this process runs as root; otherwise the user `postgres` of the
    /// package, or `nobody`.
    ///
    /// # Errors
    ///
    /// Fails if there is neither.
    pub fn find_unprivileged() -> anyhow::Result<Option<UnixUser>> {
        let id = |args: &[&str]| -> anyhow::Result<Option<u32>> {
            let output = Command::new("id")
                .args(args)
                .output()
                .context("the program id is missing")?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().parse().ok())
        };
        if id(&["-u"])? != Some(0) {
            return Ok(None);
        }
        for name in ["postgres", "nobody"] {
            if let (Some(uid), Some(gid)) = (id(&["-u", name])?, id(&["-g", name])?) {
                return Ok(Some(UnixUser { uid, gid }));
            }
        }
        anyhow::bail!(
            "PostgreSQL does not run as root, and there is no user postgres or nobody: run this as another user"
        )
    }

    /// Makes this user the owner of a file or folder.
    ///
    /// # Errors
    ///
    /// Fails if the file does not exist.
    pub fn take_ownership(&self, path: &Path) -> anyhow::Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("cannot change the owner of {}", path.display()))
    }

    /// Returns whether this user reaches the files in a folder.
    ///
    /// # Errors
    ///
    /// Fails if setpriv, a program of util-linux, is missing.
    pub fn can_enter(&self, folder: &Path) -> anyhow::Result<bool> {
        let tested = Command::new("setpriv")
            .args(self.setpriv_arguments())
            .args(["test", "-x"])
            .arg(folder)
            .current_dir("/")
            .stderr(Stdio::null())
            .status();
        Ok(tested
            .context("setpriv is missing: install util-linux")?
            .success())
    }

    /// Prepares a program that runs as this user.
    pub(crate) fn program(&self, path: &Path, name: &Path) -> ProcessBuilder {
        ProcessBuilder::new("setpriv")
            .name(name.display().to_string())
            .args(self.setpriv_arguments())
            .arg(path)
    }

    fn setpriv_arguments(&self) -> [String; 3] {
        [
            format!("--reuid={}", self.uid),
            format!("--regid={}", self.gid),
            "--clear-groups".to_owned(),
        ]
    }
}
