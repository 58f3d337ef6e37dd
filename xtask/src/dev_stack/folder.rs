//! The stack's folder: what is in it, and what of it is deleted.
//!
//! Guarantees: only files that the stack itself makes are deleted, because the folder may have
//! existed before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use streamhouse_testkit::UnixUser;

use super::server::{ServerName, StackServer, remove_if_exists};
use crate::programs;
use crate::repository::CallFolders;
use crate::terminal::note;

/// Where PostgreSQL's data are if its user has no access to the stack's folder.
const POSTGRES_FOLDERS: &str = "/var/lib/streamhouse-dev";

/// The folder of a stack.
#[derive(Debug, Clone)]
pub(crate) struct StackFolder {
    path: PathBuf,
}

impl StackFolder {
    /// Chooses `DEV_DIR`, below the folder that the command was called from if it is relative, or
    /// else `.streamhouse/dev` in the repository.
    pub(crate) fn choose(folders: &CallFolders) -> StackFolder {
        let path = match std::env::var_os("DEV_DIR").filter(|folder| !folder.is_empty()) {
            Some(folder) => folders.called_from.join(folder),
            None => folders.root.join(".streamhouse/dev"),
        };
        StackFolder { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn server(&self, name: ServerName) -> StackServer {
        StackServer::new(name, &self.path)
    }

    pub(crate) fn minio(&self) -> PathBuf {
        self.path.join("minio")
    }

    pub(crate) fn prometheus(&self) -> PathBuf {
        self.path.join("prometheus")
    }

    pub(crate) fn alertmanager(&self) -> PathBuf {
        self.path.join("alertmanager")
    }

    /// Returns PostgreSQL's folder. PostgreSQL refuses to run as root, and its user may have no
    /// access to the checkout.
    ///
    /// # Errors
    ///
    /// Fails if a program is missing that finds it out.
    pub(crate) fn postgres(&self) -> anyhow::Result<PathBuf> {
        match UnixUser::find_unprivileged()? {
            Some(user) if !user.can_enter(&self.path)? => {
                let digest = programs::digest(self.path.as_os_str().as_encoded_bytes())?;
                Ok(Path::new(POSTGRES_FOLDERS).join(&digest[..12]))
            }
            _ => Ok(self.path.join("postgres")),
        }
    }

    fn ports_file(&self) -> PathBuf {
        self.path.join("ports")
    }

    pub(crate) fn settings_file(&self) -> PathBuf {
        self.path.join("env")
    }

    /// Returns the text of the last start's ports; empty if there was none.
    pub(crate) fn read_ports(&self) -> String {
        std::fs::read_to_string(self.ports_file()).unwrap_or_default()
    }

    /// Writes the ports for the next start.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub(crate) fn write_ports(&self, text: &str) -> anyhow::Result<()> {
        write(&self.ports_file(), text)
    }

    /// Returns the settings of an agent and the command line: what `source` of the file sets.
    ///
    /// # Errors
    ///
    /// Fails if the stack was not started.
    pub(crate) fn read_settings(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let path = self.settings_file();
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let exports = text
            .lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        Ok(exports
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }

    /// Deletes the stack's data, logs and settings, and the folder if nothing else is in it.
    ///
    /// # Errors
    ///
    /// Fails with the path that cannot be deleted.
    pub(crate) fn purge(&self) -> anyhow::Result<()> {
        let postgres = self.postgres()?;
        let own = ["postgres", "minio", "prometheus", "alertmanager"];
        let folders = own.iter().map(|name| self.path.join(name)).chain([postgres]);
        for folder in folders.filter(|folder| folder.exists()) {
            std::fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot delete {}", folder.display()))?;
        }
        for name in ServerName::ALL {
            remove_if_exists(&self.server(name).log())?;
        }
        remove_if_exists(&self.ports_file())?;
        remove_if_exists(&self.settings_file())?;
        if std::fs::remove_dir(&self.path).is_err() {
            note(&format!("other files stay in {}", self.path.display()));
        }
        Ok(())
    }
}

pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use streamhouse_testkit::create_temp_folder;

    use super::*;

    /// A folder of a stack with every file that a stack makes.
    fn fill(path: &Path) -> StackFolder {
        let folder = StackFolder {
            path: path.to_owned(),
        };
        // So that PostgreSQL's data are in it also if the tests run as root.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["minio", "prometheus", "alertmanager"] {
            std::fs::create_dir(path.join(name)).unwrap();
            std::fs::write(path.join(name).join("file"), "").unwrap();
        }
        std::fs::create_dir_all(folder.postgres().unwrap()).unwrap();
        for name in ServerName::ALL {
            std::fs::write(folder.server(name).log(), "").unwrap();
        }
        folder.write_ports("").unwrap();
        std::fs::write(folder.settings_file(), "").unwrap();
        folder
    }

    #[test]
    fn a_purge_deletes_the_folder_if_all_of_it_is_the_stacks() {
        let folder = create_temp_folder("streamhouse-stack-").unwrap();
        fill(folder.path()).purge().unwrap();
        assert!(!folder.path().exists());
    }

    #[test]
    fn a_purge_leaves_files_that_are_not_the_stacks() {
        let folder = create_temp_folder("streamhouse-stack-").unwrap();
        let stack = fill(folder.path());
        for name in ["notes", "other.log", "data.pid"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        stack.purge().unwrap();
        let left = std::fs::read_dir(folder.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["data.pid", "notes", "other.log"]);
    }

    #[test]
    fn settings_are_what_the_file_exports() {
        let folder = create_temp_folder("streamhouse-stack-").unwrap();
        let stack = StackFolder {
            path: folder.path().to_owned(),
        };
        stack.read_settings().unwrap_err();
        std::fs::write(
            stack.settings_file(),
            "# export A=1\n\nexport URL=postgres://a:b@c/d?e=f\n",
        )
        .unwrap();
        let settings = stack.read_settings().unwrap();
        assert_eq!(
            settings.into_iter().collect::<Vec<_>>(),
            [("URL".to_owned(), "postgres://a:b@c/d?e=f".to_owned())]
        );
    }
}
