//! The repository's own tools, one subcommand each: `cargo xtask` lists them.
//!
//! Called by the scripts in `hack/`, by CI and by people. Guarantees: a subcommand ends with 0 only
//! if everything is as it should be.

mod agent_run;
mod commands;
mod demos;
mod dev_stack;
mod docs_commands;
mod features;
mod kind;
mod programs;
mod public_api;
mod real_input;
mod repository;
mod sbom;
mod structure;
mod target_cache;
mod terminal;
mod test_command;
mod tools;

use std::process::ExitCode;

use anyhow::Context;

use self::repository::CallFolders;
use self::test_command::{OPERATOR_TESTS, TESTED_PACKAGES};

/// What the stages of tests choose.
const TESTS: [&[&str]; 2] = [TESTED_PACKAGES, OPERATOR_TESTS];

const USAGE: &str = "\
usage: cargo xtask COMMAND

  commands    runs the documented commands: examples, an agent, docs-commands, queries, the dev stack and its demos
  demo        runs a demo on the dev stack: demo e2e (hack/demo-e2e.sh), demo observability (hack/demo-observability.sh)
  dev-stack   starts or stops the dev stack: dev-stack up [--docker] (hack/dev-setup.sh),
              dev-stack down [--docker] [--purge] (hack/dev-down.sh)
  docs-commands
              runs the commands of all documents, or of these: docs-commands FILE..., and compares their output;
              docs-commands --print machine|kubernetes FILE [SECTION] prints the commands instead
  features    checks that every command compiles each dependency with the same features; --update writes workspace-hack anew
  kind        runs a command with a Docker of its own, without a network: kind lab COMMAND..., or a shell
  public-api  checks that client/public-api.txt is what the code says; --update writes it anew
  real-input  produces and consumes a dictionary, or real-input FILE, and compares it: hack/real-input.sh
  sbom        writes what the released programs are made of, as CycloneDX, to target/sbom, or sbom FOLDER
  structure   checks the rules that no compiler checks: sizes, headers, directions of imports, circles, names, links;
              with --graph it prints which modules import which instead
  tools       installs programs that tests and scripts use, and prints the variables that say where they are; --list names them
  test        installs what the tests need, then checks and tests everything, as CI does; --help for its options: hack/test.sh
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> anyhow::Result<ExitCode> {
    match arguments {
        ["structure"] => {
            let root = repository::root()?;
            let tree = repository::FileTree::read(&root).context("cannot read the repository")?;
            Ok(structure::run(&tree))
        }
        ["structure", "--graph"] => Ok(structure::graph(&repository::FileTree::read(
            &repository::root()?
        )?)),
        ["docs-commands", arguments @ ..] => {
            let root = repository::root()?;
            docs_commands::run(&root, &repository::FileTree::read(&root)?, arguments)
        }
        ["features"] => features::check(&repository::root()?, &TESTS).map(|()| ExitCode::SUCCESS),
        ["features", "--update"] => {
            features::update(&repository::root()?, &TESTS).map(|()| ExitCode::SUCCESS)
        }
        ["kind", arguments @ ..] => kind::run(&CallFolders::enter()?, arguments),
        ["public-api"] => {
            let root = repository::root()?;
            public_api::check(&root, &repository::FileTree::read(&root)?)?;
            Ok(ExitCode::SUCCESS)
        }
        ["public-api", "--update"] => {
            let root = repository::root()?;
            public_api::update(&root, &repository::FileTree::read(&root)?)?;
            Ok(ExitCode::SUCCESS)
        }
        ["commands"] => commands::run(&CallFolders::enter()?).map(|()| ExitCode::SUCCESS),
        ["demo", arguments @ ..] => demos::run(&CallFolders::enter()?, arguments).map(|()| ExitCode::SUCCESS),
        ["dev-stack", arguments @ ..] => {
            dev_stack::run(&CallFolders::enter()?, arguments).map(|()| ExitCode::SUCCESS)
        }
        ["real-input", arguments @ ..] => {
            real_input::run(&CallFolders::enter()?, arguments).map(|()| ExitCode::SUCCESS)
        }
        ["sbom"] => sbom::write(&repository::root()?, None).map(|()| ExitCode::SUCCESS),
        ["sbom", folder] => {
            let folder = CallFolders::enter()?.called_from.join(folder);
            sbom::write(&repository::root()?, Some(&folder)).map(|()| ExitCode::SUCCESS)
        }
        ["tools", arguments @ ..] => tools::run(&repository::root()?, arguments).map(|()| ExitCode::SUCCESS),
        ["test", arguments @ ..] => test_command::run(&repository::root()?, arguments),
        [] | ["--help" | "-h" | "help"] => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprint!("{USAGE}");
            anyhow::bail!("no command `{}`", arguments.join(" "))
        }
    }
}
