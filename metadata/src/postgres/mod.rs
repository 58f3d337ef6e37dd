//! The metadata store in PostgreSQL: production. Read committed with explicit row locks; see `agents` for their order. Each
//! call is bounded in time: acquiring a connection, each statement, each lock, and a transaction left standing.

mod agents;
mod commit;
mod errors;
mod garbage;
mod groups;
mod leases;
mod log;
mod migrate;
mod owners;
#[cfg(test)]
mod plans;
mod segments;
mod tls;
mod topics;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{
    Connection, PgConnection, PgPool, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use self::errors::{meaning, refusal};
pub(crate) use self::migrate::{drop_schema, live_agent, migrate, schema};
use crate::{
    AgentRegistration, CommitOutcome, CommittedOffset, ConnectOptions, Error, Garbage, GarbagePolicy,
    GroupLag, GroupQuery, GroupRecord, GroupWrite, Incarnation, Lease, LeaseMove, LogBounds, LogPosition,
    LogView, MetadataStore, MoveOutcome, NewSegment, NewTopic, ObjectCommit, OffsetCommit, OffsetOutcome,
    PartitionUid, Registered, Renewed, Result, SegmentIntent, Snapshot, TopicChange, TopicOwner, TopicRecord,
    TopicsOverview,
    failure::{Outcome, attempts, transact},
};

/// A connection that lay idle for longer is asked whether it still lives before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// The store.
pub(crate) struct PostgresStore {
    pool: PgPool,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the pool: its settings hold the password.
        f.debug_struct("PostgresStore")
            .field("connections", &self.pool.size())
            .finish_non_exhaustive()
    }
}

/// What every connection is set to.
pub(crate) fn settings(url: &str, options: &ConnectOptions) -> Result<PgConnectOptions> {
    let settings = PgConnectOptions::from_str(url)
        .map_err(|error| Error::Unavailable(format!("the PostgreSQL address cannot be read: {error}")))?;
    let settings = match &options.tls {
        Some(tls) => tls::apply(settings, tls)?,
        None => settings,
    };
    let timeout = options.statement_timeout.as_millis().to_string();
    Ok(settings.application_name(&options.application_name).options([
        ("statement_timeout", timeout.as_str()),
        ("lock_timeout", timeout.as_str()),
        ("idle_in_transaction_session_timeout", timeout.as_str()),
        // Rows are found by index in memory or on flash: the default, made for turning disks, prefers to read whole tables.
        ("random_page_cost", "1.1"),
        // Every statement here is short; compiling one takes longer than running it.
        ("jit", "off"),
    ]))
}

/// One connection outside the pool, with the true reason when there is none.
async fn connect_once(settings: &PgConnectOptions, options: &ConnectOptions) -> Result<PgConnection> {
    match tokio::time::timeout(options.acquire_timeout, PgConnection::connect_with(settings)).await {
        Ok(connected) => connected.map_err(refusal),
        Err(_) => Err(Error::Unavailable(format!(
            "PostgreSQL at {}:{} does not answer",
            settings.get_host(),
            settings.get_port()
        ))),
    }
}

