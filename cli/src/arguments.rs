//! Parses the command line's arguments and reports what is wrong with them. Most of clap's messages
//! are kept. Two mistakes are explained here, because clap takes their values for further
//! arguments: a value after a switch, and a negative number.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command, CommandFactory as _, FromArgMatches as _, error::ErrorKind};
use serde_json::json;

use crate::{command_error, command_line::Cli};

/// Parses the arguments, the program's name first.
///
/// # Errors
/// Fails with the exit code, once help, version or an error has been printed.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, u8> {
    let args: Vec<OsString> = args.into_iter().collect();
    let texts: Vec<String> = args
        .iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    match parse_args(args) {
        // A command with several positional names takes the value after a switch for one of them.
        Ok(cli) => match switch_advice(&texts) {
            None => Ok(cli),
            Some(advice) => Err(print_usage_error(&advice, &texts)),
        },
        Err(error) => Err(report_error(&error, &texts)),
    }
}

fn parse_args(args: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut command = definition();
    let matches = command.try_get_matches_from_mut(args)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Returns the definition, in which every option accepts a negative number as its value, so that
/// the option itself can reject it.
pub(super) fn definition() -> Command {
    fn with_numbers(command: Command) -> Command {
        command
            .mut_args(|arg| {
                let is_option = !arg.is_positional() && arg.get_action().takes_values();
                if is_option {
                    arg.allow_negative_numbers(true)
                } else {
                    arg
                }
            })
            .mut_subcommands(with_numbers)
    }
    with_numbers(Cli::command())
}

/// Prints help, version, or what is wrong with the arguments. Returns the exit code.
fn report_error(error: &clap::Error, args: &[String]) -> u8 {
    if !error.use_stderr() {
        // A closed pipe is not a failure.
        let _ = error.print();
        return 0;
    }
    match switch_advice(args).or_else(|| negative_advice(error, args)) {
        // clap would suggest passing the value as a name.
        Some(advice) => print_usage_error(&advice, args),
        None if wants_json(args) => print_usage_error(&message_of(error), args),
        None => {
            let _ = error.print();
            command_error::EXIT_USAGE
        }
    }
}

fn print_usage_error(message: &str, args: &[String]) -> u8 {
    if wants_json(args) {
        eprintln!("{}", json!({ "error": { "code": "USAGE", "message": message } }));
    } else {
        eprintln!("error: {message}\n\nFor more information, try '--help'.");
    }
    command_error::EXIT_USAGE
}

fn wants_json(args: &[String]) -> bool {
    let is_short = |arg: &str| {
        let cluster = arg.strip_prefix('-').and_then(|short| short.strip_suffix('o'));
        cluster.is_some_and(|before| before.chars().all(|c| c == 'v'))
    };
    let given = args
        .iter()
        .any(|arg| matches!(arg.as_str(), "--output=json" | "-ojson" | "-o=json"));
    let pair = |pair: &[String]| (pair[0] == "--output" || is_short(&pair[0])) && pair[1] == "json";
    given || args.windows(2).any(pair)
}

fn message_of(error: &clap::Error) -> String {
    match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing; see --help".to_owned(),
        _ => clap_message_line(&error.to_string()),
    }
}

/// Joins clap's message to one line, without the usage and the reference to the help.
fn clap_message_line(text: &str) -> String {
    let told = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage: ") && !line.starts_with("For more information"));
    let mut message = String::new();
    for line in told.filter(|line| !line.is_empty()) {
        let separator = match message.is_empty() {
            true => "",
            false if line.starts_with("tip: ") => "; ",
            false => " ",
        };
        message.push_str(separator);
        message.push_str(line.strip_prefix("error: ").unwrap_or(line));
    }
    message
}

/// Returns advice for the first switch that is followed by a value, such as `--if-exists true`.
/// clap would call the value an unexpected argument or take it for a name.
fn switch_advice(args: &[String]) -> Option<String> {
    let is_value = |text: &str| matches!(text, "true" | "false");
    let root = Cli::command();
    let args = args.split(|arg| arg == "--").next().unwrap_or_default();
    args.iter().enumerate().find_map(|(at, argument)| {
        let (flag, value) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (argument.as_str(), args.get(at + 1).map(String::as_str)),
        };
        let valued = flag.starts_with('-') && flag.len() > 1 && value.is_some_and(is_value);
        (valued && is_switch(&root, flag))
            .then(|| format!("{flag} takes no value: write {flag} for true, and leave it out for false"))
    })
}

/// Returns whether any command has this switch: `--long`, `-s`, or each letter of `-abc`. The
/// argument after an option with a value is its value.
fn is_switch(root: &Command, flag: &str) -> bool {
    match flag.strip_prefix("--") {
        Some(long) => has_switch(root, &|argument| argument.get_long() == Some(long)),
        None => flag
            .chars()
            .skip(1)
            .all(|short| has_switch(root, &|argument| argument.get_short() == Some(short))),
    }
}

fn has_switch(command: &Command, is_named: &dyn Fn(&Arg) -> bool) -> bool {
    let is_switch = |arg: &Arg| matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::Count);
    let mut arguments = command.get_arguments();
    arguments.any(|argument| is_named(argument) && is_switch(argument))
        || command
            .get_subcommands()
            .any(|command| has_switch(command, is_named))
}

