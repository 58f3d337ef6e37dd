//! Opening a store, and what is done to a store as a whole: migrating it, looking at its schema, dropping it. The address chooses
//! which store. Called by whoever needs metadata, once.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use crate::{Error, MetadataStore, Migrated, Result, SchemaState, postgres, sqlite};

/// How a store is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Connections at most, 3 at least (readers, for SQLite). Renewals, writes and reads have connections of their own: of 8
    /// they have 2, 3 and 3, and of more, leases 2 and the others half of the rest each.
    pub max_connections: u32,
    /// How long a call waits for a free connection, and for one to be made.
    pub acquire_timeout: Duration,
    /// How long one statement may take, waiting for locks included. A transaction whose agent stands still is ended by the
    /// database after the same time, so that it holds up nobody for longer. A call that has a connection is given up a little
    /// later, whatever the database does, and its connection is closed.
    pub statement_timeout: Duration,
    /// The name that the database shows for our connections, unless the address has one.
    pub application_name: String,
    /// Goes before what the address says of TLS (`sslmode`, `sslrootcert`). SQLite has no use for it.
    pub tls: Option<TlsOptions>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            max_connections: 16,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(5),
            application_name: "streamhouse".to_owned(),
            tls: None,
        }
    }
}

impl ConnectOptions {
    /// How long one attempt at a call may take once it has a connection: a little longer than the database gives one statement,
    /// so that a database that is merely slow ends it in order.
    pub(crate) fn attempt_limit(&self) -> Duration {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(1));
        self.statement_timeout + (self.statement_timeout / 5).clamp(least, most)
    }

    /// How long any call takes at most, waiting for a connection and all attempts included.
    pub fn call_limit(&self) -> Duration {
        self.acquire_timeout + self.attempt_limit()
    }
}

/// TLS to PostgreSQL, for a process that has the certificates in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// What is checked.
    pub mode: TlsMode,
    /// Certificates in PEM that are trusted besides the computer's own.
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

/// How much of the server's certificate is checked; named after libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Encrypted, to whomever. With a CA given, the same as [`VerifyCa`](Self::VerifyCa), as for libpq.
    Require,
    /// A CA that we trust signed it.
    VerifyCa,
    /// The same, and it names the host of the address.
    VerifyFull,
}

/// Which store an address means.
enum Backend {
    Postgres,
    Sqlite,
}

fn backend(url: &str) -> Result<Backend> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") => Ok(Backend::Postgres),
        Some("sqlite") => Ok(Backend::Sqlite),
        // Not the address itself: it may hold a password.
        _ => Err(Error::Address(
            "the metadata address must begin with postgres://, postgresql:// or sqlite:".to_owned(),
        )),
    }
}

/// Looks at an address without connecting: [`Error::Address`] says what is wrong with it, and holds no part of a password.
pub fn check_address(url: &str) -> Result<()> {
    match backend(url)? {
        Backend::Postgres => postgres::check_address(url),
        Backend::Sqlite => sqlite::check_address(url),
    }
}

/// Opens the store at `url`: `postgres://user:password@host:port/database?sslmode=verify-full`, `sqlite:PATH` or
/// `sqlite::memory:`. A SQLite file is created and migrated; PostgreSQL must have been migrated with [`migrate`], else
/// [`Error::Schema`] says so. A connection pooler before PostgreSQL is noticed; statements are not prepared then.
/// [`Error::Address`] when the address cannot be used. Takes no longer than [`ConnectOptions::call_limit`].
pub async fn connect(url: &str, options: &ConnectOptions) -> Result<Arc<dyn MetadataStore>> {
    match backend(url)? {
        Backend::Postgres => postgres::connect(url, options).await,
        Backend::Sqlite => sqlite::connect(url, options).await,
    }
}

/// Brings the schema of the store at `url` to the version of this build. May be repeated and run by several at once. A migration
/// takes the time that it needs: of the time-outs only that for the connection counts.
pub async fn migrate(url: &str, options: &ConnectOptions) -> Result<Migrated> {
    match backend(url)? {
        Backend::Postgres => postgres::migrate(url, options).await,
        Backend::Sqlite => sqlite::migrate(url).await,
    }
}

/// Which version the schema of the store at `url` has, and which one this build needs. Only reads; a store that is empty, or a
/// SQLite file that does not exist, has version 0. [`Error::Schema`] when it is too new for this build, or not ours.
pub async fn schema(url: &str, options: &ConnectOptions) -> Result<SchemaState> {
    match backend(url)? {
        Backend::Postgres => postgres::schema(url, options).await,
        Backend::Sqlite => sqlite::schema(url, options).await,
    }
}

/// The id of the cluster whose store is at `url`, whatever the version of its schema; `None` for a store that is empty. Only reads.
/// [`Error::Schema`] as for [`schema`].
pub async fn cluster_id(url: &str, options: &ConnectOptions) -> Result<Option<String>> {
    match backend(url)? {
        Backend::Postgres => postgres::cluster_id(url, options).await,
        Backend::Sqlite => sqlite::cluster_id(url, options).await,
    }
}

/// Copies the SQLite file at `url` to `to`, which must not exist, as it is at one moment; agents may go on meanwhile. `false` for
/// PostgreSQL, which has tools of its own for that.
pub async fn backup(url: &str, options: &ConnectOptions, to: &Path) -> Result<bool> {
    match backend(url)? {
        Backend::Postgres => Ok(false),
        Backend::Sqlite => sqlite::backup(url, options, to).await.map(|()| true),
    }
}

/// The id of an agent that holds its lease in the store at `url`, if there is one: what is to be deleted is still in use. Only reads;
/// a store without a schema has no agent. [`Error::Schema`] as for [`schema`].
pub async fn live_agent(url: &str, options: &ConnectOptions) -> Result<Option<String>> {
    match backend(url)? {
        Backend::Postgres => postgres::live_agent(url, options).await,
        Backend::Sqlite => sqlite::live_agent(url, options).await,
    }
}

/// Drops every table of ours in the store at `url`, with everything that the cluster knows of its records; what others keep in the
/// same database stays. All or nothing, and it may be repeated: says whether there was anything to drop. [`Error::AgentLives`] while
/// an agent holds its lease, [`Error::Schema`] when the tables are not those of this build or an older one.
pub async fn drop_schema(url: &str, options: &ConnectOptions) -> Result<bool> {
    match backend(url)? {
        Backend::Postgres => postgres::drop_schema(url, options).await,
        Backend::Sqlite => sqlite::drop_schema(url, options).await,
    }
}
