//! Parses the command line and the environment into [`AgentSettings`].

use std::{fmt::Write as _, iter::Peekable};

use super::{AgentSettings, SETTING_DEFINITIONS, SettingDefinition, nearest_name};

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentInvocation {
    /// `--help`.
    Help,
    /// `--version`.
    Version,
    /// A command (`load_settings` if none is given) with its settings and arguments.
    Command {
        /// The command's name.
        name: String,
        /// The agent's settings.
        settings: Box<AgentSettings>,
        /// The arguments after the command.
        arguments: Vec<String>,
    },
}

/// The reason why settings are rejected. The message says what to do and never holds a value that
/// may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

/// Variables with the agent's prefix that belong to the client, to tests or to scripts.
const NON_AGENT_VARIABLES: [&str; 8] = [
    "STREAMHOUSE_BOOTSTRAP",
    "STREAMHOUSE_USER",
    "STREAMHOUSE_PASSWORD",
    "STREAMHOUSE_PASSWORD_FILE",
    "STREAMHOUSE_TOKEN_FILE",
    "STREAMHOUSE_CACHE",
    "STREAMHOUSE_PYTHON",
    "STREAMHOUSE_MINIO",
];
const NON_AGENT_PREFIXES: [&str; 2] = ["STREAMHOUSE_CLIENT_", "STREAMHOUSE_TEST_"];
/// Marks of variables that Kubernetes sets for a Service named `streamhouse…`.
const SERVICE_VARIABLE_MARKERS: [&str; 4] = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT", "_TCP"];

/// Parses flags (without the program's name) and variables. `commands` are the names allowed
/// besides `load_settings`.
///
/// # Errors
///
/// Fails if a flag, variable or command is unknown, or if a value is invalid or contradicts another
/// one.
pub fn load(
    arguments: impl IntoIterator<Item = String>,
    environment: impl IntoIterator<Item = (String, String)>,
    commands: &[&str],
) -> Result<AgentInvocation, SettingsError> {
    let mut given: Vec<(&'static SettingDefinition, String, String)> = Vec::new();
    for (variable, value) in environment {
        if let Some(definition) = find_by_variable(&variable)? {
            given.push((definition, value, variable));
        }
    }
    let mut command: Option<String> = None;
    let mut rest = Vec::new();
    let mut arguments = arguments.into_iter().peekable();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" | "-h" => return Ok(AgentInvocation::Help),
            "--version" | "-V" => return Ok(AgentInvocation::Version),
            flag if flag.starts_with("--") => match parse_flag(flag, &mut arguments, command.is_some()) {
                Ok(Some(setting)) => given.push(setting),
                Ok(None) => rest.push(argument),
                Err(error) => return Err(error),
            },
            name if command.is_none() && (name == "run" || commands.contains(&name)) => {
                command = Some(argument)
            }
            name if command.is_none() => return Err(unknown_command_error(name, commands)),
            _ => rest.push(argument),
        }
    }
    let name = command.unwrap_or_else(|| "run".to_owned());
    if name == "run"
        && let Some(extra) = rest.first()
    {
        return Err(SettingsError(format!(
            "unexpected argument {extra:?}; try --help"
        )));
    }
    let settings = build_settings(given, name == "run")?;
    Ok(AgentInvocation::Command {
        name,
        settings: Box::new(settings),
        arguments: rest,
    })
}

fn build_settings(
    given: Vec<(&'static SettingDefinition, String, String)>,
    complete: bool,
) -> Result<AgentSettings, SettingsError> {
    // Flags come after variables, and a later value wins.
    let dev = given
        .iter()
        .rev()
        .find(|(definition, ..)| definition.name == "dev")
        .is_some_and(|(_, v, _)| v.trim() == "true");
    let mut settings = AgentSettings::defaults(dev);
    for (definition, value, from) in given {
        let set = definition.apply(&mut settings, value.trim());
        set.map_err(|problem| SettingsError(format!("{from}: {problem}; it takes {}", definition.bounds)))?;
    }
    let completed = settings.clone().resolve();
    if complete {
        completed.map_err(SettingsError)
    } else {
        Ok(completed.unwrap_or(settings))
    }
}

fn find_by_variable(variable: &str) -> Result<Option<&'static SettingDefinition>, SettingsError> {
    if !variable.starts_with("STREAMHOUSE_") {
        return Ok(None);
    }
    if let Some(definition) = SETTING_DEFINITIONS
        .iter()
        .find(|definition| definition.variable() == variable)
    {
        return Ok(Some(definition));
    }
    let foreign = NON_AGENT_VARIABLES.contains(&variable)
        || NON_AGENT_PREFIXES
            .iter()
            .any(|prefix| variable.starts_with(prefix))
        || SERVICE_VARIABLE_MARKERS
            .iter()
            .any(|mark| variable.contains(mark));
    if foreign {
        return Ok(None);
    }
    let nearest = nearest_name(variable, |definition| definition.variable());
    Err(SettingsError(format!(
        "there is no setting {variable}; did you mean {nearest}?"
    )))
}

