//! A connection to PostgreSQL as this store uses it, and how it is opened.
//!
//! A connection pooler (such as PgBouncer) may run each transaction on another server connection.
//! Then nothing may remain in a session: no settings, and no prepared statements, because their
//! names would collide with those of other clients. Opening a connection detects a pooler: a
//! setting in the startup packet arrives at PostgreSQL, but not through a pooler.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{future::BoxFuture, stream::BoxStream};
use sqlx::{
    AssertSqlSafe, Connection, Describe, Either, Execute, Executor, Postgres, Row, SqlStr,
    error::BoxDynError,
    postgres::{PgArguments, PgConnectOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
    raw_sql,
};
use tokio::time::{Duration, Instant};

use super::{address::PostgresAddress, tls};
use crate::{ConnectOptions, Result};

/// The setting that every session begins with; PostgreSQL stores it, a pooler refuses or drops it.
const SESSION_MARKER: &str = "streamhouse.session";

/// Opens connections with the settings of the store.
#[derive(Clone)]
pub(crate) struct PostgresConnector {
    /// Without session settings, for a pooler.
    plain: PgConnectOptions,
    /// With session settings.
    direct: PgConnectOptions,
    /// The statements that set the same at the begin of each transaction through a pooler.
    local: Arc<str>,
    /// Whether a pooler was detected or the address declares one. Never reset: the settings for a
    /// pooler also work without one.
    pooled: Arc<AtomicBool>,
}

/// Timeouts that the server enforces, in milliseconds; 0 for none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerTimeouts {
    /// The limit of each statement.
    pub(crate) statement: u128,
    /// The limit of the wait for each lock, and of an idle transaction.
    pub(crate) lock: u128,
}

impl ServerTimeouts {
    /// Returns the timeouts of the store's calls.
    pub(crate) fn from_options(options: &ConnectOptions) -> Self {
        let millis = options.statement_timeout.as_millis();
        Self {
            statement: millis,
            lock: millis,
        }
    }
}

impl PostgresConnector {
    /// Parses the address. The server bounds every statement and lock by `timeouts`.
    pub(crate) fn new(url: &str, options: &ConnectOptions, timeouts: ServerTimeouts) -> Result<Self> {
        let PostgresAddress { settings, pooled } = url.parse()?;
        let settings = match &options.tls {
            Some(tls) => tls::apply_tls(settings, tls)?,
            None => settings,
        };
        let settings = match settings.get_application_name() {
            Some(_) => settings,
            None => settings.application_name(&options.application_name),
        };
        let values = [
            ("statement_timeout", timeouts.statement.to_string()),
            ("lock_timeout", timeouts.lock.to_string()),
            ("idle_in_transaction_session_timeout", timeouts.lock.to_string()),
            // Rows are found by index in memory or on flash. The default is for rotating disks and
            // prefers sequential scans.
            ("random_page_cost", "1.1".to_owned()),
            // All statements are short: compiling one takes longer than running it.
            ("jit", "off".to_owned()),
        ];
        let local: String = values
            .iter()
            .map(|(name, value)| format!("; SET LOCAL {name} = '{value}'"))
            .collect();
        // Floating-point numbers are read in binary, and poolers refuse the parameter.
        let plain = settings.extra_float_digits(None);
        Ok(Self {
            direct: plain
                .clone()
                .options(values)
                .options([(SESSION_MARKER, "direct")]),
            plain,
            local: local.into(),
            pooled: Arc::new(AtomicBool::new(pooled)),
        })
    }

    /// Returns the host and port, for messages.
    pub(crate) fn target(&self) -> String {
        format!("{}:{}", self.plain.get_host(), self.plain.get_port())
    }

    /// Returns the options of a direct connection.
    #[cfg(test)]
    pub(crate) fn direct(&self) -> &PgConnectOptions {
        &self.direct
    }

    /// Opens a connection. The caller bounds the time.
    pub(crate) async fn open(&self) -> Result<StoreConnection, sqlx::Error> {
        if self.pooled.load(Ordering::Relaxed) {
            return self.open_through_pooler().await;
        }
        match sqlx::PgConnection::connect_with(&self.direct).await {
            Ok(mut raw) => {
                let arrived = raw_sql("SELECT current_setting('streamhouse.session', true) = 'direct'");
                let arrived = arrived.fetch_one(&mut raw).await?;
                if arrived.try_get::<Option<bool>, _>(0)? == Some(true) {
                    return Ok(StoreConnection::new(raw, None));
                }
                self.mark_pooled();
                Ok(StoreConnection::new(raw, Some(self.local.clone())))
            }
            Err(sqlx::Error::Database(error)) if is_refused_setting(error.code().as_deref()) => {
                let conn = self.open_through_pooler().await?;
                self.mark_pooled();
                Ok(conn)
            }
            Err(error) => Err(error),
        }
    }

