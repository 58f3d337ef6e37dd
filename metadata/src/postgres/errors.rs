//! What PostgreSQL's errors mean: whether to run the transaction again, on the same connection or another, tell the caller to, or
//! give up.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::Error;

/// What an error means for the call and for its connection.
#[derive(Debug)]
pub(super) enum Meaning {
    /// A rival was in the way (deadlock, serialization): the same transaction may succeed at once.
    TryAgain(Error),
    /// Nothing happened, and nothing ever will on this connection: another may do it.
    Stale(Error),
    /// The connection is gone, and with it the outcome of a commit that was under way.
    Broken(Error),
    /// Final for this call.
    Final(Error),
}

/// What an error means.
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
        // Serialization failure, deadlock; a unique key that a rival took first.
        "40001" | "40P01" => Meaning::TryAgain(Error::Unavailable(text)),
        "23505" => Meaning::TryAgain(Error::Inconsistent(text)),
        // No such table or column.
        "42P01" | "42703" => Meaning::Final(Error::Schema(format!(
            "{text}: run `streamhouse-agent migrate`, or a newer build"
        ))),
        // Not ours to write on this connection: to what is, or has become, a standby.
        "25006" => Meaning::Stale(Error::Unavailable(text)),
        // Not connected yet.
        "57P03" => Meaning::Stale(Error::Unavailable(text)),
        // The tables changed under a prepared statement.
        "0A000" if text.contains("cached plan") => Meaning::Stale(Error::Unavailable(text)),
        // A statement's name that is not there, or is there already.
        "26000" | "42P05" => Meaning::Stale(Error::Unavailable(format!(
            "{text}: if a connection pooler stands before PostgreSQL, add statement-cache-capacity=0 to the address"
        ))),
        // Ended by the server or on the way to it, whatever the reason.
        code if is_fatal(&error) || code.starts_with("08") => Meaning::Broken(Error::Unavailable(text)),
        // Waited too long for a lock or in a statement.
        "55P03" | "57014" => Meaning::Final(Error::Unavailable(text)),
        // Authorization, no such database, resources, operator intervention, system.
        code if ["28", "3D", "53", "57", "58"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            Meaning::Final(Error::Unavailable(text))
        }
        _ => Meaning::Final(Error::Inconsistent(text)),
    }
}

/// What to do when the connection broke because the server's certificate was refused.
fn untrusted(error: &std::io::Error) -> Option<String> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(inner, rustls::Error::InvalidCertificate(_)).then(|| {
        format!("the server's certificate was refused ({inner}): check its CA, its names and its dates")
    })
}

/// The crate's error for an error of PostgreSQL.
pub(super) fn refusal(error: sqlx::Error) -> Error {
    match meaning(error) {
        Meaning::TryAgain(error) | Meaning::Stale(error) | Meaning::Broken(error) | Meaning::Final(error) => {
            error
        }
    }
}

/// Whether the server closed the connection with this error.
fn is_fatal(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// Whether a server that cannot be connected to now may be in a moment: it starts, or has too many connections.
pub(super) fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(io) => io.kind() == std::io::ErrorKind::ConnectionRefused,
        error => error
            .as_database_error()
            .and_then(|error| error.code())
            .is_some_and(|code| matches!(code.as_ref(), "53300" | "57P03")),
    }
}
