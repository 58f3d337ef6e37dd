//! Who imports whom inside a crate: what levels and circles are read from.

use super::crates::CrateModules;

/// One import between two files of a crate.
#[derive(Debug, Clone)]
pub(crate) struct FileImport {
    /// Indices of the files.
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) line: usize,
    /// The module where what is imported is declared.
    pub(crate) target: Vec<String>,
}

/// All imports between different files, or different modules of them.
pub(crate) fn imports(modules: &CrateModules<'_>) -> Vec<FileImport> {
    let mut imports = Vec::new();
    for (from, file) in modules.files.iter().enumerate() {
        for mention in &file.source.mentions {
            let Some(target) = modules.target(file, mention) else {
                continue;
            };
            if let Some(to) = modules.file(&target) {
                imports.push(FileImport {
                    from,
                    to,
                    line: mention.line,
                    target,
                });
            }
        }
    }
    imports
}
