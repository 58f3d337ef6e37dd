//! Java archives, which Maven downloads from the repository that its settings name.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::tools::command::run_quietly;
use crate::tools::context::ToolBuild;
use crate::tools::machine::find_files;
use crate::tools::spec::MavenPackages;

/// Downloads all archives of a project into the folder `lib`, and compares their digests.
pub(super) fn install(build: &ToolBuild<'_>, packages: &MavenPackages) -> anyhow::Result<()> {
    let folder = build.context.root.join(packages.folder);
    let project = folder.join("pom.xml");
    let (property, key) = packages.pin;
    let text =
        std::fs::read_to_string(&project).with_context(|| format!("cannot read {}", project.display()))?;
    ensure_property(&text, property, build.context.versions.version(key)?)?;
    let lib = build.new.join("lib");
    run_quietly(
        Command::new("mvn")
            .args(["-B", "-f"])
            .arg(&project)
            .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
            .arg(format!("-DoutputDirectory={}", lib.display())),
    )
    .with_context(|| format!("{} could not be downloaded", build.title))?;
    ensure_digests(&lib, &folder.join("jars.sha256"))
}

/// Fails if a project has another value for a property.
pub(crate) fn ensure_property(project: &str, property: &str, version: &str) -> anyhow::Result<()> {
    let wanted = format!("<{property}>{version}</{property}>");
    anyhow::ensure!(
        project.lines().any(|line| line.trim() == wanted),
        "hack/versions.sh wants {property} {version}, and pom.xml another version: make them equal"
    );
    Ok(())
}

/// Fails unless a folder has the archives of a list and no others.
fn ensure_digests(lib: &Path, list: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
    let (wanted, found) = (text.lines().count(), find_files(lib, "*.jar").len());
    anyhow::ensure!(
        wanted == found,
        "Maven downloaded {found} files, and {} names {wanted}: run hack/kafka/update.sh",
        list.display()
    );
    run_quietly(
        Command::new("sha256sum")
            .args(["--check", "--strict", "--quiet"])
            .arg(list)
            .current_dir(lib),
    )
    .with_context(|| format!("a download is not what {} says", list.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn another_version_in_the_project_is_refused() {
        let project = "<properties>\n  <kafka.version>4.3.1</kafka.version>\n</properties>\n";
        ensure_property(project, "kafka.version", "4.3.1").unwrap();
        assert!(ensure_property(project, "kafka.version", "4.3.2").is_err());
    }

    #[test]
    fn archives_that_are_damaged_or_not_in_the_list_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("jars.sha256");
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        fs::write(&list, format!("{digest}  a.jar\n")).unwrap();
        let jar = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        jar("a.jar", "abc");
        ensure_digests(folder.path(), &list).unwrap();
        jar("a.jar", "abd");
        assert!(ensure_digests(folder.path(), &list).is_err());
        jar("a.jar", "abc");
        jar("b.jar", "abc");
        assert!(ensure_digests(folder.path(), &list).is_err());
    }
}
