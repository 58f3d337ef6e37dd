//! The variables that tell who uses a tool where it is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::spec::{ToolSpec, ToolVariable};

/// Variables, and folders that come first in PATH.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ToolExports {
    variables: BTreeMap<String, String>,
    search: Vec<PathBuf>,
}

impl ToolExports {
    /// Adds the variables of a tool in this folder.
    pub(crate) fn add(&mut self, spec: &ToolSpec, folder: &Path) {
        for variable in spec.variables {
            match variable {
                ToolVariable::Folder(name) => self.set(name, folder),
                ToolVariable::Path(name, path) => self.set(name, &folder.join(path)),
                ToolVariable::SearchPath(path) => self.search.push(folder.join(path)),
            }
        }
    }

    /// Adds the variable that names the user's own program.
    pub(crate) fn keep(&mut self, spec: &ToolSpec, value: &str) {
        if let Some(name) = spec.substitute {
            self.variables.insert(name.to_owned(), value.to_owned());
        }
    }

    fn set(&mut self, name: &str, path: &Path) {
        let value = path.to_string_lossy().into_owned();
        self.variables.insert(name.to_owned(), value);
    }

    /// Returns lines for bash to evaluate.
    pub(crate) fn to_shell(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.variables {
            text.push_str(&format!("export {name}={}\n", quote(value)));
        }
        for folder in &self.search {
            text.push_str(&format!(
                "export PATH={}\"${{PATH:+:$PATH}}\"\n",
                quote(&folder.to_string_lossy())
            ));
        }
        text
    }

    /// Returns the variables for a process, with a whole PATH if a tool changes it.
    pub(crate) fn to_environment(&self, path: Option<OsString>) -> anyhow::Result<BTreeMap<String, String>> {
        let mut variables = self.variables.clone();
        if !self.search.is_empty() {
            let path = path.unwrap_or_default();
            let folders = self.search.iter().cloned().chain(std::env::split_paths(&path));
            let path = std::env::join_paths(folders)?;
            variables.insert("PATH".to_owned(), path.to_string_lossy().into_owned());
        }
        Ok(variables)
    }
}

/// Quotes a word for a shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const TOOL: ToolSpec = ToolSpec {
        variables: &[
            ToolVariable::Path("THE_TOOL", "tool"),
            ToolVariable::SearchPath("bin"),
        ],
        substitute: Some("THE_TOOL"),
        ..ToolSpec::EMPTY
    };

    #[test]
    fn a_shell_reads_every_character_of_a_path() {
        let folder = "/tmp/it's $HOME `id` \"x\"\n\\;";
        let mut exports = ToolExports::default();
        exports.add(&TOOL, Path::new(folder));
        let script = format!("{}printf '%s|%s' \"$THE_TOOL\" \"$PATH\"", exports.to_shell());
        let output = Command::new("/bin/sh")
            .args(["-c", &script])
            .env("PATH", "/usr/bin")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text, format!("{folder}/tool|{folder}/bin:/usr/bin"));
    }

    #[test]
    fn a_process_gets_a_whole_path() {
        let mut exports = ToolExports::default();
        exports.add(&TOOL, Path::new("/cache/tool-1"));
        let environment = exports.to_environment(Some("/bin:/usr/bin".into())).unwrap();
        assert_eq!(environment["PATH"], "/cache/tool-1/bin:/bin:/usr/bin");
        assert_eq!(environment["THE_TOOL"], "/cache/tool-1/tool");
    }

    #[test]
    fn the_users_own_program_stays() {
        let mut exports = ToolExports::default();
        exports.keep(&TOOL, "/opt/tool");
        assert_eq!(exports.to_shell(), "export THE_TOOL='/opt/tool'\n");
    }
}
