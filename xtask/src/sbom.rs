//! Writes what the released programs are made of: a file for each, in the JSON of CycloneDX 1.6.
//!
//! Cargo says which packages a program is compiled from (`cargo tree`, for every architecture that
//! is released), their licences and what depends on what (`cargo metadata`); `Cargo.lock` has the
//! checksums. The same commit makes the same files, byte for byte: they have no time and no random
//! number. Called by `hack/build-images.sh` and by maintainers.

mod document;
mod packages;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::Context;

use self::packages::WorkspacePackages;

/// A program that is released.
#[derive(Debug, Clone, Copy)]
struct ReleasedProgram {
    package: &'static str,
    program: &'static str,
}

const PROGRAMS: &[ReleasedProgram] = &[
    ReleasedProgram {
        package: "streamhouse-agent",
        program: "streamhouse-agent",
    },
    ReleasedProgram {
        package: "streamhouse-operator",
        program: "streamhouse-operator",
    },
    ReleasedProgram {
        package: "streamhouse-cli",
        program: "streamhouse",
    },
];

/// Where the files go unless the command says otherwise.
const FOLDER: &str = "target/sbom";

/// Writes a file for each program into this folder: `PROGRAM.cdx.json`.
pub(crate) fn write(root: &Path, folder: Option<&Path>) -> anyhow::Result<()> {
    let folder = folder.map_or_else(|| root.join(FOLDER), Path::to_owned);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let workspace = WorkspacePackages::read(root)?;
    for program in PROGRAMS {
        let text = bill_of(root, &workspace, *program)?;
        let path = folder.join(format!("{}.cdx.json", program.program));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn bill_of(root: &Path, workspace: &WorkspacePackages, program: ReleasedProgram) -> anyhow::Result<String> {
    let compiled = packages::compiled(root, program.package)?;
    let bill = document::bill(workspace, program, &compiled)?;
    Ok(format!("{}\n", serde_json::to_string_pretty(&bill)?))
}
