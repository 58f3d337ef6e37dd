//! The stack's ports: their variables, their defaults, and configuration files with the chosen
//! ports in place of the default ones.
//!
//! Guarantees: a port is the variable's, or else that of the last start, or else the default one.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, bail};
use regex_lite::{Captures, Regex};

/// A port of the stack, or of what runs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortName {
    Postgres,
    MinIo,
    MinIoConsole,
    Prometheus,
    Alertmanager,
    NodeExporter,
    AgentHttp,
    AgentGrpc,
    Webhook,
}

impl PortName {
    pub(crate) const ALL: [PortName; 9] = [
        PortName::Postgres,
        PortName::MinIo,
        PortName::MinIoConsole,
        PortName::Prometheus,
        PortName::Alertmanager,
        PortName::NodeExporter,
        PortName::AgentHttp,
        PortName::AgentGrpc,
        PortName::Webhook,
    ];

    /// Returns the variable that moves the port.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            PortName::Postgres => "DEV_POSTGRES_PORT",
            PortName::MinIo => "DEV_MINIO_PORT",
            PortName::MinIoConsole => "DEV_MINIO_CONSOLE_PORT",
            PortName::Prometheus => "DEV_PROMETHEUS_PORT",
            PortName::Alertmanager => "DEV_ALERTMANAGER_PORT",
            PortName::NodeExporter => "DEV_NODE_EXPORTER_PORT",
            PortName::AgentHttp => "DEV_AGENT_HTTP_PORT",
            PortName::AgentGrpc => "DEV_AGENT_GRPC_PORT",
            PortName::Webhook => "DEV_WEBHOOK_PORT",
        }
    }

    fn default_number(self) -> u16 {
        match self {
            PortName::Postgres => 5432,
            PortName::MinIo => 9000,
            PortName::MinIoConsole => 9001,
            PortName::Prometheus => 9090,
            PortName::Alertmanager => 9093,
            PortName::NodeExporter => 9100,
            PortName::AgentHttp => 8080,
            PortName::AgentGrpc => 50051,
            PortName::Webhook => 9099,
        }
    }
}

/// The number of each port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StackPorts {
    numbers: Vec<(PortName, u16)>,
}

impl StackPorts {
    /// Chooses the ports. `saved` is the text of the last start's file, or empty.
    ///
    /// # Errors
    ///
    /// Fails with the name of a variable or an entry that is not a port.
    pub(crate) fn choose(
        variable: impl Fn(&str) -> Option<String>,
        saved: &str,
    ) -> anyhow::Result<StackPorts> {
        let number = |name: PortName| -> anyhow::Result<(PortName, u16)> {
            let set = variable(name.variable()).filter(|value| !value.is_empty());
            match set.as_deref().or_else(|| find_saved(saved, name)) {
                Some(text) => Ok((name, parse_port(name, text)?)),
                None => Ok((name, name.default_number())),
            }
        };
        let numbers = PortName::ALL.into_iter().map(number);
        Ok(StackPorts {
            numbers: numbers.collect::<anyhow::Result<_>>()?,
        })
    }

    /// Returns the number of a port.
    pub(crate) fn number(&self, name: PortName) -> u16 {
        let found = self.numbers.iter().find(|(other, _)| *other == name);
        found.map_or(name.default_number(), |(_, number)| *number)
    }

    /// Returns the text of the file that the next start reads: `VARIABLE=number` lines.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, number) in &self.numbers {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}={number}", name.variable());
        }
        text
    }

    /// Fails if a port differs from that of the last start; called while a part of the stack runs,
    /// because the result would be a mixture of two stacks.
    ///
    /// # Errors
    ///
    /// Fails with the first variable that differs.
    pub(crate) fn refuse_moved(&self, saved: &str, folder: &Path) -> anyhow::Result<()> {
        for (name, number) in &self.numbers {
            let Some(was) = find_saved(saved, *name) else {
                continue;
            };
            if was != number.to_string() {
                bail!(
                    "the stack in {} runs with {}={was}, not {number}: hack/dev-down.sh first",
                    folder.display(),
                    name.variable()
                );
            }
        }
        Ok(())
    }

    /// Returns a configuration with these ports in place of the default ones of this machine.
    ///
    /// # Errors
    ///
    /// Fails if the expression is wrong.
    pub(crate) fn rewrite(&self, text: &str) -> anyhow::Result<String> {
        // One pass, so that a port that was put in is not replaced again.
        let address = Regex::new(r"(?:localhost|127\.0\.0\.1):([0-9]+)\b")?;
        let replace = |found: &Captures<'_>| {
            let written: Option<u16> = found[1].parse().ok();
            let moved = PortName::ALL
                .into_iter()
                .find(|name| Some(name.default_number()) == written);
            match moved {
                Some(name) => format!("127.0.0.1:{}", self.number(name)),
                None => found[0].to_owned(),
            }
        };
        Ok(address.replace_all(text, replace).into_owned())
    }
}