/// Returns the setting of a flag and its value, which is the next argument if the flag has no `=`.
/// A switch takes only `true` and `false`, so that a command after it is not taken for its value.
/// Returns `None` for a flag of the command itself.
fn parse_flag(
    flag: &str,
    arguments: &mut Peekable<impl Iterator<Item = String>>,
    in_command: bool,
) -> Result<Option<(&'static SettingDefinition, String, String)>, SettingsError> {
    let (name, value) = flag
        .split_once('=')
        .map_or((flag, None), |(name, value)| (name, Some(value.to_owned())));
    let Some(definition) = SETTING_DEFINITIONS
        .iter()
        .find(|definition| definition.name == &name[2..])
    else {
        if in_command {
            return Ok(None);
        }
        let nearest = nearest_name(name, |definition| format!("--{}", definition.name));
        return Err(SettingsError(format!(
            "there is no flag {name}; did you mean {nearest}?"
        )));
    };
    let value = match value {
        Some(value) => value,
        None if definition.is_switch() => arguments
            .next_if(|next| is_switch_value(next))
            .unwrap_or_else(|| "true".to_owned()),
        None => arguments
            .next()
            .ok_or_else(|| SettingsError(format!("{name} needs a value: {}", definition.bounds)))?,
    };
    Ok(Some((definition, value, name.to_owned())))
}

fn is_switch_value(text: &str) -> bool {
    matches!(text, "true" | "false")
}

fn unknown_command_error(name: &str, commands: &[&str]) -> SettingsError {
    let known: Vec<&str> = ["run"].iter().chain(commands).copied().collect();
    SettingsError(format!(
        "there is no command {name:?}; use one of {}",
        known.join(", ")
    ))
}

/// Returns the settings part of the help text.
pub fn help_text() -> String {
    let mut out = String::new();
    for definition in SETTING_DEFINITIONS {
        let SettingDefinition {
            name, help, bounds, ..
        } = definition;
        let default = match (definition.default, definition.dev_default) {
            ("", _) => String::new(),
            (default, None) => format!(" [default: {default}]"),
            (default, Some(dev)) => format!(" [default: {default}; with --dev: {dev}]"),
        };
        let value = if definition.is_switch() {
            " [true|false]".to_owned()
        } else {
            format!(" <{bounds}>")
        };
        let _ = writeln!(out, "  --{name}{value}\n          {help}{default}");
    }
    out
}

