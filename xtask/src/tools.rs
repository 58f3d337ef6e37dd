//! The programs that tests and scripts use, and how they come onto a machine.
//!
//! Called by hack/lib.sh (`need NAME...`), by the test command and by people: `cargo xtask tools`.
//! Everything that is built or downloaded goes into one cache folder outside the checkout, keyed by
//! version, once. Guarantees: an error says what to do; the installation itself asks for nothing
//! but sudo's password, which is needed for packages only.

mod build;
mod cache;
mod catalogue;
mod command;
mod context;
mod exports;
mod installer;
mod machine;
mod name;
mod packages;
mod spec;
mod versions;

use std::path::Path;

use anyhow::Context;

pub(crate) use self::context::ToolContext;
pub(crate) use self::installer::install;
pub(crate) use self::name::ToolName;

const USAGE: &str = "\
usage: cargo xtask tools NAME...
       cargo xtask tools --list

Installs programs that tests and scripts use: packages with apt-get, the rest into ~/.cache/streamhouse or $STREAMHOUSE_CACHE.
Prints the variables that say where they are, for bash to evaluate.
";

/// Runs the command.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    match arguments {
        [] | ["--help" | "-h"] => print!("{USAGE}\n{}", list()),
        ["--list"] => print!("{}", list()),
        names => {
            let tools = parse(names)?;
            let exports = install(&ToolContext::open(root)?, &tools)?;
            print!("{}", exports.to_shell());
        }
    }
    Ok(())
}

fn parse(names: &[&str]) -> anyhow::Result<Vec<ToolName>> {
    let tool = |name: &&str| {
        ToolName::parse(name)
            .with_context(|| format!("no tool {name}; the tools are:\n{}", list().trim_end()))
    };
    names.iter().map(tool).collect()
}

fn list() -> String {
    let line = |tool: &ToolName| format!("  {:<20} {}\n", tool.spec().name, tool.spec().what);
    ToolName::ALL.iter().map(line).collect()
}

#[cfg(test)]
mod tests;
