//! [`CommandError`]: the error of a command, with a message for people, a code for programs and an
//! exit code for shells. Every command returns it; `main` prints it.

use std::io;

use serde_json::json;
use streamhouse_client::{Error, ErrorCode};

use crate::{output_format::OutputFormat, terminal};

/// Exit code of a command that failed.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Exit code of a command that was called incorrectly.
pub(crate) const EXIT_USAGE: u8 = 2;

/// The result of a command.
pub(crate) type CommandResult<T = ()> = Result<T, CommandError>;

/// The reason why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    /// The arguments are invalid or contradict each other.
    #[error("{0}")]
    Usage(String),
    /// The command was tried and failed.
    #[error("{message}")]
    Failed {
        /// One line, lower-case, saying what to do.
        message: String,
        /// The code reported by the cluster or the client, if any.
        code: Option<ErrorCode>,
    },
    /// The reader of the output is gone, which ends the command without an error.
    #[error("the reader of the output has closed it")]
    BrokenPipe,
}

impl CommandError {
    /// Creates a failure without an error code.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
            code: None,
        }
    }

    /// Creates a failure of invalid arguments.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Prefixes the message with what the command was doing.
    #[must_use]
    pub(crate) fn with_context(self, what: &str) -> Self {
        match self {
            Self::Failed { message, code } => Self::Failed {
                message: format!("{what}: {message}"),
                code,
            },
            other => other,
        }
    }

    /// Returns the exit code for the shell.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Failed { .. } => EXIT_FAILED,
            Self::BrokenPipe => 0,
        }
    }

    /// Returns the line for stderr, `None` if nothing is to be printed.
    pub(crate) fn render(&self, format: OutputFormat) -> Option<String> {
        let name = match self {
            Self::BrokenPipe => return None,
            Self::Usage(_) => "USAGE",
            Self::Failed { code, .. } => code.map_or("FAILED", ErrorCode::name),
        };
        let message = collapse_whitespace(&self.to_string());
        Some(match format {
            OutputFormat::Json => json!({ "error": { "code": name, "message": message } }).to_string(),
            OutputFormat::Table => {
                let message = terminal::escape_for_stderr(&message);
                match self {
                    Self::Failed { code: Some(code), .. } => format!("streamhouse: {message} ({code})"),
                    _ => format!("streamhouse: {message}"),
                }
            }
        })
    }
}

/// Joins a message to one line: an agent's message may hold line feeds.
fn collapse_whitespace(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl From<Error> for CommandError {
    fn from(error: Error) -> Self {
        let message = match &error {
            Error::Cluster(error) => error.message().to_owned(),
            // Other errors name the address and what to check; a time-out without an error knows
            // neither.
            Error::Timeout { last: None, .. } => {
                format!("{error}; check --bootstrap and that the agent runs")
            }
            error => error.to_string(),
        };
        match error {
            Error::Config(message) => Self::Usage(message),
            error => Self::Failed {
                message,
                code: Some(error.code()),
            },
        }
    }
}

/// Converts an error of writing to stdout. Errors of reading are converted where the source is
/// known.
impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::failed(format!("cannot write the output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_code() {
        let error = streamhouse_client::Error::Cluster(streamhouse_core::Error::new(
            ErrorCode::TopicAlreadyExists,
            "there is a topic \"a\";\nchoose another name",
        ));
        let failure = CommandError::from(error);
        assert_eq!(failure.exit_code(), EXIT_FAILED);
        assert_eq!(
            failure.render(OutputFormat::Table).unwrap(),
            "streamhouse: there is a topic \"a\"; choose another name (TOPIC_ALREADY_EXISTS)"
        );
        let json: serde_json::Value =
            serde_json::from_str(&failure.render(OutputFormat::Json).unwrap()).unwrap();
        assert_eq!(json["error"]["code"], "TOPIC_ALREADY_EXISTS");
        assert_eq!(
            json["error"]["message"],
            "there is a topic \"a\"; choose another name"
        );
    }

    #[test]
    fn records_that_cannot_be_read_are_a_failure_that_names_them() {
        let message = "the stored records 7..9 in object t/0/segment_7.dat are damaged";
        let failure = CommandError::from(Error::Unreadable {
            partition: streamhouse_client::TopicPartition::new("t", 0),
            offset: 7,
            next_offset: Some(9),
            error: Box::new(streamhouse_core::Error::new(ErrorCode::StorageCorrupt, message)),
        });
        assert_eq!(failure.exit_code(), EXIT_FAILED);
        let line = failure.render(OutputFormat::Table).unwrap();
        assert!(
            line.contains("t-0") && line.contains(message) && line.ends_with("(STORAGE_CORRUPT)"),
            "{line}"
        );
    }

    #[test]
    fn settings_that_make_no_sense_are_a_usage_error() {
        let failure = CommandError::from(streamhouse_client::Error::Config("linger is too long".into()));
        assert_eq!(failure.exit_code(), EXIT_USAGE);
    }

    #[test]
    fn a_broken_pipe_ends_quietly() {
        let failure = CommandError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(
            (failure.exit_code(), failure.render(OutputFormat::Table)),
            (0, None)
        );
    }
}
