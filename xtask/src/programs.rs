//! Programs of this repository and others: how they are built, prepared and run.
//!
//! Used by the commands that start programs. Guarantees: a program started here has ended, with all
//! that it started, when its value is dropped or this process has ended in any way.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use streamhouse_testkit::{ChildProcess, ProcessBuilder, wait_until};

/// How long a program may take that needs no time to speak of.
const SHORT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long cargo may take; it compiles everything if it must.
const CARGO_TIMEOUT: Duration = Duration::from_secs(3 * 3600);
/// Variables of the `cargo run` that started this process. Build scripts that watch them, such as
/// ring's, would run again.
const CARGO_VARIABLES: [&str; 5] = [
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_BIN_",
    "CARGO_CRATE_",
    "CARGO_PRIMARY_PACKAGE",
];

/// Returns the folder of the built programs.
pub(crate) fn release_folder(root: &Path) -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => root.join(target).join("release"),
        None => root.join("target/release"),
    }
}

/// Prepares a program that gets none of the developer's settings for another cluster.
pub(crate) fn prepare_program(program: impl AsRef<OsStr>) -> ProcessBuilder {
    ProcessBuilder::new(program).clean_env()
}

/// Prepares a script of the repository as [`prepare_program`] does, with what names installed
/// programs.
pub(crate) fn prepare_script(path: &Path) -> ProcessBuilder {
    let kept = ["STREAMHOUSE_CACHE", "STREAMHOUSE_MINIO"];
    let kept = kept
        .into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)));
    kept.fold(prepare_program(path), |script, (name, value)| {
        script.env(name, value)
    })
}

/// Prepares cargo, in this process's folder.
pub(crate) fn prepare_cargo(arguments: &[&str]) -> ProcessBuilder {
    std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| is_of_cargo_run(&name.to_string_lossy()))
        .fold(prepare_program("cargo"), ProcessBuilder::env_remove)
        .args(arguments)
}

fn is_of_cargo_run(variable: &str) -> bool {
    CARGO_VARIABLES.iter().any(|prefix| variable.starts_with(prefix))
}

/// Runs cargo to its end and prints its output.
///
/// # Errors
///
/// Fails if cargo does.
pub(crate) fn run_cargo(arguments: &[&str]) -> anyhow::Result<()> {
    run_shown(prepare_cargo(arguments), CARGO_TIMEOUT)
}

/// Runs a program to its end and prints both its outputs while it runs.
///
/// # Errors
///
/// Fails if the program does, or if it takes longer than `limit`.
pub(crate) fn run_shown(program: ProcessBuilder, limit: Duration) -> anyhow::Result<()> {
    let mut process = program.merge_output().start()?;
    let mut printed = 0;
    let status = wait_until(&format!("the end of {}", process.name()), limit, || {
        // Asked first: what it wrote before its end is then read below.
        let status = process.try_wait()?;
        let new = process.stdout_since(printed)?;
        printed += u64::try_from(new.len())?;
        let mut output = std::io::stdout();
        output.write_all(&new)?;
        output.flush()?;
        Ok(status)
    })?;
    anyhow::ensure!(status.success(), "{} ended with {status}", process.name());
    Ok(())
}

/// Runs a program to its end, for at most a minute, and returns its output.
///
/// # Errors
///
/// Fails with the end of the output if the program fails.
pub(crate) fn read_output(program: ProcessBuilder) -> anyhow::Result<String> {
    Ok(String::from_utf8_lossy(&read_bytes(program, SHORT_TIMEOUT)?).into_owned())
}

/// Like [`read_output`], for output that need not be text and for programs that take longer.
///
/// # Errors
///
/// As [`read_output`], and if the program takes longer than `limit`.
pub(crate) fn read_bytes(program: ProcessBuilder, limit: Duration) -> anyhow::Result<Vec<u8>> {
    let mut process = program.start()?;
    let status = process.wait(limit)?;
    anyhow::ensure!(
        status.success(),
        "{} ended with {status}: {}",
        process.name(),
        process.log_tail()
    );
    process.stdout_since(0)
}

/// Returns the SHA-256 of a text or file in hexadecimal digits.
///
/// # Errors
///
/// Fails if sha256sum is missing.
pub(crate) fn digest(bytes: &[u8]) -> anyhow::Result<String> {
    let sum = read_output(ProcessBuilder::new("sha256sum").input(bytes))?;
    let digest = sum.split_whitespace().next();
    digest.map(str::to_owned).context("sha256sum printed nothing")
}

/// Waits for a condition for a minute while a process runs.
///
/// # Errors
///
/// Fails with the end of the process's output if it ends before, or if a minute passes.
pub(crate) fn wait_while_running<T>(
    what: &str,
    process: &mut ChildProcess,
    mut condition: impl FnMut(&ChildProcess) -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let result = wait_until(what, SHORT_TIMEOUT, || {
        let runs = process.is_running();
        let value = condition(process)?;
        anyhow::ensure!(value.is_some() || runs, "{} ended", process.name());
        Ok(value)
    });
    result.with_context(|| process.log_tail())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_read_and_a_failure_carries_it() {
        let shell = |script| prepare_program("sh").args(["-c", script]);
        assert_eq!(read_output(shell("echo one; echo two >&2")).unwrap(), "one\n");
        let error = read_output(shell("echo the cause >&2; exit 3")).unwrap_err();
        assert!(format!("{error:#}").contains("the cause"));
        run_shown(shell("exit 3"), SHORT_TIMEOUT).unwrap_err();
    }

    #[test]
    fn a_condition_ends_with_the_process() {
        let mut process = prepare_program("sh").args(["-c", "echo ready"]).start().unwrap();
        let said = |process: &ChildProcess| Ok(process.stdout().contains("ready").then_some(()));
        wait_while_running("its line", &mut process, said).unwrap();
        let error = wait_while_running("another line", &mut process, |_| Ok(None::<()>)).unwrap_err();
        assert!(format!("{error:#}").contains("sh ended"));
    }

    #[test]
    fn cargo_gets_no_variables_of_the_cargo_that_runs_this() {
        assert!(is_of_cargo_run("CARGO_PKG_NAME") && is_of_cargo_run("CARGO_MANIFEST_DIR"));
        assert!(!is_of_cargo_run("CARGO_TARGET_DIR") && !is_of_cargo_run("CARGO_HOME"));
    }

    #[test]
    fn digests_are_those_of_sha256() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(b"").unwrap(), empty);
    }
}
