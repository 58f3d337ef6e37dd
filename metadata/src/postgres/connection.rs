//! A connection to PostgreSQL as every statement here uses it, and how one is opened.
//!
//! A connection pooler (PgBouncer and its like) may hand each transaction another server connection. Then nothing may be left in a
//! session: no settings, and no prepared statements, whose names would be those of other clients' statements. Opening a
//! connection finds out: a setting that travels with the start of a session arrives at PostgreSQL, and not through a pooler.

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

use super::{address::Address, tls};
use crate::{ConnectOptions, Result};

/// The setting that a session of ours begins with; PostgreSQL keeps it, a pooler refuses or drops it.
const MARK: &str = "streamhouse.session";

/// How connections are opened, and what is set on each.
#[derive(Clone)]
pub(crate) struct Opening {
    /// Without settings of the session.
    plain: PgConnectOptions,
    /// With them.
    direct: PgConnectOptions,
    /// What a transaction through a pooler begins with, instead.
    local: Arc<str>,
    /// A pooler was found, or the address says that there is one. Stays so: what is right for a pooler is right without one.
    pooled: Arc<AtomicBool>,
}

/// Time-outs of the server, in milliseconds; 0 for none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerTimeouts {
    /// For each statement.
    pub(crate) statement: u128,
    /// For each lock, and for a transaction left standing.
    pub(crate) lock: u128,
}

impl ServerTimeouts {
    /// Those of the calls.
    pub(crate) fn of(options: &ConnectOptions) -> Self {
        let millis = options.statement_timeout.as_millis();
        Self {
            statement: millis,
            lock: millis,
        }
    }
}

impl Opening {
    /// Reads the address. Every statement and lock is bounded as `timeouts` say.
    pub(crate) fn new(url: &str, options: &ConnectOptions, timeouts: ServerTimeouts) -> Result<Self> {
        let Address { settings, pooled } = url.parse()?;
        let settings = match &options.tls {
            Some(tls) => tls::apply(settings, tls)?,
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
            // Rows are found by index in memory or on flash: the default, made for turning disks, prefers to read whole tables.
            ("random_page_cost", "1.1".to_owned()),
            // Every statement here is short; compiling one takes longer than running it.
            ("jit", "off".to_owned()),
        ];
        let local: String = values
            .iter()
            .map(|(name, value)| format!("; SET LOCAL {name} = '{value}'"))
            .collect();
        // No numbers with a fraction are read here, and poolers refuse the parameter.
        let plain = settings.extra_float_digits(None);
        Ok(Self {
            direct: plain.clone().options(values).options([(MARK, "direct")]),
            plain,
            local: local.into(),
            pooled: Arc::new(AtomicBool::new(pooled)),
        })
    }

    /// The host and port, for messages.
    pub(crate) fn target(&self) -> String {
        format!("{}:{}", self.plain.get_host(), self.plain.get_port())
    }

    /// The settings of a direct connection.
    #[cfg(test)]
    pub(crate) fn direct(&self) -> &PgConnectOptions {
        &self.direct
    }

    /// Opens a connection. Not bounded in time: the caller does that.
    pub(crate) async fn open(&self) -> Result<PgConnection, sqlx::Error> {
        if self.pooled.load(Ordering::Relaxed) {
            return self.open_through_pooler().await;
        }
        match sqlx::PgConnection::connect_with(&self.direct).await {
            Ok(mut raw) => {
                let arrived = raw_sql("SELECT current_setting('streamhouse.session', true) = 'direct'");
                let arrived = arrived.fetch_one(&mut raw).await?;
                if arrived.try_get::<Option<bool>, _>(0)? == Some(true) {
                    return Ok(PgConnection::new(raw, None));
                }
                self.found_pooler();
                Ok(PgConnection::new(raw, Some(self.local.clone())))
            }
            Err(sqlx::Error::Database(error)) if is_refused_setting(error.code().as_deref()) => {
                let conn = self.open_through_pooler().await?;
                self.found_pooler();
                Ok(conn)
            }
            Err(error) => Err(error),
        }
    }

    async fn open_through_pooler(&self) -> Result<PgConnection, sqlx::Error> {
        let raw = sqlx::PgConnection::connect_with(&self.plain).await?;
        Ok(PgConnection::new(raw, Some(self.local.clone())))
    }

    fn found_pooler(&self) {
        if !self.pooled.swap(true, Ordering::Relaxed) {
            tracing::info!(
                target = self.target(),
                "a connection pooler stands before PostgreSQL: statements are not prepared, which costs commits per second"
            );
        }
    }
}

/// Protocol violation, as PgBouncer says it, and feature not supported, as other poolers do.
fn is_refused_setting(code: Option<&str>) -> bool {
    matches!(code, Some("08P01" | "0A000"))
}

/// How a call uses its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// One statement, or several that are each enough for themselves.
    Statement,
    /// A transaction.
    Transaction,
    /// A transaction that only reads, and sees one moment.
    Moment,
}

/// A connection. Stands in for the driver's own, and keeps statements unnamed where a pooler wants that.
pub(crate) struct PgConnection {
    raw: sqlx::PgConnection,
    /// What each transaction sets; `None` for a session of its own.
    local: Option<Arc<str>>,
    opened: Instant,
}

impl fmt::Debug for PgConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgConnection")
            .field("pooled", &self.is_pooled())
            .finish_non_exhaustive()
    }
}

impl PgConnection {
    fn new(raw: sqlx::PgConnection, local: Option<Arc<str>>) -> Self {
        Self {
            raw,
            local,
            opened: Instant::now(),
        }
    }

    /// Whether a pooler stands in between.
    pub(crate) fn is_pooled(&self) -> bool {
        self.local.is_some()
    }

    /// How long ago it was opened.
    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Begins what `scope` says; says whether a transaction is open now.
    pub(crate) async fn begin(&mut self, scope: Scope) -> Result<bool, sqlx::Error> {
        let begin = match (scope, &self.local) {
            (Scope::Statement, None) => return Ok(false),
            // A statement needs two messages: through a pooler only a transaction keeps them on one connection.
            (Scope::Statement | Scope::Transaction, _) => "BEGIN",
            (Scope::Moment, _) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        let local = self.local.as_deref().unwrap_or_default();
        self.run(&format!("{begin}{local}")).await?;
        Ok(true)
    }

    /// Commits.
    pub(crate) async fn commit(&mut self) -> Result<(), sqlx::Error> {
        self.run("COMMIT").await
    }

    /// Rolls back.
    pub(crate) async fn rollback(&mut self) -> Result<(), sqlx::Error> {
        self.run("ROLLBACK").await
    }

    /// Asks the server whether it is there.
    pub(crate) async fn ping(&mut self) -> Result<(), sqlx::Error> {
        self.raw.ping().await
    }

    /// Closes it with a word to the server.
    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        self.raw.close().await
    }

    /// The driver's connection.
    pub(crate) fn raw(&mut self) -> &mut sqlx::PgConnection {
        &mut self.raw
    }

    /// Runs statements of ours that need no arguments and are not prepared.
    pub(crate) async fn run(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut self.raw)
            .await?;
        Ok(())
    }
}

/// A query whose statement gets no name: it is gone with the next one.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
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

impl<'c> Executor<'c> for &'c mut PgConnection {
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
            self.raw.fetch_many(Unnamed(query))
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
            self.raw.fetch_optional(Unnamed(query))
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
