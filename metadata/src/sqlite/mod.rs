//! The metadata store in one SQLite file: the embedded default. One connection writes, so transactions come one by one;
//! readers have their own. A commit is on disk before it returns (WAL journal, synchronous=FULL).

mod agents;
mod commit;
mod garbage;
mod groups;
mod log;
mod migrate;
mod owners;
mod segments;
mod topics;

use std::{fmt, str::FromStr, sync::Arc};

use async_trait::async_trait;
use sqlx::{
    Sqlite, SqliteConnection, SqlitePool, Transaction, query, query_scalar,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub(crate) use self::migrate::{drop_schema, live_agent, migrate, schema};
use crate::{
    AgentRegistration, CommitOutcome, CommittedOffset, ConnectOptions, Error, Garbage, GarbagePolicy,
    GroupLag, GroupQuery, GroupRecord, GroupWrite, Incarnation, Lease, LeaseMove, LogBounds, LogPosition,
    LogView, MetadataStore, MoveOutcome, NewSegment, NewTopic, ObjectCommit, OffsetCommit, OffsetOutcome,
    PartitionUid, Registered, Renewed, Result, SegmentIntent, Snapshot, TopicChange, TopicOwner, TopicRecord,
    TopicsOverview,
    failure::{Meaning, Outcome, transact},
    rows::unsigned,
};

/// The store.
pub(crate) struct SqliteStore {
    /// One connection: SQLite has one writer anyway, and so nobody waits for a lock inside SQLite.
    writer: SqlitePool,
    /// The same pool for a store in memory, which lives in its one connection.
    reader: SqlitePool,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

/// Opens the store, creates it when it is not there, and migrates it.
pub(crate) async fn connect(url: &str, options: &ConnectOptions) -> Result<Arc<dyn MetadataStore>> {
    let in_memory = url.contains(":memory:") || url.contains("mode=memory");
    let settings = connect_options(url)?.busy_timeout(options.statement_timeout);
    let pool = |connections| {
        SqlitePoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(options.acquire_timeout)
            // A store in memory is gone with its connection.
            .min_connections(u32::from(in_memory))
            .idle_timeout(None)
            .max_lifetime(None)
            // A connection to a file does not break by itself.
            .test_before_acquire(false)
    };
    let writer = pool(1).connect_with(settings.clone()).await.map_err(refusal)?;
    migrate::run(&writer).await?;
    let reader = if in_memory {
        writer.clone()
    } else {
        pool(options.max_connections.max(1))
            .connect_with(settings.read_only(true))
            .await
            .map_err(refusal)?
    };
    Ok(Arc::new(SqliteStore { writer, reader }))
}

/// The address.
fn parse(url: &str) -> Result<SqliteConnectOptions> {
    SqliteConnectOptions::from_str(url).map_err(|error| {
        Error::Unavailable(format!(
            "the SQLite address cannot be read: {error}; write sqlite:PATH"
        ))
    })
}

/// What every connection is set to.
fn connect_options(url: &str) -> Result<SqliteConnectOptions> {
    Ok(parse(url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .statement_cache_capacity(200))
}

/// What an error of SQLite means.
fn meaning(error: sqlx::Error) -> Meaning {
    let code = error
        .as_database_error()
        .and_then(|error| error.code())
        .and_then(|code| code.parse::<i32>().ok());
    let text = error.to_string();
    // The low byte of an extended code is the kind of failure: https://sqlite.org/rescode.html
    match code.map(|code| code & 0xff) {
        // BUSY, LOCKED: another process holds the file.
        Some(5 | 6) => Meaning::TryAgain(Error::Unavailable(text)),
        // READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL.
        Some(8 | 9 | 10 | 13 | 14 | 15) => Meaning::Final(Error::Unavailable(text)),
        // CORRUPT, NOTADB.
        Some(11 | 26) => Meaning::Final(Error::Inconsistent(format!("the SQLite file is damaged: {text}"))),
        Some(_) => Meaning::Final(Error::Inconsistent(text)),
        None => Meaning::Final(match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
                Error::Inconsistent(text)
            }
            _ => Error::Unavailable(text),
        }),
    }
}

/// The crate's error for an error of SQLite.
fn refusal(error: sqlx::Error) -> Error {
    match meaning(error) {
        Meaning::TryAgain(error) | Meaning::Final(error) => error,
    }
}

/// The time in milliseconds: SQLite's, which is the computer's.
async fn now(conn: &mut SqliteConnection) -> Outcome<i64> {
    Ok(query_scalar("SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)")
        .fetch_one(conn)
        .await?)
}

/// The version of the snapshot.
async fn version(conn: &mut SqliteConnection) -> Outcome<u64> {
    let version = query_scalar("SELECT version FROM cluster")
        .fetch_one(conn)
        .await?;
    Ok(unsigned("the version", version)?)
}

impl SqliteStore {
    /// A transaction that may write: it takes the write lock at once, so it cannot fail half way for want of it.
    async fn write(&self) -> Outcome<Transaction<'static, Sqlite>> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// A transaction that sees one moment.
    async fn read(&self) -> Outcome<Transaction<'static, Sqlite>> {
        Ok(self.reader.begin().await?)
    }
}

