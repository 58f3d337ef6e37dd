//! Where tools are installed: the repository, the cache, the pinned versions and the machine.
//!
//! Owns the names of the folders in the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::command::{read_output, short_digest};
use super::machine::{MachineFacts, ThisMachine, find_files};
use super::name::ToolName;
use super::spec::{CachedTool, DigestInput, FolderName};
use super::versions::PinnedVersions;

/// What every part of an installation needs to know.
pub(crate) struct ToolContext {
    pub(crate) root: PathBuf,
    pub(crate) cache: PathBuf,
    pub(crate) versions: PinnedVersions,
    pub(crate) machine: Box<dyn MachineFacts>,
}

impl ToolContext {
    /// For this machine.
    pub(crate) fn open(root: &Path) -> anyhow::Result<ToolContext> {
        Ok(ToolContext {
            root: root.to_owned(),
            cache: super::cache::cache_folder()?,
            versions: PinnedVersions::read(root)?,
            machine: Box::new(ThisMachine),
        })
    }

    /// Returns the folder in the cache of a tool that has one.
    pub(crate) fn folder_of(&self, tool: ToolName) -> anyhow::Result<PathBuf> {
        let cached = tool.spec().cached.as_ref();
        let cached = cached.with_context(|| format!("{} has no folder in the cache", tool.spec().name))?;
        self.folder(cached)
    }

    /// Returns the folder in the cache.
    pub(crate) fn folder(&self, cached: &CachedTool) -> anyhow::Result<PathBuf> {
        let name = match &cached.folder {
            FolderName::Fixed(name) => (*name).to_owned(),
            FolderName::Version(prefix, key) => format!("{prefix}-{}", self.versions.version(key)?),
            FolderName::Digest(prefix, inputs) => format!("{prefix}-{}", self.digest(inputs)?),
            FolderName::VersionAndDigest(prefix, key, inputs) => {
                let version = self.versions.version(key)?;
                format!("{prefix}-{version}-{}", self.digest(inputs)?)
            }
        };
        Ok(self.cache.join(name))
    }

    /// Returns what messages call a tool.
    pub(crate) fn title(&self, cached: &CachedTool) -> anyhow::Result<String> {
        let version = match &cached.folder {
            FolderName::Version(_, key) | FolderName::VersionAndDigest(_, key, _) => {
                self.versions.version(key)?
            }
            FolderName::Fixed(_) | FolderName::Digest(..) => "",
        };
        Ok(cached.title.replace("{version}", version))
    }

    fn digest(&self, inputs: &[DigestInput]) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        for input in inputs {
            match input {
                DigestInput::Files(pattern) => read_into(&mut bytes, &self.root, pattern)?,
                DigestInput::ToolFiles(tool, pattern) => {
                    read_into(&mut bytes, &self.folder_of(*tool)?, pattern)?;
                }
                DigestInput::PythonVersion => {
                    let version = read_output(Command::new("python3").arg("--version"))?;
                    bytes.extend(version.as_bytes());
                    bytes.push(b'\n');
                }
            }
        }
        short_digest(&bytes)
    }
}

fn read_into(bytes: &mut Vec<u8>, folder: &Path, pattern: &str) -> anyhow::Result<()> {
    let files = find_files(folder, pattern);
    anyhow::ensure!(!files.is_empty(), "there is no {pattern} in {}", folder.display());
    for file in files {
        let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        bytes.extend(text);
    }
    Ok(())
}

/// A build that goes on.
pub(crate) struct ToolBuild<'a> {
    pub(crate) context: &'a ToolContext,
    /// The tool's name in messages.
    pub(crate) title: String,
    /// Where it will be.
    pub(crate) folder: PathBuf,
    /// Where it is built.
    pub(crate) new: PathBuf,
}
