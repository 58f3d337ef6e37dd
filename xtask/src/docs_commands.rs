//! Runs the commands of the documentation and compares their output with the documented one.
//!
//! Called by the stage `commands` of the test command, and by people. Each document runs in a
//! shell and a folder of its own, with the built programs and the documented ports. Guarantees:
//! every shell block of every document parses and has a known marker; a block without a marker has
//! run; a block that does not run is listed with its reason.

mod output;
mod session;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail, ensure};
use streamhouse_testkit::{CommandScope, DocumentedCommand, extract_commands};

use self::session::{PortAccess, ShellSession};
use crate::repository::FileTree;

/// Runbooks have placeholders instead of names, so their commands are parsed only.
const PARSED_ONLY: &str = "docs/runbooks/";

/// Runs the subcommand with its arguments: documents, or none for all of them, or `--print`.
pub(crate) fn run(root: &Path, tree: &FileTree, arguments: &[&str]) -> anyhow::Result<ExitCode> {
    match arguments {
        ["--print", scope, path, section @ ..] => {
            print!(
                "{}",
                select_code(&read_document(tree, path)?, scope, section.first().copied())?
            );
        }
        [option, ..] if option.starts_with("--") => bail!("unknown option {option}; see cargo xtask"),
        [] => {
            for path in documents(tree) {
                check_document(root, path, &read_document(tree, path)?)?;
            }
        }
        paths => {
            for path in paths {
                check_document(root, path, &read_document(tree, path)?)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn documents(tree: &FileTree) -> impl Iterator<Item = &str> {
    tree.files()
        .map(|(path, _)| path)
        .filter(|path| path.ends_with(".md"))
}

fn read_document(tree: &FileTree, path: &str) -> anyhow::Result<Vec<DocumentedCommand>> {
    let (_, text) = tree
        .files()
        .find(|(file, _)| *file == path)
        .with_context(|| format!("the repository has no document {path}"))?;
    extract_commands(text).with_context(|| path.to_owned())
}

/// Returns the commands of one scope, and of one section if it is given.
fn select_code(commands: &[DocumentedCommand], scope: &str, section: Option<&str>) -> anyhow::Result<String> {
    let scope = match scope {
        "machine" => CommandScope::Machine,
        "kubernetes" => CommandScope::Kubernetes,
        _ => bail!("no scope {scope}: write machine or kubernetes"),
    };
    let chosen = commands
        .iter()
        .filter(|command| command.scope == scope && section.is_none_or(|section| command.section == section));
    let code: String = chosen.map(|command| command.code.as_str()).collect();
    ensure!(!code.is_empty(), "no such commands");
    Ok(code)
}

fn check_document(root: &Path, path: &str, commands: &[DocumentedCommand]) -> anyhow::Result<()> {
    for command in commands {
        check_syntax(command).with_context(|| format!("{path}:{}", command.line))?;
    }
    if path.starts_with(PARSED_ONLY) || commands.is_empty() {
        return Ok(());
    }
    let runs = commands
        .iter()
        .filter(|command| command.scope == CommandScope::Machine);
    let runs: Vec<&DocumentedCommand> = runs.collect();
    if !runs.is_empty() {
        let mut session = ShellSession::start(root, PortAccess::find()?)?;
        for command in &runs {
            session
                .run(command)
                .with_context(|| format!("{path}:{}: {}", command.line, command.code.trim_end()))?;
        }
    }
    let compared = runs.iter().filter(|command| command.output.is_some()).count();
    println!(
        "    {path}: {} blocks ran, {compared} of them with their output",
        runs.len()
    );
    for command in commands {
        match &command.scope {
            CommandScope::Machine => {}
            CommandScope::Kubernetes => {
                println!("      line {}: the tests with Kubernetes run it", command.line)
            }
            CommandScope::Untested(reason) => println!("      line {}: not run: {reason}", command.line),
        }
    }
    Ok(())
}

/// Fails if bash cannot parse the commands.
fn check_syntax(command: &DocumentedCommand) -> anyhow::Result<()> {
    let parsed = Command::new("bash")
        .args(["-n", "-c", &command.code])
        .stdin(Stdio::null())
        .output()
        .context("cannot run bash")?;
    ensure!(
        parsed.status.success(),
        "bash cannot parse it: {}",
        String::from_utf8_lossy(&parsed.stderr).trim_end()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str =
        "# One\n```sh\nls\n```\n# Two\n```sh\npwd\n```\n```sh kubernetes\nkubectl get pods\n```\n";

    #[test]
    fn commands_are_chosen_by_scope_and_section() {
        let commands = extract_commands(DOCUMENT).unwrap();
        assert_eq!(select_code(&commands, "machine", None).unwrap(), "ls\npwd\n");
        assert_eq!(select_code(&commands, "machine", Some("Two")).unwrap(), "pwd\n");
        assert_eq!(
            select_code(&commands, "kubernetes", None).unwrap(),
            "kubectl get pods\n"
        );
        select_code(&commands, "kubernetes", Some("One")).unwrap_err();
        select_code(&commands, "docker", None).unwrap_err();
    }

    #[test]
    fn commands_that_bash_cannot_parse_are_refused() {
        let commands = extract_commands("```sh\necho 'open\n```\n```sh\necho done\n```\n").unwrap();
        check_syntax(&commands[0]).unwrap_err();
        check_syntax(&commands[1]).unwrap();
    }

    #[test]
    fn a_block_without_a_marker_has_run_and_its_output_counts() {
        let root = crate::repository::root().unwrap();
        let run = |document| check_document(&root, "a.md", &extract_commands(document).unwrap());
        let failed = |document| format!("{:#}", run(document).unwrap_err());
        run("```sh\nexport NAME=7\nsleep 100 &\n```\n```sh\necho \"it is $NAME\"\n```\n```text\nit is 12\n```\n").unwrap();
        run("```sh no-test: it would fail\nfalse\n```\n").unwrap();
        assert!(failed("```sh\nfalse | true\n```\n").contains("a.md:1: false | true"));
        assert!(
            failed("\n```sh\necho one\n```\n```text\ntwo\n```\n").contains("documented line is missing: two")
        );
    }
}