fn find_saved(saved: &str, name: PortName) -> Option<&str> {
    let value = |line: &'_ str| -> bool { line.split('=').next() == Some(name.variable()) };
    let line = saved.lines().find(|line| value(line))?;
    line.split_once('=')
        .map(|(_, value)| value)
        .filter(|value| !value.is_empty())
}

fn parse_port(name: PortName, text: &str) -> anyhow::Result<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    let number = text.parse().ok().filter(|_| digits);
    number.with_context(|| format!("{} is not a port: {text}", name.variable()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(variables: &[(&str, &str)], saved: &str) -> anyhow::Result<StackPorts> {
        let find = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        StackPorts::choose(find, saved)
    }

    #[test]
    fn a_variable_precedes_the_last_start_and_that_the_default() {
        let saved = "DEV_POSTGRES_PORT=15432\nDEV_MINIO_PORT=19000\n";
        let ports = choose(&[("DEV_POSTGRES_PORT", "25432"), ("DEV_MINIO_PORT", "")], saved).unwrap();
        assert_eq!(ports.number(PortName::Postgres), 25432);
        assert_eq!(ports.number(PortName::MinIo), 19000);
        assert_eq!(ports.number(PortName::MinIoConsole), 9001);
    }

    #[test]
    fn what_is_saved_is_read_again() {
        let ports = choose(&[("DEV_WEBHOOK_PORT", "29099")], "").unwrap();
        assert_eq!(ports.to_text().lines().count(), PortName::ALL.len());
        assert_eq!(choose(&[], &ports.to_text()).unwrap(), ports);
    }

    #[test]
    fn what_is_no_port_is_refused_with_its_variable() {
        for text in ["0", "080", "65536", "-1", "+1", "http", "9000 "] {
            let error = choose(&[("DEV_MINIO_PORT", text)], "").unwrap_err();
            assert_eq!(error.to_string(), format!("DEV_MINIO_PORT is not a port: {text}"));
        }
        let error = choose(&[], "DEV_MINIO_PORT=many\n").unwrap_err();
        assert_eq!(error.to_string(), "DEV_MINIO_PORT is not a port: many");
    }

    #[test]
    fn moved_ports_are_refused() {
        let ports = choose(&[("DEV_POSTGRES_PORT", "5433")], "").unwrap();
        let error = ports
            .refuse_moved("DEV_MINIO_PORT=9000\nDEV_POSTGRES_PORT=5432\n", Path::new("/x"))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the stack in /x runs with DEV_POSTGRES_PORT=5432, not 5433: hack/dev-down.sh first"
        );
        ports.refuse_moved(&ports.to_text(), Path::new("/x")).unwrap();
        // A stack of an older version may lack a port.
        ports.refuse_moved("", Path::new("/x")).unwrap();
    }

    #[test]
    fn default_ports_are_replaced_once_and_others_stay() {
        let ports = choose(
            &[("DEV_PROMETHEUS_PORT", "9093"), ("DEV_ALERTMANAGER_PORT", "9090")],
            "",
        )
        .unwrap();
        let rewrite = |text| ports.rewrite(text).unwrap();
        assert_eq!(
            rewrite("[localhost:9090] http://127.0.0.1:9093/"),
            "[127.0.0.1:9093] http://127.0.0.1:9090/"
        );
        for other in [
            "localhost:19090",
            "localhost:90901",
            "otherhost:9090",
            "PostgreSQL on 9090",
            "127a0b0c1:9090",
        ] {
            assert_eq!(rewrite(other), other);
        }
    }

    #[test]
    fn every_address_of_the_settings_is_moved() {
        let variables: Vec<(&str, String)> = PortName::ALL
            .into_iter()
            .zip(21_000..)
            .map(|(name, number)| (name.variable(), number.to_string()))
            .collect();
        let variables: Vec<(&str, &str)> = variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let settings = include_str!("../../../.env.dev");
        let text = choose(&variables, "").unwrap().rewrite(settings).unwrap();
        let exported: String = text.lines().filter(|line| line.starts_with("export ")).collect();
        assert!(exported.contains("@127.0.0.1:21000/streamhouse_metadata"));
        assert!(!exported.contains("localhost") && !exported.contains(":8080"));
    }
}
