//! A place where kind runs although nothing can be pulled and nothing may leave: a Docker in
//! namespaces of its own, whose network has nothing but loopback.
//!
//! Called by the stage `cluster` of the test command and by people: `cargo xtask kind lab`. `lab`
//! makes the namespaces and removes what is left of them, `inside` is what runs in them.
//! Guarantees: when this process has ended in any way, so have all processes of the lab; what the
//! command says of itself comes before what is said of the lab's end.

mod cgroups;
mod inside;
mod lab;

use std::process::ExitCode;

use crate::repository::CallFolders;

const USAGE: &str = "\
usage: cargo xtask kind lab [--] [COMMAND...]

Runs the command, or a shell, as root in a network of its own without a way out, where a real Docker runs and kind, kubectl and helm are
in PATH. kind uses an image of its nodes that is built here once (KIND_NODE_IMAGE). When the command ends, all of it goes.
";

/// Runs the command. The exit code is that of the command in the lab.
pub(crate) fn run(folders: &CallFolders, arguments: &[&str]) -> anyhow::Result<ExitCode> {
    match arguments {
        ["lab", "--help" | "-h"] | ["--help" | "-h"] | [] => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        ["lab", "--", command @ ..] | ["lab", command @ ..] => lab::run(folders, command),
        [lab::INSIDE, folder, command @ ..] => inside::run(folder.as_ref(), command),
        _ => {
            eprint!("{USAGE}");
            anyhow::bail!("no command `kind {}`", arguments.join(" "))
        }
    }
}