#[async_trait]
impl MetadataStore for SqliteStore {
    async fn ping(&self) -> Result<()> {
        query("SELECT version FROM cluster")
            .execute(&self.reader)
            .await
            .map_err(refusal)?;
        Ok(())
    }

    async fn register_agent(&self, registration: &AgentRegistration) -> Result<Registered> {
        transact!(self.write(), meaning, tx => agents::register(&mut tx, registration))
    }

    async fn renew(&self, incarnation: Incarnation) -> Result<Renewed> {
        transact!(self.write(), meaning, tx => agents::renew(&mut tx, incarnation))
    }

    async fn drain(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self.write(), meaning, tx => agents::drain(&mut tx, incarnation))
    }

    async fn seal(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self.write(), meaning, tx => agents::seal(&mut tx, incarnation))
    }

    async fn snapshot(&self, known: Option<u64>) -> Result<Option<Snapshot>> {
        transact!(self.read(), meaning, tx => agents::snapshot(&mut tx, known))
    }

    async fn move_leases(&self, moves: &[LeaseMove]) -> Result<Vec<MoveOutcome>> {
        transact!(self.write(), meaning, tx => agents::move_leases(&mut tx, moves))
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<TopicRecord> {
        transact!(self.write(), meaning, tx => topics::create(&mut tx, topic))
    }

    async fn alter_topic(&self, name: &str, change: &TopicChange) -> Result<TopicRecord> {
        transact!(self.write(), meaning, tx => topics::alter(&mut tx, name, change))
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        transact!(self.write(), meaning, tx => topics::delete(&mut tx, name))
    }

    async fn claim_topic(&self, name: &str, owner: &TopicOwner) -> Result<TopicOwner> {
        transact!(self.write(), meaning, tx => owners::claim(&mut tx, name, owner))
    }

    async fn release_topic(&self, name: &str, uid: &str) -> Result<bool> {
        transact!(self.write(), meaning, tx => owners::release(&mut tx, name, uid))
    }

    async fn topics_overview(&self) -> Result<TopicsOverview> {
        transact!(self.read(), meaning, tx => owners::topics_overview(&mut tx))
    }

    async fn allocate_producer_id(&self) -> Result<i64> {
        transact!(self.write(), meaning, tx => log::allocate_producer_id(&mut tx))
    }

    async fn commit_object(&self, commit: &ObjectCommit) -> Result<CommitOutcome> {
        transact!(self.write(), meaning, tx => commit::commit_object(&mut tx, commit))
    }

    async fn read_log(&self, partition: PartitionUid, from: LogPosition, limit: usize) -> Result<LogView> {
        transact!(self.read(), meaning, tx => log::read(&mut tx, partition, from, limit))
    }

    async fn bounds(&self, partitions: &[PartitionUid]) -> Result<Vec<(PartitionUid, LogBounds)>> {
        transact!(self.read(), meaning, tx => log::bounds(&mut tx, partitions))
    }

    async fn begin_segment(&self, lease: Lease, base_offset: i64) -> Result<SegmentIntent> {
        transact!(self.write(), meaning, tx => segments::begin(&mut tx, lease, base_offset))
    }

    async fn finish_segment(&self, lease: Lease, segment: &NewSegment) -> Result<()> {
        transact!(self.write(), meaning, tx => segments::finish(&mut tx, lease, segment))
    }

    async fn advance_log_start(&self, lease: Lease, log_start: i64) -> Result<i64> {
        transact!(self.write(), meaning, tx => segments::advance(&mut tx, lease, log_start))
    }

    async fn garbage(&self, policy: &GarbagePolicy, limit: usize) -> Result<Garbage> {
        transact!(self.write(), meaning, tx => garbage::garbage(&mut tx, policy, limit))
    }

    async fn confirm_deleted(&self, keys: &[String]) -> Result<()> {
        transact!(self.write(), meaning, tx => garbage::confirm(&mut tx, keys))
    }

    async fn orphans(&self, incarnation: Incarnation, sequences: &[u64]) -> Result<Vec<u64>> {
        transact!(self.read(), meaning, tx => garbage::orphans(&mut tx, incarnation, sequences))
    }

    async fn mark_swept(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self.write(), meaning, tx => garbage::mark_swept(&mut tx, incarnation))
    }

    async fn groups(&self, which: &GroupQuery) -> Result<Vec<GroupRecord>> {
        transact!(self.read(), meaning, tx => groups::groups(&mut tx, which))
    }

    async fn put_group(&self, lease: Lease, group: &GroupWrite) -> Result<()> {
        transact!(self.write(), meaning, tx => groups::put(&mut tx, lease, group))
    }

    async fn commit_offsets(&self, lease: Lease, commit: &OffsetCommit) -> Result<Vec<OffsetOutcome>> {
        transact!(self.write(), meaning, tx => groups::commit_offsets(&mut tx, lease, commit))
    }

    async fn group_lags(&self, slots: &[i32], limit: usize) -> Result<Vec<GroupLag>> {
        transact!(self.read(), meaning, tx => groups::lags(&mut tx, slots, limit))
    }

    async fn fetch_offsets(&self, group_id: &str) -> Result<Vec<CommittedOffset>> {
        transact!(self.read(), meaning, tx => groups::fetch_offsets(&mut tx, group_id))
    }
}
