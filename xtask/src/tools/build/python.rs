//! Virtual environments of Python.

use std::process::Command;

use anyhow::Context;

use crate::tools::cache;
use crate::tools::command::{read_output, run_quietly};
use crate::tools::context::ToolBuild;
use crate::tools::spec::PythonPackages;
use crate::tools::versions::is_at_least;

/// Creates a virtual environment in its place, because its programs know their own paths. The file
/// `ready` is written last, into the folder that is moved there.
pub(super) fn install(build: &ToolBuild<'_>, packages: &PythonPackages) -> anyhow::Result<()> {
    if let Some(minimum) = packages.minimum {
        let version = read_output(Command::new("python3").arg("--version"))?;
        ensure_minimum(&version, minimum)?;
    }
    let requirements = build.context.root.join(packages.requirements);
    let failed = || format!("pip could not install {}", packages.requirements);
    cache::remove(&build.folder)?;
    run_quietly(Command::new("python3").args(["-m", "venv"]).arg(&build.folder))
        .context("python3 could not create a virtual environment")?;
    let complete = packages.complete.then_some("--no-deps");
    run_quietly(
        Command::new(build.folder.join("bin/pip"))
            .args(["install", "--disable-pip-version-check"])
            .args(complete)
            .arg("-r")
            .arg(requirements),
    )
    .with_context(failed)?;
    std::fs::write(build.new.join("ready"), "").context("cannot write the file ready")
}

fn ensure_minimum(version: &str, (major, minor): (u32, u32)) -> anyhow::Result<()> {
    let minimum = format!("{major}.{minor}");
    let version = version.trim_start_matches("Python ");
    anyhow::ensure!(
        is_at_least(version, &minimum),
        "Python {minimum} or later is needed, and python3 is {version}: install it"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_python_is_refused() {
        ensure_minimum("Python 3.11.2", (3, 11)).unwrap();
        let error = ensure_minimum("Python 3.9.18", (3, 11)).unwrap_err().to_string();
        assert_eq!(
            error,
            "Python 3.11 or later is needed, and python3 is 3.9.18: install it"
        );
    }
}