/// Opens the store and checks its schema.
pub(crate) async fn connect(url: &str, options: &ConnectOptions) -> Result<Arc<dyn MetadataStore>> {
    let settings = settings(url, options)?;
    let mut first = connect_once(&settings, options).await?;
    migrate::check(&mut first).await?;
    first.close().await.map_err(refusal)?;
    let pool = PgPoolOptions::new()
        .max_connections(options.max_connections.max(1))
        .acquire_timeout(options.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|conn, idle| {
            Box::pin(async move {
                if idle.idle_for > TRUSTED_IDLE {
                    conn.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(settings);
    Ok(Arc::new(PostgresStore { pool }))
}

impl PostgresStore {
    async fn begin(&self) -> Outcome<Transaction<'static, Postgres>> {
        Ok(self.pool.begin().await?)
    }

    /// A transaction that sees one moment.
    async fn moment(&self) -> Outcome<Transaction<'static, Postgres>> {
        Ok(self
            .pool
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?)
    }

    /// Seals others whose lease has expired. The caller's renewal stands, so a failure is only told.
    async fn seal_expired(&self) -> Option<Renewed> {
        let sealed: Result<Option<Renewed>> =
            transact!(self.begin(), meaning, tx => agents::seal_expired(&mut tx));
        sealed.unwrap_or_else(|error| {
            tracing::warn!(%error, "agents whose lease expired could not be sealed; the next renewal tries again");
            None
        })
    }
}

/// Runs `$body` on connection `$conn`, outside any transaction: one statement, or several that are each enough for themselves.
macro_rules! statement {
    ($store:expr, $conn:ident => $body:expr) => {
        attempts!(meaning, async {
            let mut $conn = $store.pool.acquire().await?;
            $body.await
        })
    };
}

#[async_trait]
impl MetadataStore for PostgresStore {
    async fn ping(&self) -> Result<()> {
        statement!(self, conn => leases::version(&mut conn)).map(|_| ())
    }

    async fn register_agent(&self, registration: &AgentRegistration) -> Result<Registered> {
        transact!(self.begin(), meaning, tx => agents::register(&mut tx, registration))
    }

    async fn renew(&self, incarnation: Incarnation) -> Result<Renewed> {
        let (renewed, expired) = statement!(self, conn => agents::renew(&mut conn, incarnation))?;
        let sealed = if expired { self.seal_expired().await } else { None };
        Ok(sealed.unwrap_or(renewed))
    }

    async fn drain(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self.begin(), meaning, tx => agents::drain(&mut tx, incarnation))
    }

    async fn seal(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self.begin(), meaning, tx => agents::seal(&mut tx, incarnation))
    }

    async fn snapshot(&self, known: Option<u64>) -> Result<Option<Snapshot>> {
        if let Some(known) = known
            && statement!(self, conn => leases::version(&mut conn))? == known
        {
            return Ok(None);
        }
        let snapshot: Result<Snapshot> = transact!(self.moment(), meaning, tx => leases::snapshot(&mut tx));
        snapshot.map(Some)
    }

    async fn move_leases(&self, moves: &[LeaseMove]) -> Result<Vec<MoveOutcome>> {
        transact!(self.begin(), meaning, tx => leases::move_leases(&mut tx, moves))
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<TopicRecord> {
        transact!(self.begin(), meaning, tx => topics::create(&mut tx, topic))
    }

    async fn alter_topic(&self, name: &str, change: &TopicChange) -> Result<TopicRecord> {
        transact!(self.begin(), meaning, tx => topics::alter(&mut tx, name, change))
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        transact!(self.begin(), meaning, tx => topics::delete(&mut tx, name))
    }

    async fn claim_topic(&self, name: &str, owner: &TopicOwner) -> Result<TopicOwner> {
        statement!(self, conn => owners::claim(&mut conn, name, owner))
    }

    async fn release_topic(&self, name: &str, uid: &str) -> Result<bool> {
        statement!(self, conn => owners::release(&mut conn, name, uid))
    }

    async fn topics_overview(&self) -> Result<TopicsOverview> {
        statement!(self, conn => owners::topics_overview(&mut conn))
    }

    async fn allocate_producer_id(&self) -> Result<i64> {
        statement!(self, conn => log::allocate_producer_id(&mut conn))
    }

    async fn commit_object(&self, commit: &ObjectCommit) -> Result<CommitOutcome> {
        transact!(self.begin(), meaning, tx => commit::commit_object(&mut tx, commit))
    }

    async fn read_log(&self, partition: PartitionUid, from: LogPosition, limit: usize) -> Result<LogView> {
        statement!(self, conn => log::read(&mut conn, partition, from, limit))
    }

    async fn bounds(&self, partitions: &[PartitionUid]) -> Result<Vec<(PartitionUid, LogBounds)>> {
        statement!(self, conn => log::bounds(&mut conn, partitions))
    }

    async fn begin_segment(&self, lease: Lease, base_offset: i64) -> Result<SegmentIntent> {
        transact!(self.begin(), meaning, tx => segments::begin(&mut tx, lease, base_offset))
    }

    async fn finish_segment(&self, lease: Lease, segment: &NewSegment) -> Result<()> {
        transact!(self.begin(), meaning, tx => segments::finish(&mut tx, lease, segment))
    }

    async fn advance_log_start(&self, lease: Lease, log_start: i64) -> Result<i64> {
        transact!(self.begin(), meaning, tx => segments::advance(&mut tx, lease, log_start))
    }

    async fn garbage(&self, policy: &GarbagePolicy, limit: usize) -> Result<Garbage> {
        // Each step is a transaction of its own: short, and done even when a later one fails.
        let purged: Result<bool> = transact!(self.begin(), meaning, tx => garbage::purge(&mut tx));
        let producers: Result<bool> = statement!(self, conn => garbage::expire_producers(&mut conn, policy));
        let offsets: Result<bool> =
            transact!(self.begin(), meaning, tx => garbage::expire_offsets(&mut tx, policy));
        let lives: Result<bool> =
            transact!(self.begin(), meaning, tx => garbage::forget_lives(&mut tx, policy));
        let found: Result<Garbage> =
            statement!(self, conn => garbage::unreferenced(&mut conn, policy, limit));
        let more = purged? | producers? | offsets? | lives?;
        found.map(|found| Garbage {
            more: found.more | more,
            ..found
        })
    }

    async fn confirm_deleted(&self, keys: &[String]) -> Result<()> {
        transact!(self.begin(), meaning, tx => garbage::confirm(&mut tx, keys))
    }

    async fn orphans(&self, incarnation: Incarnation, sequences: &[u64]) -> Result<Vec<u64>> {
        statement!(self, conn => garbage::orphans(&mut conn, incarnation, sequences))
    }

    async fn mark_swept(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self.begin(), meaning, tx => garbage::mark_swept(&mut tx, incarnation))
    }

    async fn groups(&self, which: &GroupQuery) -> Result<Vec<GroupRecord>> {
        statement!(self, conn => groups::groups(&mut conn, which))
    }

    async fn put_group(&self, lease: Lease, group: &GroupWrite) -> Result<()> {
        transact!(self.begin(), meaning, tx => groups::put(&mut tx, lease, group))
    }

    async fn commit_offsets(&self, lease: Lease, commit: &OffsetCommit) -> Result<Vec<OffsetOutcome>> {
        transact!(self.begin(), meaning, tx => groups::commit_offsets(&mut tx, lease, commit))
    }

    async fn group_lags(&self, slots: &[i32], limit: usize) -> Result<Vec<GroupLag>> {
        statement!(self, conn => groups::lags(&mut conn, slots, limit))
    }

    async fn fetch_offsets(&self, group_id: &str) -> Result<Vec<CommittedOffset>> {
        statement!(self, conn => groups::fetch_offsets(&mut conn, group_id))
    }
}
