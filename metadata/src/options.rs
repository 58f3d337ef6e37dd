//! How a store is opened: limits of connections and times, and TLS.

use std::{fmt, time::Duration};

use crate::schema_window::{SCHEMA_WINDOW, SchemaWindow};

/// Configures the connections to a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// The maximum number of connections, at least 3 (for SQLite: of readers).
    ///
    /// Lease renewals, writes and reads use separate pools. Of 8 connections they have 2, 3 and 3;
    /// of more, leases have 2 and the others half of the rest each.
    pub max_connections: u32,
    /// How long a call waits for a free connection, and for a new one to be opened.
    pub acquire_timeout: Duration,
    /// How long one statement may take, including the wait for locks.
    ///
    /// The database ends a transaction whose client is idle after the same time, so that it holds
    /// its locks no longer. The client gives up a call slightly later, even if the database does
    /// not respond, and closes the connection.
    pub statement_timeout: Duration,
    /// The application name that the database shows, unless the address contains one.
    pub application_name: String,
    /// Overrides the TLS parameters of the address (`sslmode`, `sslrootcert`). Ignored by SQLite.
    pub tls: Option<TlsOptions>,
    /// The schema versions that the caller runs on: those of this build. Tests narrow it to act as
    /// an older build.
    pub schema: SchemaWindow,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            max_connections: 16,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(5),
            application_name: "streamhouse".to_owned(),
            tls: None,
            schema: SCHEMA_WINDOW,
        }
    }
}

impl ConnectOptions {
    /// Returns how long one attempt may take once it has a connection: slightly longer than the
    /// database's limit for a statement, so that a slow database ends the statement itself.
    pub(crate) fn attempt_limit(&self) -> Duration {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(1));
        self.statement_timeout + (self.statement_timeout / 5).clamp(least, most)
    }

    /// Returns the maximum duration of any call, including the wait for a connection and all
    /// attempts.
    pub fn call_limit(&self) -> Duration {
        self.acquire_timeout + self.attempt_limit()
    }
}

/// Configures TLS to PostgreSQL, with certificates in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// How the server's certificate is verified.
    pub mode: TlsMode,
    /// Certificates in PEM that are trusted in addition to the system's.
    pub ca_pem: Option<Vec<u8>>,
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("mode", &self.mode)
            .field("ca_pem", &self.ca_pem.as_ref().map(Vec::len))
            .finish()
    }
}

/// How the server's certificate is verified; named after libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Encrypts without verification. With a CA, the same as [`VerifyCa`](Self::VerifyCa), as in
    /// libpq.
    Require,
    /// Requires a certificate that a trusted CA signed.
    VerifyCa,
    /// As [`VerifyCa`](Self::VerifyCa), and the certificate must name the host of the address.
    VerifyFull,
}