    async fn open_through_pooler(&self) -> Result<StoreConnection, sqlx::Error> {
        let raw = sqlx::PgConnection::connect_with(&self.plain).await?;
        Ok(StoreConnection::new(raw, Some(self.local.clone())))
    }

    fn mark_pooled(&self) {
        if !self.pooled.swap(true, Ordering::Relaxed) {
            tracing::info!(
                target = self.target(),
                "PostgreSQL is reached through a connection pooler: statements are not prepared, which lowers the commit rate"
            );
        }
    }
}

/// Returns whether the code is a protocol violation (PgBouncer) or "feature not supported" (other
/// poolers).
fn is_refused_setting(code: Option<&str>) -> bool {
    matches!(code, Some("08P01" | "0A000"))
}

/// How a call uses its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransactionScope {
    /// One statement, or several independent ones.
    Statement,
    /// A transaction.
    Transaction,
    /// A read-only transaction that sees one snapshot.
    ReadOnlySnapshot,
}

/// A connection. Wraps the driver's connection and keeps statements unnamed where a pooler requires
/// it.
pub(crate) struct StoreConnection {
    raw: sqlx::PgConnection,
    /// The statements that begin each transaction; `None` for a direct session.
    local: Option<Arc<str>>,
    opened: Instant,
}

impl fmt::Debug for StoreConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgConnection")
            .field("pooled", &self.is_pooled())
            .finish_non_exhaustive()
    }
}

impl StoreConnection {
    fn new(raw: sqlx::PgConnection, local: Option<Arc<str>>) -> Self {
        Self {
            raw,
            local,
            opened: Instant::now(),
        }
    }

    /// Returns whether the connection goes through a pooler.
    pub(crate) fn is_pooled(&self) -> bool {
        self.local.is_some()
    }

    /// Returns the time since it was opened.
    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Begins what `scope` requires; returns whether a transaction is open.
    pub(crate) async fn begin(&mut self, scope: TransactionScope) -> Result<bool, sqlx::Error> {
        let begin = match (scope, &self.local) {
            (TransactionScope::Statement, None) => return Ok(false),
            // A statement takes two messages: through a pooler only a transaction keeps them on one
            // server connection.
            (TransactionScope::Statement | TransactionScope::Transaction, _) => "BEGIN",
            (TransactionScope::ReadOnlySnapshot, _) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        let local = self.local.as_deref().unwrap_or_default();
        self.run_unprepared(&format!("{begin}{local}")).await?;
        Ok(true)
    }

    /// Commits the transaction.
    pub(crate) async fn commit(&mut self) -> Result<(), sqlx::Error> {
        self.run_unprepared("COMMIT").await
    }

    /// Rolls the transaction back.
    pub(crate) async fn rollback(&mut self) -> Result<(), sqlx::Error> {
        self.run_unprepared("ROLLBACK").await
    }

    /// Checks that the server responds.
    pub(crate) async fn ping(&mut self) -> Result<(), sqlx::Error> {
        self.raw.ping().await
    }

    /// Closes the connection and notifies the server.
    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        self.raw.close().await
    }

    /// Returns the driver's connection.
    pub(crate) fn raw(&mut self) -> &mut sqlx::PgConnection {
        &mut self.raw
    }

    /// Runs statements without arguments and without preparing them.
    pub(crate) async fn run_unprepared(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut self.raw)
            .await?;
        Ok(())
    }
}

/// A query whose statement has no name, so that the next one replaces it.
struct UnnamedQuery<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for UnnamedQuery<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

impl<'c> Executor<'c> for &'c mut StoreConnection {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.is_pooled() {
            self.raw.fetch_many(UnnamedQuery(query))
        } else {
            self.raw.fetch_many(query)
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.is_pooled() {
            self.raw.fetch_optional(UnnamedQuery(query))
        } else {
            self.raw.fetch_optional(query)
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.raw.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        self.raw.describe(sql)
    }
}