/// Returns advice for a negative value with a unit, such as `--linger -5ms`, which clap takes for
/// an option.
fn negative_advice(error: &clap::Error, args: &[String]) -> Option<String> {
    let is_negative = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or_default();
        digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
    };
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    args.windows(2).find_map(|pair| {
        let (option, value) = (&pair[0], &pair[1]);
        (option.starts_with("--") && is_negative(value))
            .then(|| format!("{option} takes no value below zero, but {value} is negative"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(args: &str) -> Vec<String> {
        let words = std::iter::once("streamhouse").chain(args.split_whitespace());
        words.map(str::to_owned).collect()
    }

    fn parse_error(args: &str) -> clap::Error {
        let args = words(args).into_iter().map(OsString::from).collect();
        match parse_args(args) {
            Err(error) => error,
            Ok(cli) => panic!("taken: {cli:?}"),
        }
    }

    #[test]
    fn a_switch_that_is_given_a_value_is_explained() {
        for args in [
            "topic delete a --if-exists true",
            "topic delete a --if-exists=false",
            "consume a --from-beginning true",
            "consume a -e false",
            "consume a -be true",
            "consume a -v true",
        ] {
            let advice = switch_advice(&words(args)).unwrap_or_default();
            assert!(advice.contains(" takes no value: write -"), "{args}: {advice}");
            let args = words(args).into_iter().map(OsString::from);
            assert_eq!(parse(args).err(), Some(command_error::EXIT_USAGE));
        }
        for args in [
            "topic delete a --if-exists",
            "topic create a --config x=true",
            "topic delete true",
            "consume true --from-beginning",
            "consume --from-beginning -- true",
            "consume -n 5 a -g true",
            "consume -gbe true",
            "consume - true",
        ] {
            assert_eq!(switch_advice(&words(args)), None, "{args}");
            parse_args(words(args).into_iter().map(OsString::from).collect()).unwrap();
        }
    }

    /// Advice considers all commands, so a flag must not be a switch in one command and take a
    /// value in another.
    #[test]
    fn a_switch_is_a_switch_in_every_command() {
        fn check(root: &Command, command: &Command) {
            for argument in command
                .get_arguments()
                .filter(|arg| arg.get_action().takes_values())
            {
                let flags = [
                    argument.get_long().map(|long| format!("--{long}")),
                    argument.get_short().map(|short| format!("-{short}")),
                ];
                for flag in flags.into_iter().flatten() {
                    assert!(!is_switch(root, &flag), "{}: {flag}", command.get_name());
                }
            }
            command.get_subcommands().for_each(|below| check(root, below));
        }
        check(&Cli::command(), &Cli::command());
    }

    #[test]
    fn numbers_below_zero_are_refused_by_their_option_and_not_taken_for_arguments() {
        for (args, told) in [
            ("consume a -p -3", "partitions are numbered from 0"),
            ("consume a -p-3", "partitions are numbered from 0"),
            ("produce a --partition -3", "partitions are numbered from 0"),
            (
                "topic delete-records a -p -3 --before-offset 1",
                "numbered from 0",
            ),
            ("consume a -p 1 --offset -5", "offsets count from 0"),
            (
                "group reset-offsets g --topic a --to-offset -5",
                "offsets count from 0",
            ),
            ("consume a -n -1", "'--max-messages <RECORDS>'"),
            ("topic create a -p -1", "'--partitions <PARTITIONS>'"),
            ("topic list --timeout -5", "'--timeout <DURATION>'"),
        ] {
            let error = parse_error(args);
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::ValueValidation, "{args}: {text}");
            assert!(text.contains(told) && !text.contains("tip:"), "{args}: {text}");
        }
        let args = "produce a --linger -5ms";
        let error = parse_error(args);
        let advice = negative_advice(&error, &words(args)).unwrap();
        assert!(advice.contains("--linger takes no value below zero"), "{advice}");
        assert!(parse_args(vec!["streamhouse".into(), "consume".into(), "a".into()]).is_ok());
    }

    #[test]
    fn a_usage_error_is_told_whole_in_one_line() {
        for (args, told) in [
            (
                "consume",
                "the following required arguments were not provided: <TOPIC>...",
            ),
            (
                "topic crate a",
                "unrecognized subcommand 'crate'; tip: a similar subcommand exists: 'create'",
            ),
            (
                "consume a --form-beginning",
                "unexpected argument '--form-beginning' found; tip: a similar argument exists: '--from-beginning'",
            ),
            (
                "produce a --compression best",
                "invalid value 'best' for '--compression <COMPRESSION>' [possible values: lz4, none, gzip, snappy]",
            ),
            (
                "consume a --offset 3",
                "the following required arguments were not provided: --partition <PARTITION>",
            ),
            ("topic", "a command is missing; see --help"),
        ] {
            assert_eq!(message_of(&parse_error(args)), told, "{args}");
        }
    }

    #[test]
    fn json_is_wanted_however_it_is_written() {
        for args in [
            "-o json",
            "--output json",
            "--output=json",
            "-ojson",
            "-o=json",
            "-vo json",
        ] {
            assert!(wants_json(&words(args)), "{args}");
        }
        for args in ["-o table", "topic create json", "--topo json"] {
            assert!(!wants_json(&words(args)), "{args}");
        }
    }
}
