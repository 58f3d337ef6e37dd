//! Classifies PostgreSQL's errors: whether to retry the transaction, on the same or another
//! connection, or to return the error to the caller.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::Error;

/// The consequence of an error for the call and its connection.
#[derive(Debug)]
pub(super) enum PostgresErrorClass {
    /// Another transaction conflicted (deadlock, serialization): a retry may succeed at once.
    Retryable(Error),
    /// The call had no effect and cannot succeed on this connection, but may on another.
    StaleConnection(Error),
    /// The connection is lost, and with it the outcome of a commit in progress.
    BrokenConnection(Error),
    /// A retry within this call would not succeed.
    Final(Error),
}

/// Classifies an error.
pub(super) fn classify_error(error: sqlx::Error) -> PostgresErrorClass {
    let text = error.to_string();
    let Some(code) = error.as_database_error().and_then(|error| error.code()) else {
        return match error {
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::Encode(_)
            | sqlx::Error::RowNotFound
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::TypeNotFound { .. } => PostgresErrorClass::Final(Error::Inconsistent(text)),
            sqlx::Error::Io(io) => PostgresErrorClass::BrokenConnection(Error::Unavailable(
                certificate_error_message(&io).unwrap_or(text),
            )),
            _ => PostgresErrorClass::BrokenConnection(Error::Unavailable(text)),
        };
    };
    // Classes and codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
    match code.as_ref() {
        // Serialization failure, deadlock; a unique key that a concurrent transaction inserted
        // first.
        "40001" | "40P01" => PostgresErrorClass::Retryable(Error::Unavailable(text)),
        "23505" => PostgresErrorClass::Retryable(Error::Inconsistent(text)),
        // Undefined table or column.
        "42P01" | "42703" => PostgresErrorClass::Final(Error::SchemaMismatch(format!(
            "{text}: run `streamhouse-agent migrate`, or a newer build"
        ))),
        // The server is a standby, or has become one.
        "25006" => PostgresErrorClass::StaleConnection(Error::Unavailable(text)),
        // The server is starting up or shutting down.
        "57P03" => PostgresErrorClass::StaleConnection(Error::Unavailable(text)),
        // The tables changed under a prepared statement.
        "0A000" if text.contains("cached plan") => {
            PostgresErrorClass::StaleConnection(Error::Unavailable(text))
        }
        // A prepared statement does not exist, or exists already.
        "26000" | "42P05" => PostgresErrorClass::StaleConnection(Error::Unavailable(format!(
            "{text}: if PostgreSQL is reached through a connection pooler, add statement-cache-capacity=0 to the address"
        ))),
        // The server or the network ended the connection.
        code if is_fatal(&error) || code.starts_with("08") => {
            PostgresErrorClass::BrokenConnection(Error::Unavailable(text))
        }
        // The wait for a lock, or the statement, took too long.
        "55P03" | "57014" => PostgresErrorClass::Final(Error::Unavailable(text)),
        // Authorization, missing database, resources, operator intervention, system.
        code if ["28", "3D", "53", "57", "58"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            PostgresErrorClass::Final(Error::Unavailable(text))
        }
        _ => PostgresErrorClass::Final(Error::Inconsistent(text)),
    }
}

/// Returns a message if the connection broke because the server's certificate was refused.
fn certificate_error_message(error: &std::io::Error) -> Option<String> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(inner, rustls::Error::InvalidCertificate(_)).then(|| {
        format!("the server's certificate was refused ({inner}): check its CA, its host names and its validity period")
    })
}

/// Converts an error of PostgreSQL to the crate's error.
pub(super) fn store_error(error: sqlx::Error) -> Error {
    match classify_error(error) {
        PostgresErrorClass::Retryable(error)
        | PostgresErrorClass::StaleConnection(error)
        | PostgresErrorClass::BrokenConnection(error)
        | PostgresErrorClass::Final(error) => error,
    }
}

/// Returns whether the server closed the connection with this error.
fn is_fatal(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// Returns whether a server that cannot be connected to may accept connections soon: it is
/// starting, or has too many connections.
pub(super) fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(io) => io.kind() == std::io::ErrorKind::ConnectionRefused,
        error => error
            .as_database_error()
            .and_then(|error| error.code())
            .is_some_and(|code| matches!(code.as_ref(), "53300" | "57P03")),
    }
}
