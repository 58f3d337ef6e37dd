//! Warns on stderr what a command is waiting for, once that takes several seconds. Neither stdout
//! nor the exit code is affected.

use std::{collections::HashSet, time::Duration};

use serde_json::json;
use streamhouse_client::Client;

use crate::{output::OutputFormat, terminal};

/// How long a wait may take without a warning.
pub(crate) const WARN_AFTER: Duration = Duration::from_secs(4);
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Prints a one-line warning to stderr.
pub(crate) fn warn(format: OutputFormat, message: &str) {
    eprintln!("{}", format_warning(format, message));
}

fn format_warning(format: OutputFormat, message: &str) -> String {
    match format {
        OutputFormat::Json => json!({ "warning": { "message": message } }).to_string(),
        OutputFormat::Table => format!("streamhouse: warning: {}", terminal::escape_for_stderr(message)),
    }
}

/// Warns about agents that have not responded for a while, once each, until the runtime ends.
pub(crate) fn warn_about_silent_agents(client: Client, format: OutputFormat) {
    tokio::spawn(async move {
        let mut named = HashSet::new();
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let silent = client.unreachable_agents();
            named.retain(|address| silent.iter().any(|agent| agent.address == *address));
            for agent in silent.into_iter().filter(|agent| agent.duration >= WARN_AFTER) {
                if named.insert(agent.address.clone()) {
                    warn(format, &agent.to_string());
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_one_line_for_people_or_programs() {
        assert_eq!(
            format_warning(OutputFormat::Table, "agent a-2 is away"),
            "streamhouse: warning: agent a-2 is away"
        );
        let json: serde_json::Value =
            serde_json::from_str(&format_warning(OutputFormat::Json, "x\ny")).unwrap();
        assert_eq!(json["warning"]["message"], "x\ny");
    }
}
