//! Programs that the installation runs, and what it says meanwhile.
//!
//! Everything is said on standard error, because standard output has what bash evaluates.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Command, Stdio};

use anyhow::Context;

use super::machine::MachineFacts;

/// Lines of a failed program's output that are shown.
const SHOWN: usize = 60;

/// Announces a step.
pub(crate) fn say(text: &str) {
    eprintln!("\n==> {text}");
}

/// Says something about a step.
pub(crate) fn note(text: &str) {
    eprintln!("    {text}");
}

/// Runs a program and shows its output only if it fails.
pub(crate) fn run_quietly(command: &mut Command) -> anyhow::Result<()> {
    let mut output = tempfile::tempfile().context("cannot make a temporary file")?;
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    if status.success() {
        return Ok(());
    }
    show_end(&mut output)?;
    anyhow::bail!("{program} failed, as its output above says ({status})")
}

fn show_end(output: &mut File) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(SHOWN)..] {
        eprintln!("{line}");
    }
    Ok(())
}

/// Runs a program and returns what it prints, without the line's end.
pub(crate) fn read_output(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

/// Prepares a command that runs as root, with sudo if need be.
pub(crate) fn as_root(machine: &dyn MachineFacts, program: &str) -> anyhow::Result<Command> {
    if machine.is_root() {
        return Ok(Command::new(program));
    }
    anyhow::ensure!(
        machine.has_program("sudo"),
        "{program} needs root, and there is no sudo: run the same command as root"
    );
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}

/// Writes a file as root.
pub(crate) fn write_as_root(machine: &dyn MachineFacts, path: &str, text: &str) -> anyhow::Result<()> {
    let mut tee = as_root(machine, "tee")?
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot run tee")?;
    if let Some(mut input) = tee.stdin.take() {
        input.write_all(text.as_bytes())?;
    }
    anyhow::ensure!(tee.wait()?.success(), "cannot write {path}");
    Ok(())
}

/// Returns the first 12 digits of the SHA-256 of these bytes.
pub(crate) fn short_digest(bytes: &[u8]) -> anyhow::Result<String> {
    let mut input = tempfile::tempfile().context("cannot make a temporary file")?;
    input.write_all(bytes)?;
    input.rewind()?;
    let output = Command::new("sha256sum")
        .stdin(input)
        .output()
        .context("cannot run sha256sum")?;
    let digest = String::from_utf8(output.stdout)?;
    digest
        .get(..12)
        .map(str::to_owned)
        .context("sha256sum printed no digest")
}
