//! Generates `docs/cli.md` from the definition of the command line, and fails if the file is out of
//! date. Compiled for tests only.

use std::{env, fmt::Write, fs, path::Path};

use clap::{Arg, Command, CommandFactory};

use crate::command_line::Cli;

const REFERENCE_HEADER: &str = "\
# The command line `streamhouse`

Generated from the code; do not edit (`UPDATE_DOCS=1 cargo test --release -p streamhouse-cli --bin streamhouse docs`).

Results go to stdout, everything else to stderr. Exit codes: 0 success, 1 failure, 2 usage error. An error is one line; with
`-o json` it is `{\"error\":{\"code\":…,\"message\":…}}`. Warnings may precede it, one per line; with `-o json` they are
`{\"warning\":{\"message\":…}}`. Control characters in names, keys and values are escaped on a terminal, and only there.
";

fn render_reference() -> String {
    let mut root = Cli::command();
    root.build();
    let mut out = REFERENCE_HEADER.to_owned();
    let global: Vec<&Arg> = root.get_arguments().filter(|arg| arg.is_global_set()).collect();
    out.push_str("\n## Global options\n\n");
    write_options(&mut out, &global);
    write_examples(&mut out, &root);
    for command in root
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
    {
        write_section(&mut out, "streamhouse", command);
    }
    out
}

fn write_section(out: &mut String, parent: &str, command: &Command) {
    let name = format!("{parent} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut below = command
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
        .peekable();
    if below.peek().is_some() {
        let _ = write!(out, "\n## `{name}`\n\n{about}.\n");
        below.for_each(|command| write_section(out, &name, command));
        return;
    }
    let level = if parent == "streamhouse" { "##" } else { "###" };
    let usage = command.clone().render_usage().to_string();
    let usage = usage
        .trim_start_matches("Usage: ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let _ = write!(out, "\n{level} `{name}`\n\n{about}.\n\n```\n{usage}\n```\n");
    let own: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| {
            !arg.is_global_set()
                && !arg.is_hide_set()
                && !["help", "version"].contains(&arg.get_id().as_str())
        })
        .collect();
    if !own.is_empty() {
        out.push('\n');
        write_options(out, &own);
    }
    write_examples(out, command);
}

fn write_options(out: &mut String, args: &[&Arg]) {
    out.push_str("| option | default | description |\n|---|---|---|\n");
    for arg in args {
        let defaults: Vec<_> = arg
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy())
            .collect();
        let default = match (
            arg.is_hide_default_value_set() || !takes_value(arg),
            defaults.join(" "),
        ) {
            (false, value) if !value.is_empty() => format!("`{value}`"),
            _ => String::new(),
        };
        let variable = arg
            .get_env()
            .map(|name| format!("; `{}`", name.to_string_lossy()))
            .unwrap_or_default();
        let choices: Vec<String> = if takes_value(arg) {
            arg.get_possible_values()
                .iter()
                .map(|value| format!("`{}`", value.get_name()))
                .collect()
        } else {
            Vec::new()
        };
        let choices = if choices.is_empty() {
            String::new()
        } else {
            format!(" ({})", choices.join(", "))
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let cell = |text: &str| text.replace('|', "\\|");
        let _ = writeln!(
            out,
            "| `{}`{variable} | {default} | {}{choices} |",
            cell(&format_flag(arg)),
            cell(&help)
        );
    }
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// Formats a flag such as `-p, --partition <PARTITION>`, or `<TOPIC>`.
fn format_flag(arg: &Arg) -> String {
    let value = arg
        .get_value_names()
        .map(|names| names.join(" "))
        .unwrap_or_else(|| arg.get_id().as_str().to_uppercase());
    let names = [
        arg.get_short().map(|short| format!("-{short}")),
        arg.get_long().map(|long| format!("--{long}")),
    ];
    let names: Vec<String> = names.into_iter().flatten().collect();
    match (names.is_empty(), takes_value(arg)) {
        (true, _) => format!("<{value}>"),
        (false, true) => format!("{} <{value}>", names.join(", ")),
        (false, false) => names.join(", "),
    }
}

fn write_examples(out: &mut String, command: &Command) {
    if let Some(help) = command.get_after_help() {
        let _ = write!(out, "\n```text\n{help}\n```\n");
    }
}

#[test]
fn the_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let expected = render_reference();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().expect("a document has a folder")).expect("the folder can be made");
        fs::write(&path, &expected).expect("the document can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/cli.md is not current; run this test with UPDATE_DOCS=1"
    );
}

#[test]
fn every_option_says_what_it_does() {
    fn check(command: &Command) {
        for arg in command.get_arguments() {
            assert!(
                arg.get_help().is_some(),
                "{} {}",
                command.get_name(),
                arg.get_id()
            );
        }
        command.get_subcommands().for_each(check);
    }
    let mut root = Cli::command();
    root.build();
    check(&root);
}
