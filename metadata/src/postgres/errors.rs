//! Classifies PostgreSQL's errors: whether to retry the transaction, on the same or another
//! connection, or to return the error to the caller.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::Error;

/// The consequence of an error for the call and its connection.
#[derive(Debug)]
pub(super) enum Meaning {
    /// Another transaction conflicted (deadlock, serialization): a retry may succeed at once.
    TryAgain(Error),
    /// The call had no effect and cannot succeed on this connection, but may on another.
    Stale(Error),
    /// The connection is lost, and with it the outcome of a commit in progress.
    Broken(Error),
    /// A retry within this call would not succeed.
    Final(Error),
}

/// Classifies an error.
pub(super) fn meaning(error: sqlx::Error) -> Meaning {
    let text = error.to_string();
    let Some(code) = error.as_database_error().and_then(|error| error.code()) else {
        return match error {
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::Encode(_)
            | sqlx::Error::RowNotFound
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::TypeNotFound { .. } => Meaning::Final(Error::Inconsistent(text)),
            sqlx::Error::Io(io) => Meaning::Broken(Error::Unavailable(untrusted(&io).unwrap_or(text))),
            _ => Meaning::Broken(Error::Unavailable(text)),
        };
    };
    // Classes and codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
    match code.as_ref() {
        // Serialization failure, deadlock; a unique key that a concurrent transaction inserted
        // first.
        "40001" | "40P01" => Meaning::TryAgain(Error::Unavailable(text)),
        "23505" => Meaning::TryAgain(Error::Inconsistent(text)),
        // Undefined table or column.
        "42P01" | "42703" => Meaning::Final(Error::Schema(format!(
            "{text}: run `streamhouse-agent migrate`, or a newer build"
        ))),
        // The server is a standby, or has become one.
        "25006" => Meaning::Stale(Error::Unavailable(text)),
        // The server is starting up or shutting down.
        "57P03" => Meaning::Stale(Error::Unavailable(text)),
        // The tables changed under a prepared statement.
        "0A000" if text.contains("cached plan") => Meaning::Stale(Error::Unavailable(text)),
        // A prepared statement does not exist, or exists already.
        "26000" | "42P05" => Meaning::Stale(Error::Unavailable(format!(
            "{text}: if PostgreSQL is reached through a connection pooler, add statement-cache-capacity=0 to the address"
        ))),
        // The server or the network ended the connection.
        code if is_fatal(&error) || code.starts_with("08") => Meaning::Broken(Error::Unavailable(text)),
        // The wait for a lock, or the statement, took too long.
        "55P03" | "57014" => Meaning::Final(Error::Unavailable(text)),
        // Authorization, missing database, resources, operator intervention, system.
        code if ["28", "3D", "53", "57", "58"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            Meaning::Final(Error::Unavailable(text))
        }
        _ => Meaning::Final(Error::Inconsistent(text)),
    }
}

/// Returns a message if the connection broke because the server's certificate was refused.
fn untrusted(error: &std::io::Error) -> Option<String> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(inner, rustls::Error::InvalidCertificate(_)).then(|| {
        format!("the server's certificate was refused ({inner}): check its CA, its host names and its validity period")
    })
}

/// Converts an error of PostgreSQL to the crate's error.
pub(super) fn refusal(error: sqlx::Error) -> Error {
    match meaning(error) {
        Meaning::TryAgain(error) | Meaning::Stale(error) | Meaning::Broken(error) | Meaning::Final(error) => {
            error
        }
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
