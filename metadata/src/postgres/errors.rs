//! What PostgreSQL's errors mean: whether to run the transaction again, tell the caller to, or give up.

use crate::{Error, failure::Meaning};

/// What an error means for the transaction.
pub(super) fn meaning(error: sqlx::Error) -> Meaning {
    let text = error.to_string();
    let Some(code) = error.as_database_error().and_then(|error| error.code()) else {
        return Meaning::Final(match error {
            sqlx::Error::PoolTimedOut => Error::Unavailable(
                "no connection to PostgreSQL in time: it is down or cannot be reached, or all connections are busy"
                    .to_owned(),
            ),
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::Encode(_)
            | sqlx::Error::RowNotFound
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::TypeNotFound { .. } => Error::Inconsistent(text),
            sqlx::Error::Io(io) => Error::Unavailable(untrusted(&io).unwrap_or(text)),
            _ => Error::Unavailable(text),
        });
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
        // Not ours to write, for now: a standby after a fail-over.
        "25006" | "25P03" | "55P03" | "57014" => Meaning::Final(Error::Unavailable(text)),
        // Connection, authorization, no such database, resources, operator intervention, system.
        code if ["08", "28", "3D", "53", "57", "58"]
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
        Meaning::TryAgain(error) | Meaning::Final(error) => error,
    }
}