/// Returns the text of `docs/reference/settings.md`.
pub fn reference_markdown() -> String {
    let mut out = "# Agent settings\n\nGenerated from the code; do not edit. A flag overrides its variable. An unknown flag or `STREAMHOUSE_` \
        variable, or settings that contradict each other, are rejected before any port is bound.\n\n\
        | flag | variable | default | with `--dev` | allowed | description |\n|---|---|---|---|---|---|\n"
        .to_owned();
    for definition in SETTING_DEFINITIONS {
        let SettingDefinition {
            name,
            default,
            dev_default,
            bounds,
            help,
            ..
        } = definition;
        let code = |text: &str| {
            if text.is_empty() {
                String::new()
            } else {
                format!("`{text}`")
            }
        };
        let (default, dev, variable) = (
            code(default),
            code(dev_default.unwrap_or_default()),
            definition.variable(),
        );
        let _ = writeln!(
            out,
            "| `--{name}` | `{variable}` | {default} | {dev} | {bounds} | {help} |"
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn load_settings(arguments: &[&str], environment: &[(&str, &str)]) -> Result<AgentSettings, String> {
        let arguments = arguments.iter().map(ToString::to_string);
        let environment = environment.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        match load(arguments, environment, &["migrate"]) {
            Ok(AgentInvocation::Command { settings, .. }) => Ok(*settings),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Bounds the number of settings, so that an agent stays learnable. Three of them are those of
    /// the Kafka listener, and one bounds the connections of an address, as Kafka's
    /// `max.connections.per.ip` does; four say who clients are and what they may do, and one names
    /// the file with all about the tokens of OAUTHBEARER.
    const MAX_SETTINGS: usize = 44;

    #[test]
    fn there_are_few_settings_and_every_default_is_legal() {
        assert!(SETTING_DEFINITIONS.len() <= MAX_SETTINGS);
        for dev in [false, true] {
            let mut settings = AgentSettings::defaults(dev);
            for definition in SETTING_DEFINITIONS {
                assert_eq!(
                    (definition.set)(&mut settings, definition.default_for(dev)),
                    Ok(()),
                    "{}",
                    definition.name
                );
            }
        }
    }

    #[test]
    fn dev_needs_nothing_else() {
        let settings = load_settings(&["--dev"], &[]).unwrap();
        assert_eq!(settings.flush_interval, Duration::from_millis(5));
        assert_eq!(settings.metadata_url.expose(), "sqlite:.streamhouse/metadata.db");
        assert_eq!(settings.object_store, "file:.streamhouse/objects");
    }

    /// Covers the four ways to write a switch, each followed by a command.
    #[test]
    fn a_switch_takes_a_value_too() {
        let switches: Vec<&SettingDefinition> = SETTING_DEFINITIONS
            .iter()
            .filter(|definition| definition.is_switch())
            .collect();
        assert!(switches.len() >= 3);
        for switch in switches {
            let flag = format!("--{}", switch.name);
            for (arguments, on) in [
                (vec![flag.clone()], true),
                (vec![flag.clone(), "true".to_owned()], true),
                (vec![format!("{flag}=true")], true),
                (vec![flag.clone(), "false".to_owned()], false),
                (vec![format!("{flag}=false")], false),
            ] {
                let mut expected = AgentSettings::defaults(on && switch.name == "dev");
                (switch.set)(&mut expected, if on { "true" } else { "false" }).unwrap();
                let all = arguments.into_iter().chain(["migrate".to_owned()]);
                let Ok(AgentInvocation::Command { name, settings, .. }) = load(all, [], &["migrate"]) else {
                    panic!("{flag} {on} is rejected");
                };
                expected.metadata_url = settings.metadata_url.clone();
                expected.object_store.clone_from(&settings.object_store);
                assert_eq!((name.as_str(), *settings), ("migrate", expected));
            }
        }
        let error = load_settings(&["--dev", "--s3-path-style", "perhaps"], &[]).unwrap_err();
        assert!(error.contains("perhaps"), "{error}");
        let error = load_settings(&["--dev", "--s3-path-style=perhaps"], &[]).unwrap_err();
        assert!(error.contains("true or false"), "{error}");
    }

    #[test]
    fn a_line_feed_after_a_value_is_trimmed_and_one_inside_is_refused_by_name() {
        for definition in SETTING_DEFINITIONS
            .iter()
            .filter(|definition| definition.name != "dev")
        {
            let default = definition.default_for(true);
            let variable = definition.variable();
            let after = format!("{default}\n");
            assert_eq!(
                load_settings(&["--dev"], &[(&variable, &after)]),
                load_settings(&["--dev"], &[]),
                "{variable}"
            );
            let inside = "a\nhush\na".to_owned();
            let error = load_settings(&["--dev"], &[(&variable, &inside)]).unwrap_err();
            assert!(error.starts_with(&variable), "{error}");
            assert!(
                error.contains("control character") && !error.contains("hush"),
                "{error}"
            );
        }
    }

    #[test]
    fn tokens_need_the_file_about_them_and_the_file_needs_tokens() {
        let settings = load_settings(
            &["--dev", "--authentication=OAUTHBEARER", "--oauth-file=o.yaml"],
            &[],
        );
        assert_eq!(settings.unwrap().oauth_file, Some("o.yaml".into()));
        let error = load_settings(&["--dev", "--authentication=PLAIN,OAUTHBEARER"], &[]).unwrap_err();
        assert!(error.contains("needs oauth-file"), "{error}");
        let error =
            load_settings(&["--dev", "--authentication=PLAIN", "--oauth-file=o.yaml"], &[]).unwrap_err();
        assert!(error.contains("OAUTHBEARER"), "{error}");
    }

    #[test]
    fn a_flag_beats_its_variable() {
        let settings = load_settings(
            &["--dev", "--flush-interval=20ms"],
            &[("STREAMHOUSE_FLUSH_INTERVAL", "30ms")],
        )
        .unwrap();
        assert_eq!(settings.flush_interval, Duration::from_millis(20));
        let settings = load_settings(&["--dev"], &[("STREAMHOUSE_FLUSH_INTERVAL", "30ms")]).unwrap();
        assert_eq!(settings.flush_interval, Duration::from_millis(30));
    }

    #[test]
    fn what_is_unknown_is_refused_with_the_nearest_name() {
        assert!(
            load_settings(&["--dev", "--flush-intervall", "1s"], &[])
                .unwrap_err()
                .contains("--flush-interval?")
        );
        assert!(
            load_settings(&["--dev"], &[("STREAMHOUSE_METADATAURL", "x")])
                .unwrap_err()
                .contains("STREAMHOUSE_METADATA_URL?")
        );
        assert!(load_settings(&["strat"], &[]).unwrap_err().contains("migrate"));
        assert!(
            load_settings(&["--dev", "extra"], &[])
                .unwrap_err()
                .contains("extra")
        );
    }

    #[test]
    fn foreign_variables_are_left_alone() {
        let foreign = [
            ("STREAMHOUSE_BOOTSTRAP", "x"),
            ("STREAMHOUSE_USER", "x"),
            ("STREAMHOUSE_PASSWORD", "x"),
            ("STREAMHOUSE_PASSWORD_FILE", "x"),
            ("STREAMHOUSE_CLIENT_TLS_CA", "x"),
            ("PATH", "/bin"),
        ];
        assert!(load_settings(&["--dev"], &foreign).is_ok());
    }

    /// The variables that Kubernetes sets for Services named `streamhouse`, `streamhouse-agents`
    /// and `streamhouse-metadata`.
    #[test]
    fn the_variables_of_services_are_left_alone() {
        for service in ["STREAMHOUSE", "STREAMHOUSE_AGENTS", "STREAMHOUSE_METADATA"] {
            let set = [
                ("_SERVICE_HOST", "10.96.0.7"),
                ("_SERVICE_PORT", "50051"),
                ("_SERVICE_PORT_GRPC", "50051"),
                ("_PORT", "tcp://10.96.0.7:50051"),
                ("_PORT_50051_TCP", "tcp://10.96.0.7:50051"),
                ("_PORT_50051_TCP_PROTO", "tcp"),
                ("_PORT_50051_TCP_PORT", "50051"),
                ("_PORT_50051_TCP_ADDR", "10.96.0.7"),
                ("_PORT_53_UDP_ADDR", "10.96.0.7"),
            ];
            let names: Vec<String> = set.iter().map(|(mark, _)| format!("{service}{mark}")).collect();
            let variables: Vec<(&str, &str)> = names
                .iter()
                .map(String::as_str)
                .zip(set.map(|(_, value)| value))
                .collect();
            assert_eq!(
                load_settings(&["--dev"], &variables),
                load_settings(&["--dev"], &[]),
                "{service}"
            );
        }
    }

    #[test]
    fn empty_variables_of_optional_settings_are_as_good_as_none() {
        // One that --dev sets can be turned off so.
        let optional = SETTING_DEFINITIONS
            .iter()
            .filter(|definition| definition.default_for(true).is_empty());
        let names: Vec<String> = optional.map(SettingDefinition::variable).collect();
        let empty: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert!(names.contains(&"STREAMHOUSE_ZONE".to_owned()));
        assert_eq!(load_settings(&["--dev"], &empty), load_settings(&["--dev"], &[]));
    }

    #[test]
    fn contradictions_are_refused() {
        let cases: [(&[&str], &str); 6] = [
            (&[], "metadata-url"),
            (
                &["--metadata-url", "mysql://x", "--object-store", "file:x"],
                "postgres://",
            ),
            (&["--dev", "--s3-endpoint", "http://x"], "s3-endpoint"),
            (&["--dev", "--produce-memory", "1MiB"], "produce-memory"),
            (&["--dev", "--flush-interval", "1m"], "lease-ttl"),
            (&["--dev", "--flush-bytes", "1"], "flush-bytes"),
        ];
        for (arguments, named) in cases {
            let error = load_settings(arguments, &[]).unwrap_err();
            assert!(error.contains(named), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn no_error_and_no_debug_output_shows_the_password() {
        let url = "postgres://u:hunter2@h/d";
        let settings = load_settings(&["--dev", "--metadata-url", url], &[]).unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
        let error = load_settings(&["--metadata-url", "mysql://u:hunter2@h"], &[]).unwrap_err();
        assert!(!error.contains("hunter2"));
    }

    #[test]
    fn the_reference_is_what_the_code_says() {
        streamhouse_testkit::assert_current("docs/reference/settings.md", &reference_markdown()).unwrap();
    }
}
